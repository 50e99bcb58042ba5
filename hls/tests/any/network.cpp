// Reads a network before main starts: int64 words, six sizes and then the fields of every step in the order of hwgen::Step.
// Ends with a message when a size exceeds the engine's.
#include <cstdlib>

#include "hwgen/weight_file.hpp"
#include "hwgen_program.hpp"

hwgen::Step PROGRAM[256];
unsigned NUM_STEPS = 0;
unsigned NUM_TASKS = 0;
unsigned INPUT_WORDS = 0;
unsigned OUTPUT_WORDS = 0;
unsigned WEIGHT_WORDS = 0;
unsigned WEIGHT_DIGEST = 0;

namespace {

[[noreturn]] void fail(const char *message)
{
    std::fprintf(stderr, "error: the network %s\n", message);
    std::exit(2);
}

class Reader {
public:
    explicit Reader(const char *path)
    {
        if (path == nullptr || !hwgen::read_file(path, bytes_)) {
            fail("cannot be read");
        }
    }
    template <class T>
    void operator()(T &field)
    {
        if (place_ + 8 > bytes_.size()) {
            fail("ends too early");
        }
        field = static_cast<T>(hwgen::little_endian(&bytes_[place_], 8));
        place_ += 8;
    }
    void operator()(hwgen::Factor &factor)
    {
        (*this)(factor.mult);
        (*this)(factor.shift);
    }
    bool at_end() const { return place_ == bytes_.size(); }

private:
    std::vector<unsigned char> bytes_;
    std::size_t place_ = 0;
};

void read_network()
{
    Reader read(std::getenv("HWGEN_NETWORK"));
    for (unsigned *size : {&NUM_STEPS, &NUM_TASKS, &INPUT_WORDS, &OUTPUT_WORDS, &WEIGHT_WORDS, &WEIGHT_DIGEST}) {
        read(*size);
    }
    if (NUM_STEPS > sizeof(PROGRAM) / sizeof(PROGRAM[0])) {
        fail("has too many steps");
    }
    for (unsigned i = 0; i < NUM_STEPS; ++i) {
        hwgen::Step &s = PROGRAM[i];
        read(s.kind);
        read(s.task);
        read(s.target);
        read(s.renormalize);
        for (std::uint16_t *size :
             {&s.tokens, &s.dst_tokens, &s.first_token, &s.rows, &s.in_channels, &s.out_channels, &s.count, &s.size}) {
            read(*size);
        }
        for (std::uint32_t *address : {&s.src, &s.keys, &s.values, &s.dst}) {
            read(*address);
        }
        read(s.first);
        read(s.out);
        read(s.eps);
        read(s.weights);
        read(s.function);
        read(s.wide_source);
        read(s.wide_result);
        read(s.frac);
        read(s.limit);
        read(s.operand);
        read(s.follows);
        read(s.rms);
        read(s.fresh);
        read(s.stream);
        read(s.biased);
        read(s.value_size);
        read(s.taps);
        read(s.key_rows);
        read(s.mixed);
    }
    if (!read.at_end()) {
        fail("has more words than steps");
    }
}

struct Start {
    Start() { read_network(); }
} start;

}  // namespace
