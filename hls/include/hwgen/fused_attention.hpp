// Fused one-pass attention (FuseMax, MICRO'24), the alternative to attention.hpp: keys and values are streamed once per block of
// resident queries and no score is stored, whatever the number of tokens.
//
// The running bias is a whole octave at or above the largest score so far, so correcting what was summed before it rose is a
// shift, not a multiplication. Sums carry GUARD more bits to round in. Because of those roundings, and because the probability of
// the largest score lies in 128 .. 255, the words differ in the last place from the exact softmax of attention.hpp: this unit has
// a reference of its own, hwgen/engines/hls/fused_attention.py, and is compared with that.
#ifndef HWGEN_FUSED_ATTENTION_HPP
#define HWGEN_FUSED_ATTENTION_HPP

#include "hwgen/attention.hpp"

namespace hwgen {

constexpr unsigned SCORE_FRAC = 6;  ///< fraction bits of scores here

/// Sizes of the unit.
struct FusedAttentionConfig : AttentionConfig {
    static constexpr unsigned GUARD = 4;  ///< more bits of the sums: 4096 tokens fit 32 bits
};

/// The octave at or above a score.
inline int octave(Res score)
{
#pragma HLS INLINE
    return (static_cast<int>(score) + (1 << SCORE_FRAC) - 1) >> static_cast<int>(SCORE_FRAC);
}

/// act [word][token]: q, k, v -> dst.
template <class Config>
void fused_attention(const AttentionJob &job, Act act[][Config::LANES])
{
#pragma HLS INLINE off
    constexpr unsigned LANES = Config::LANES;
    constexpr unsigned QUERIES = Config::QUERIES;
    constexpr unsigned WORDS = Config::HEAD_WORDS;
    static Act query[QUERIES][WORDS][LANES];
    static Acc weighted[QUERIES][WORDS][LANES];  // P * V so far
    static Acc sum[QUERIES];                     // of the probabilities so far
    static Acc score[QUERIES];
    static int bias[QUERIES];
    static int rise[QUERIES];  // octaves the bias rose at this key
    static std::uint8_t probability[QUERIES];
#pragma HLS ARRAY_PARTITION variable = query complete dim = 0
#pragma HLS ARRAY_PARTITION variable = weighted complete dim = 0
#pragma HLS ARRAY_PARTITION variable = sum complete
#pragma HLS ARRAY_PARTITION variable = score complete
#pragma HLS ARRAY_PARTITION variable = bias complete
#pragma HLS ARRAY_PARTITION variable = rise complete
#pragma HLS ARRAY_PARTITION variable = probability complete
    for (unsigned h = 0; h < job.heads; ++h) {
        const unsigned low = h * job.head_dim;
        const unsigned high = low + job.head_dim;
        const unsigned first = low / LANES;
        const unsigned words = (high - 1) / LANES - first + 1;
        for (unsigned row = 0; row < job.tokens; row += QUERIES) {
            for (unsigned i = 0; i < QUERIES * words; ++i) {  // load the queries
#pragma HLS PIPELINE II = 1
                const unsigned j = i / words;
                const unsigned word = first + i % words;
                for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                    const unsigned channel = word * LANES + lane;
                    const bool mine = channel >= low && channel < high && row + j < job.tokens;
                    query[j][i % words][lane] = static_cast<Act>(mine ? act[job.q + word * job.tokens + row + j][lane] : 0);
                    weighted[j][i % words][lane] = 0;
                }
                sum[j] = 0;
            }
            // While the score of key `step` adds up word by word, key `step - 1` is weighed: one more step than keys.
            for (unsigned i = 0; i < (job.tokens + 1) * words; ++i) {
#pragma HLS PIPELINE II = 1
                const unsigned step = i / words;
                const unsigned w = i % words;
                for (unsigned j = 0; j < QUERIES; ++j) {
#pragma HLS UNROLL
                    if (step > 0) {
                        if (w == 0) {
                            const auto s = static_cast<Res>(requantize<16>(score[j], scale_of(job.score)));
                            const int top = step == 1 || octave(s) > bias[j] ? octave(s) : bias[j];
                            rise[j] = step == 1 ? 0 : top - bias[j];
                            rise[j] = rise[j] > 31 ? 31 : rise[j];
                            bias[j] = top;
                            const int distance = top * (1 << SCORE_FRAC) - s;
                            probability[j] = static_cast<std::uint8_t>(exp2_p8(static_cast<unsigned>(distance), SCORE_FRAC));
                            sum[j] = static_cast<Acc>(round_shift(sum[j], static_cast<unsigned>(rise[j]))) +
                                     (probability[j] << Config::GUARD);
                        }
                        for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                            const Acc product = probability[j] * act[job.v + (first + w) * job.tokens + step - 1][lane];
                            weighted[j][w][lane] =
                                static_cast<Acc>(round_shift(weighted[j][w][lane], static_cast<unsigned>(rise[j]))) +
                                product * (1 << Config::GUARD);
                        }
                    }
                    if (step < job.tokens) {
                        Acc part = w == 0 ? 0 : score[j];
                        for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                            part += static_cast<Acc>(query[j][w][lane]) * act[job.k + (first + w) * job.tokens + step][lane];
                        }
                        score[j] = part;
                    }
                }
            }
            for (unsigned i = 0; i < QUERIES * words; ++i) {  // divide and write
#pragma HLS PIPELINE II = 1
                const unsigned j = i / words;
                const unsigned word = first + i % words;
                const Scale scale = softmax_factor(sum[j], job.out);
                for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                    const unsigned channel = word * LANES + lane;
                    if (channel >= low && channel < high && row + j < job.tokens) {
                        act[job.dst + word * job.tokens + row + j][lane] =
                            static_cast<Act>(requantize<8>(weighted[j][i % words][lane], scale));
                    }
                }
            }
        }
    }
}

}  // namespace hwgen

#endif
