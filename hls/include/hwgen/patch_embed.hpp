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
    static constexpr bool LENGTHS = false;  ///< a frame may have fewer tokens than a stream that fills it
};

/// What comes: `words` words of `tokens` rows each, of which the first `kept` stay.
struct Rectangle {
    unsigned words;
    unsigned tokens;
    unsigned kept;
};

/// Where each row of a stream goes.
template <class Config>
struct Place {
    unsigned word = 0;
    unsigned token = 0;
    /// Whether the row stays; its word is `word`.
    bool stays(const Rectangle &size) const { return !Config::LENGTHS || token < size.kept; }
    /// To the next row.
    void next(const Rectangle &size)
    {
        word += stays(size) ? 1U : 0U;
        token = token + 1 == size.tokens ? 0 : token + 1;
    }
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

/// input, the words of a frame -> act [word][token] from word `dst` on.
template <class Config>
void load_patches(const Word<Config::LANES> *input, const Rectangle &size, Act act[][Config::LANES], unsigned dst)
{
#pragma HLS INLINE off
    Place<Config> place;
    for (unsigned i = 0; i < size.words * size.tokens; ++i) {
#pragma HLS PIPELINE II = 1
        if (place.stays(size)) {
            set_act<Config>(input[i], act[dst + place.word]);
        }
        place.next(size);
    }
}

/// The same from the weight stream.
template <class Config>
void load_constant(hls::stream<Word<Config::LANES>> &weights, const Rectangle &size, Act act[][Config::LANES], unsigned dst)
{
#pragma HLS INLINE off
    Place<Config> place;
    for (unsigned i = 0; i < size.words * size.tokens; ++i) {
#pragma HLS PIPELINE II = 1
        const Word<Config::LANES> word = weights.read();
        if (place.stays(size)) {
            set_act<Config>(word, act[dst + place.word]);
        }
        place.next(size);
    }
}

/// A word of LANES bytes: half `i % 2` of a residual word, which it becomes or, with `add`, is added to.
template <class Config>
inline void set_residual(const Word<Config::LANES> &word, unsigned i, bool add, Res residual[Config::LANES])
{
#pragma HLS INLINE
    for (unsigned half = 0; half < Config::LANES / 2; ++half) {
#pragma HLS UNROLL
        Res &place = residual[(i % 2) * (Config::LANES / 2) + half];
        const Res value = half_of<Config::LANES>(word, half);
        place = add ? static_cast<Res>(saturate<16>(place + value)) : value;
    }
}

/// Residual words of LANES int16 from word `stream` on, two words of the weights each; add: to those that are there.
template <class Config>
void load_residual(hls::stream<Word<Config::LANES>> &weights, const Rectangle &size, bool add, unsigned stream,
                   Res residual[][Config::LANES])
{
#pragma HLS INLINE off
    Place<Config> place;
    for (unsigned i = 0; i < 2 * size.words * size.tokens; ++i) {
#pragma HLS PIPELINE II = 1
        const Word<Config::LANES> word = weights.read();
        if (place.stays(size)) {
            set_residual<Config>(word, i, add, residual[stream + place.word]);
        }
        if (i % 2 == 1) {
            place.next(size);
        }
    }
}

/// The same from the input of the frame.
template <class Config>
void load_tokens(const Word<Config::LANES> *input, const Rectangle &size, unsigned stream, Res residual[][Config::LANES])
{
#pragma HLS INLINE off
    Place<Config> place;
    for (unsigned i = 0; i < 2 * size.words * size.tokens; ++i) {
#pragma HLS PIPELINE II = 1
        if (place.stays(size)) {
            set_residual<Config>(input[i], i, false, residual[stream + place.word]);
        }
        if (i % 2 == 1) {
            place.next(size);
        }
    }
}

/// `count` words of LANES int16 -> operand, from word `dst` on.
template <class Config>
void load_operand(hls::stream<Word<Config::LANES>> &weights, unsigned count, Res operand[][Config::LANES], unsigned dst)
{
#pragma HLS INLINE off
    for (unsigned i = 0; i < 2 * count; ++i) {
#pragma HLS PIPELINE II = 1
        const Word<Config::LANES> word = weights.read();
        for (unsigned half = 0; half < Config::LANES / 2; ++half) {
#pragma HLS UNROLL
            operand[dst + i / 2][(i % 2) * (Config::LANES / 2) + half] = half_of<Config::LANES>(word, half);
        }
    }
}

}  // namespace hwgen

#endif
