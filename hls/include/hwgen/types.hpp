// Types of every kernel. The headers come from Vitis HLS, from the open Apache-licensed copies, or from hls/stub: the include
// path decides, the words computed are the same. Only integers are used, so there is no ap_fixed.
#ifndef HWGEN_TYPES_HPP
#define HWGEN_TYPES_HPP

#include <cstdint>

#include <ap_int.h>
#include <hls_stream.h>

namespace hwgen {

using Act = std::int8_t;   ///< activation or weight, -127 .. 127
using Res = std::int16_t;  ///< residual stream, score, logit, pre-activation, -32767 .. 32767
using Wide = std::int32_t; ///< word of 16 bits on its way into two halves, -32768 .. 32767
using Acc = std::int32_t;  ///< accumulator; the compiler has proved that it cannot overflow
using Mult = ap_uint<16>;  ///< multiplier of a requantizer
using Shift = ap_uint<6>;  ///< its shift, 1 .. 47

/// A word of 16 bits is 256 * high half + low half + 128; the halves lie at the same place of two memories.
inline Act high_half(Wide word)
{
#pragma HLS INLINE
    return static_cast<Act>(word >> 8);
}
inline Act low_half(Wide word)
{
#pragma HLS INLINE
    return static_cast<Act>((word & 255) - 128);
}

/// A bus or memory word of LANES bytes.
template <unsigned LANES>
using Word = ap_uint<static_cast<int>(8 * LANES)>;

/// Byte `lane` of a word.
template <unsigned LANES>
inline unsigned byte_of(const Word<LANES> &word, unsigned lane)
{
#pragma HLS INLINE
    const int low = static_cast<int>(8 * lane);
    return word.range(low + 7, low).to_uint() & 255U;
}

/// The same as int8.
template <unsigned LANES>
inline Act lane_of(const Word<LANES> &word, unsigned lane)
{
#pragma HLS INLINE
    const int value = static_cast<int>(byte_of<LANES>(word, lane));
    return static_cast<Act>(value < 128 ? value : value - 256);
}

/// Bytes 2 * half and 2 * half + 1 of a word, little endian, as int16.
template <unsigned LANES>
inline Res half_of(const Word<LANES> &word, unsigned half)
{
#pragma HLS INLINE
    const int value = static_cast<int>(byte_of<LANES>(word, 2 * half) | (byte_of<LANES>(word, 2 * half + 1) << 8));
    return static_cast<Res>(value < 32768 ? value : value - 65536);
}

/// Words of `lanes` that hold `channels`.
constexpr unsigned words_of(unsigned channels, unsigned lanes)
{
    return (channels + lanes - 1) / lanes;
}

}  // namespace hwgen

#endif
