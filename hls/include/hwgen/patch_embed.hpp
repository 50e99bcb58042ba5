// Patch embedding, the device's part: the host cuts the image into int8 patches (hwgen/steps/host.py, quantize_input)
// and lays them out word by word; here they are copied into the activation memory, from where the linear unit embeds them.
// The residual stream starts with a constant (position embedding, class token) that comes with the weights.
#ifndef HWGEN_PATCH_EMBED_HPP
#define HWGEN_PATCH_EMBED_HPP

#include "hwgen/requantize.hpp"

namespace hwgen {

/// Sizes of the unit.
struct PatchEmbedConfig {
    static constexpr unsigned LANES = 16;
};

/// A word -> a word of the activation memory.
template <class Config>
inline void set_act(const Word<Config::LANES> &word, Act act[Config::LANES])
{
#pragma HLS INLINE
    for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
        act[lane] = lane_of<Config::LANES>(word, lane);
    }
}

/// input, `count` words of a frame -> act [word][token] from word `dst` on.
template <class Config>
void load_patches(const Word<Config::LANES> *input, unsigned count, Act act[][Config::LANES], unsigned dst)
{
#pragma HLS INLINE off
    for (unsigned i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
        set_act<Config>(input[i], act[dst + i]);
    }
}

/// The same from the weight stream.
template <class Config>
void load_constant(hls::stream<Word<Config::LANES>> &weights, unsigned count, Act act[][Config::LANES], unsigned dst)
{
#pragma HLS INLINE off
    for (unsigned i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
        set_act<Config>(weights.read(), act[dst + i]);
    }
}

/// Word `i` of LANES bytes: half of residual word `i / 2`, which it becomes or, with `add`, is added to.
template <class Config>
inline void set_residual(const Word<Config::LANES> &word, unsigned i, bool add, Res residual[][Config::LANES])
{
#pragma HLS INLINE
    for (unsigned half = 0; half < Config::LANES / 2; ++half) {
#pragma HLS UNROLL
        Res &place = residual[i / 2][(i % 2) * (Config::LANES / 2) + half];
        const Res value = half_of<Config::LANES>(word, half);
        place = add ? static_cast<Res>(saturate<16>(place + value)) : value;
    }
}

/// `count` residual words of LANES int16, two words of the stream each; add: to those that are there.
template <class Config>
void load_residual(hls::stream<Word<Config::LANES>> &weights, unsigned count, bool add, Res residual[][Config::LANES])
{
#pragma HLS INLINE off
    for (unsigned i = 0; i < 2 * count; ++i) {
#pragma HLS PIPELINE II = 1
        set_residual<Config>(weights.read(), i, add, residual);
    }
}

/// The same from the input of the frame.
template <class Config>
void load_tokens(const Word<Config::LANES> *input, unsigned count, Res residual[][Config::LANES])
{
#pragma HLS INLINE off
    for (unsigned i = 0; i < 2 * count; ++i) {
#pragma HLS PIPELINE II = 1
        set_residual<Config>(input[i], i, false, residual);
    }
}

}  // namespace hwgen

#endif
