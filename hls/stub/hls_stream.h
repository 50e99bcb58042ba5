// A small stand-in for the hls_stream.h of Vitis HLS, written for hwgen: an unbounded queue for C simulation.
#ifndef HWGEN_STUB_HLS_STREAM_H
#define HWGEN_STUB_HLS_STREAM_H

#include <cstdio>
#include <cstdlib>
#include <queue>

namespace hls {

template <class T>
class stream {
public:
    explicit stream(const char *name = "stream") : name_(name) {}
    stream(const stream &) = delete;
    stream &operator=(const stream &) = delete;

    void write(const T &value) { queue_.push(value); }
    bool empty() const { return queue_.empty(); }
    T read()
    {
        if (queue_.empty()) {
            std::fprintf(stderr, "error: read from the empty stream %s\n", name_);
            std::exit(3);
        }
        T value = queue_.front();
        queue_.pop();
        return value;
    }

private:
    std::queue<T> queue_;
    const char *name_;
};

}  // namespace hls

#endif
