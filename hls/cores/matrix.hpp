// Cores of matrix products: the kernels of hwgen between streams. A call is a frame; Config has a core's parameters.
#ifndef HWGEN_CORES_MATRIX_HPP
#define HWGEN_CORES_MATRIX_HPP

#include "hwgen/attention.hpp"
#include "hwgen/linear.hpp"

namespace hwgen {

/// A frame of `count` words of 8-bit lanes into a memory of words.
template <unsigned LANES>
inline void read_frame(hls::stream<Word<LANES>> &in, unsigned count, Act memory[][LANES])
{
#pragma HLS INLINE
    for (unsigned w = 0; w < count; ++w) {
#pragma HLS PIPELINE II = 1
        const Word<LANES> word = in.read();
        for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            memory[w][lane] = lane_of<LANES>(word, lane);
        }
    }
}

/// `count` words of lanes of BITS bits out of a memory.
template <unsigned LANES, unsigned BITS, class Lane>
inline void write_frame(const Lane memory[][LANES], unsigned count, hls::stream<Word<LANES * BITS / 8>> &out)
{
#pragma HLS INLINE
    for (unsigned w = 0; w < count; ++w) {
#pragma HLS PIPELINE II = 1
        Word<LANES * BITS / 8> word = 0;
        for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const int low = static_cast<int>(BITS * lane);
            word.range(low + static_cast<int>(BITS) - 1, low) = static_cast<std::uint64_t>(memory[w][lane]) & ((std::uint64_t{1} << BITS) - 1U);
        }
        out.write(word);
    }
}

/// Sizes of the linear unit: results of 16 bits go to what is its operand memory.
template <class Config>
struct LinearSizes : LinearConfig {
    static constexpr unsigned LANES = Config::LANES;
    static constexpr unsigned MAX_TOKENS = Config::TOKENS;
    static constexpr unsigned MAX_EXPERTS = 1;
    static constexpr unsigned MAX_TOP_K = 1;
};

/// Tokens x and the weights of a frame -> results.
template <class Config>
void linear_core(hls::stream<Word<Config::LANES>> &x, hls::stream<Word<Config::LANES>> &w, hls::stream<Word<Config::LANES * Config::OUT_BITS / 8>> &out)
{
    constexpr unsigned CHUNKS = Config::INPUTS / Config::LANES;
    constexpr unsigned TILES = Config::OUTPUTS / Config::LANES;
    constexpr unsigned RESULT = CHUNKS * Config::TOKENS;
    constexpr bool WIDE = Config::OUT_BITS == 16;
    static Act act[RESULT + TILES * Config::TOKENS][Config::LANES];
    static Act low[1][Config::LANES];
    static Res unused[1][Config::LANES];
    static Res wide[TILES * Config::TOKENS][Config::LANES];
    static Queues<LinearSizes<Config>> queues;
    Acc output[1];
#pragma HLS ARRAY_PARTITION variable = act complete dim = 2
#pragma HLS ARRAY_PARTITION variable = wide complete dim = 2
    LinearJob job{};
    job.tokens = job.rows = job.dst_tokens = Config::TOKENS;
    job.in_channels = Config::INPUTS;
    job.out_channels = Config::OUTPUTS;
    job.dst = WIDE ? 0 : RESULT;
    job.target = WIDE ? Target::OPERAND : Target::ACT;
    read_frame<Config::LANES>(x, RESULT, act);
    linear<LinearSizes<Config>>(job, w, act, low, unused, unused, wide, queues, output);
    if (WIDE) {
        write_frame<Config::LANES, Config::OUT_BITS>(wide, TILES * Config::TOKENS, out);
    } else {
        write_frame<Config::LANES, Config::OUT_BITS>(&act[RESULT], TILES * Config::TOKENS, out);
    }
}

/// Sizes of the attention unit.
template <class Config>
struct AttentionSizes : AttentionConfig {
    static constexpr unsigned LANES = Config::LANES;
    static constexpr unsigned MAX_TOKENS = Config::TOKENS;
    static constexpr unsigned HEAD_WORDS = Config::HEAD_DIM / Config::LANES;
    static constexpr bool CAUSAL = Config::CAUSAL;
};

/// q, k and v of a frame -> the context.
template <class Config>
void attention_core(hls::stream<Word<Config::LANES>> &q, hls::stream<Word<Config::LANES>> &k, hls::stream<Word<Config::LANES>> &v,
                    hls::stream<Word<Config::LANES>> &out)
{
    constexpr unsigned WORDS = Config::HEAD_DIM / Config::LANES * Config::TOKENS;
    static Act act[4 * WORDS][Config::LANES];
    static Act low[1][Config::LANES];
    static Res operand[1][Config::LANES];
#pragma HLS ARRAY_PARTITION variable = act complete dim = 2
    read_frame<Config::LANES>(q, WORDS, act);
    read_frame<Config::LANES>(k, WORDS, &act[WORDS]);
    read_frame<Config::LANES>(v, WORDS, &act[2 * WORDS]);
    AttentionJob job{};
    job.tokens = job.queries = job.key_rows = job.query_rows = Config::TOKENS;
    job.heads = 1;
    job.head_dim = job.value_dim = Config::HEAD_DIM;
    job.q = 0;
    job.k = WORDS;
    job.v = 2 * WORDS;
    job.dst = 3 * WORDS;
    job.score = Factor{Config::SCORE_MULT, Config::SCORE_SHIFT};
    job.out = Factor{Config::MULT, Config::SHIFT};
    job.frac = Config::FRAC;
    job.limit = Config::CAUSAL ? 1 : 0;
    attention<AttentionSizes<Config>>(job, act, low, operand);
    write_frame<Config::LANES, 8>(&act[3 * WORDS], WORDS, out);
}

}  // namespace hwgen

#endif
