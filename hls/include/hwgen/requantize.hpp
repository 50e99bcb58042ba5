// The only rounding rule of the project: multiply, round half up, shift, saturate. See hwgen/numerics.py.
#ifndef HWGEN_REQUANTIZE_HPP
#define HWGEN_REQUANTIZE_HPP

#include "hwgen/types.hpp"

namespace hwgen {

/// A requantizer with a constant factor.
struct Factor {
    std::uint16_t mult;
    std::uint8_t shift;
};

/// The same with the types of the hardware, or computed at run time.
struct Scale {
    Mult mult;
    Shift shift;
};

/// A constant factor as a scale.
inline Scale scale_of(Factor factor)
{
#pragma HLS INLINE
    return Scale{Mult(factor.mult), Shift(factor.shift)};
}

/// The multiplier of a code r * 64 + m: (64 + m) * 2**(9 - r).
inline Mult short_multiplier(unsigned code)
{
#pragma HLS INLINE
    const unsigned right = code >> 6U;
    return Mult(right > 9U ? 0U : (64U + (code & 63U)) << (9U - right));
}

/// A number kept between the symmetric limits of BITS bits.
template <int BITS>
inline int saturate(std::int64_t x)
{
#pragma HLS INLINE
    constexpr std::int64_t LIMIT = (std::int64_t{1} << (BITS - 1)) - 1;
    return static_cast<int>(x > LIMIT ? LIMIT : (x < -LIMIT ? -LIMIT : x));
}

/// x / 2**shift, rounded half towards +infinity; shift 0 is allowed.
inline std::int64_t round_shift(std::int64_t x, unsigned shift)
{
#pragma HLS INLINE
    const std::int64_t half = (std::int64_t{1} << shift) >> 1;
    return (x + half) >> shift;
}

/// x * mult / 2**shift, rounded half up, saturated to all of the numbers of BITS bits.
template <int BITS>
inline int whole(std::int64_t x, const Scale &scale)
{
#pragma HLS INLINE
    constexpr std::int64_t LIMIT = std::int64_t{1} << (BITS - 1);
    const ap_int<52> product = x * scale.mult.to_int64();
    const std::int64_t y = round_shift(product.to_int64(), scale.shift.to_uint());
    return static_cast<int>(y >= LIMIT ? LIMIT - 1 : (y < -LIMIT ? -LIMIT : y));
}

/// acc * mult / 2**shift, rounded half up, saturated to BITS bits.
template <int BITS>
inline int requantize(std::int64_t acc, const Scale &scale)
{
#pragma HLS INLINE
    const ap_int<36> narrow = acc;  // widest user: int32 accumulators and the norm's int20
    const ap_int<52> product = narrow.to_int64() * scale.mult.to_int64();
    return saturate<BITS>(round_shift(product.to_int64(), scale.shift.to_uint()));
}

}  // namespace hwgen

#endif
