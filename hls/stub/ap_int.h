// A small stand-in for the ap_int.h of Vitis HLS, written for hwgen: enough of it for C simulation of the kernels.
//
// ap_int<W>, ap_uint<W> up to 63 bits: an integer that wraps to W bits on every assignment; arithmetic happens in the built-in
// integer it converts to, so an expression's result must be assigned to a type wide enough for it.
// ap_uint<W> of more bits: a bus word; only assignment, comparison and range(high, low) of at most 32 bits, which the others have too.
#ifndef HWGEN_STUB_AP_INT_H
#define HWGEN_STUB_AP_INT_H

#include <cstdint>

namespace hwgen_stub {

/// The low W bits of x, sign-extended.
template <int W>
constexpr std::int64_t wrap_signed(std::int64_t x)
{
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(x) << (64 - W)) >> (64 - W);
}

/// The low W bits of x.
template <int W>
constexpr std::int64_t wrap_unsigned(std::int64_t x)
{
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(x) & ((std::uint64_t{1} << W) - 1));
}

/// Some bits of a bus word: reads as an unsigned number, can be assigned.
template <class Word>
class Range {
public:
    Range(Word &word, int high, int low) : word_(word), high_(high), low_(low) {}
    Range &operator=(std::uint64_t value)
    {
        for (int bit = low_; bit <= high_; ++bit) {
            word_.set_bit(bit, ((value >> (bit - low_)) & 1U) != 0);
        }
        return *this;
    }
    std::uint64_t to_uint64() const { return word_.bits(high_, low_); }
    unsigned to_uint() const { return static_cast<unsigned>(to_uint64()); }

private:
    Word &word_;
    int high_;
    int low_;
};

}  // namespace hwgen_stub

/// Signed integer of W bits, W < 65.
template <int W>
class ap_int {
    static_assert(W >= 1 && W <= 64, "this stand-in holds at most 64 bits");

public:
    constexpr ap_int() : value_(0) {}
    constexpr ap_int(std::int64_t x) : value_(hwgen_stub::wrap_signed<W>(x)) {}  // NOLINT(google-explicit-constructor)
    constexpr operator std::int64_t() const { return value_; }                   // NOLINT(google-explicit-constructor)
    constexpr int to_int() const { return static_cast<int>(value_); }
    constexpr std::int64_t to_int64() const { return value_; }

private:
    std::int64_t value_;
};

/// Unsigned integer of W bits (W < 64), or a bus word (W >= 64).
template <int W, bool WIDE = (W >= 64)>
class ap_uint;

template <int W>
class ap_uint<W, false> {
public:
    constexpr ap_uint() : value_(0) {}
    constexpr ap_uint(std::int64_t x) : value_(hwgen_stub::wrap_unsigned<W>(x)) {}  // NOLINT(google-explicit-constructor)
    constexpr operator std::int64_t() const { return value_; }                      // NOLINT(google-explicit-constructor)
    constexpr int to_int() const { return static_cast<int>(value_); }
    constexpr unsigned to_uint() const { return static_cast<unsigned>(value_); }
    constexpr std::int64_t to_int64() const { return value_; }
    hwgen_stub::Range<ap_uint> range(int high, int low) { return hwgen_stub::Range<ap_uint>(*this, high, low); }
    hwgen_stub::Range<const ap_uint> range(int high, int low) const { return hwgen_stub::Range<const ap_uint>(*this, high, low); }

    void set_bit(int bit, bool value)
    {
        const std::int64_t mask = std::int64_t{1} << bit;
        value_ = value ? value_ | mask : value_ & ~mask;
    }
    std::uint64_t bits(int high, int low) const
    {
        return (static_cast<std::uint64_t>(value_) >> low) & ((std::uint64_t{1} << (high - low + 1)) - 1);
    }

private:
    std::int64_t value_;
};

template <int W>
class ap_uint<W, true> {
public:
    ap_uint() : words_{} {}
    ap_uint(std::uint64_t low) : words_{} { words_[0] = low; }  // NOLINT(google-explicit-constructor)
    hwgen_stub::Range<ap_uint> range(int high, int low) { return hwgen_stub::Range<ap_uint>(*this, high, low); }
    hwgen_stub::Range<const ap_uint> range(int high, int low) const { return hwgen_stub::Range<const ap_uint>(*this, high, low); }
    bool operator==(const ap_uint &other) const
    {
        for (int i = 0; i < WORDS; ++i) {
            if (words_[i] != other.words_[i]) {
                return false;
            }
        }
        return true;
    }

    void set_bit(int bit, bool value)
    {
        const std::uint64_t mask = std::uint64_t{1} << (bit % 64);
        words_[bit / 64] = value ? words_[bit / 64] | mask : words_[bit / 64] & ~mask;
    }
    std::uint64_t bits(int high, int low) const
    {
        const int count = high - low + 1;
        std::uint64_t value = words_[low / 64] >> (low % 64);
        if (low % 64 + count > 64) {
            value |= words_[low / 64 + 1] << (64 - low % 64);
        }
        return count == 64 ? value : value & ((std::uint64_t{1} << count) - 1);
    }

private:
    static constexpr int WORDS = (W + 63) / 64;
    std::uint64_t words_[WORDS];
};

#endif
