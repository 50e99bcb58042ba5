// Cores of rows and of elements: the kernels of hwgen between streams. A call is a row, or a word; Config has a core's parameters.
#ifndef HWGEN_CORES_ROWS_HPP
#define HWGEN_CORES_ROWS_HPP

#include "hwgen/layer_norm.hpp"

namespace hwgen {

/// A word of LANES elements of 16 bits -> lanes from -32767 on.
template <unsigned LANES>
inline void read_row(hls::stream<Word<2 * LANES>> &in, Res lanes[LANES])
{
#pragma HLS INLINE
    const Word<2 * LANES> word = in.read();
    for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
        lanes[lane] = static_cast<Res>(saturate<16>(half_of<2 * LANES>(word, lane)));
    }
}

/// Element `lane`, of BITS bits, of a word.
template <unsigned BITS, int WIDTH>
inline void put_lane(ap_uint<WIDTH> &word, unsigned lane, int value)
{
#pragma HLS INLINE
    const int low = static_cast<int>(BITS * lane);
    word.range(low + static_cast<int>(BITS) - 1, low) = static_cast<std::uint64_t>(value) & ((std::uint64_t{1} << BITS) - 1U);
}

/// The word that a core with Config gives.
template <class Config>
using Result = Word<Config::LANES * Config::OUT_BITS / 8>;

/// A word of arguments -> the function's values.
template <class Config>
void activation_core(hls::stream<Word<2 * Config::LANES>> &in, hls::stream<Result<Config>> &out)
{
#pragma HLS PIPELINE II = 1
    Res x[Config::LANES];
#pragma HLS ARRAY_PARTITION variable = x complete
    read_row<Config::LANES>(in, x);
    Result<Config> word = 0;
    for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
        const std::int64_t f = activation<ActivationConfig>(x[lane], 0, Config::FRAC).to_int64();
        put_lane<Config::OUT_BITS>(word, lane, requantize<static_cast<int>(Config::OUT_BITS)>(f, Scale{Mult(Config::MULT), Shift(Config::SHIFT)}));
    }
    out.write(word);
}

/// A row of scores -> their softmax.
template <class Config>
void softmax_core(hls::stream<Word<2 * Config::LANES>> &in, hls::stream<Result<Config>> &out)
{
    Res scores[Config::WORDS][Config::LANES];
    std::uint8_t shares[Config::WORDS][Config::LANES];
#pragma HLS ARRAY_PARTITION variable = scores complete dim = 2
#pragma HLS ARRAY_PARTITION variable = shares complete dim = 2
    Res top = -32767;
    for (unsigned w = 0; w < Config::WORDS; ++w) {
#pragma HLS PIPELINE II = 1
        read_row<Config::LANES>(in, scores[w]);
        for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
            top = scores[w][lane] > top ? scores[w][lane] : top;
        }
    }
    Acc sum = 0;
    for (unsigned w = 0; w < Config::WORDS; ++w) {
#pragma HLS PIPELINE II = 1
        for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
            const int distance = top - scores[w][lane];
            shares[w][lane] = static_cast<std::uint8_t>(exp2_p8(static_cast<unsigned>(distance), Config::FRAC));
            sum += shares[w][lane];
        }
    }
    const Scale scale = softmax_factor(sum, Factor{Config::MULT, Config::SHIFT});
    for (unsigned w = 0; w < Config::WORDS; ++w) {
#pragma HLS PIPELINE II = 1
        Result<Config> word = 0;
        for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
            put_lane<Config::OUT_BITS>(word, lane, requantize<static_cast<int>(Config::OUT_BITS)>(shares[w][lane], scale));
        }
        out.write(word);
    }
}

/// Sizes of the norm's kernel: a row is a token.
template <class Config>
struct NormConfig : LayerNormConfig {
    static constexpr unsigned LANES = Config::LANES;
    static constexpr unsigned MAX_TOKENS = 1;
};

/// A row -> normalised.
template <class Config>
void norm_core(hls::stream<Word<2 * Config::LANES>> &in, hls::stream<Result<Config>> &out)
{
    Res row[Config::WORDS][Config::LANES];
    Act high[Config::WORDS][Config::LANES];
    Act low[Config::WORDS][Config::LANES];
#pragma HLS ARRAY_PARTITION variable = row complete dim = 2
#pragma HLS ARRAY_PARTITION variable = high complete dim = 2
#pragma HLS ARRAY_PARTITION variable = low complete dim = 2
    constexpr bool WIDE = Config::OUT_BITS == 16;
    for (unsigned w = 0; w < Config::WORDS; ++w) {
#pragma HLS PIPELINE II = 1
        read_row<Config::LANES>(in, row[w]);
    }
    const LayerNormJob job{1, Config::WORDS * Config::LANES, 0, Config::EPS, Factor{Config::INV_MULT, Config::INV_SHIFT},
                           Factor{Config::MULT, Config::SHIFT}, false, WIDE, 0, Config::RMS};
    layer_norm<NormConfig<Config>>(job, row, high, low);
    for (unsigned w = 0; w < Config::WORDS; ++w) {
#pragma HLS PIPELINE II = 1
        Result<Config> word = 0;
        for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
            put_lane<Config::OUT_BITS>(word, lane, WIDE ? 256 * high[w][lane] + low[w][lane] + 128 : high[w][lane]);
        }
        out.write(word);
    }
}

/// Sizes of the router's kernel: all experts in a word.
template <class Config>
struct TopKConfig : RouterConfig {
    static constexpr unsigned LANES = Config::EXPERTS;
    static constexpr unsigned MAX_TOKENS = 1;
    static constexpr unsigned MAX_EXPERTS = Config::EXPERTS;
    static constexpr unsigned MAX_TOP_K = Config::TOP_K;
};

/// The logits of a token -> its experts and their shares.
template <class Config>
void router_core(hls::stream<Word<2 * Config::EXPERTS>> &in, hls::stream<Word<4 * Config::TOP_K>> &out)
{
    Res logits[1][Config::EXPERTS];
    unsigned chosen[Config::TOP_K] = {};
    std::int64_t shares[Config::TOP_K] = {};
#pragma HLS ARRAY_PARTITION variable = logits complete dim = 2
#pragma HLS ARRAY_PARTITION variable = chosen complete
#pragma HLS ARRAY_PARTITION variable = shares complete
    read_row<Config::EXPERTS>(in, logits[0]);
    route_token<TopKConfig<Config>>(RouterJob{1, Config::EXPERTS, Config::TOP_K, Config::RENORMALIZE}, logits, 0, chosen, shares);
    Word<4 * Config::TOP_K> word = 0;
    for (unsigned i = 0; i < Config::TOP_K; ++i) {
#pragma HLS UNROLL
        put_lane<16>(word, 2 * i, static_cast<int>(chosen[i]));
        put_lane<16>(word, 2 * i + 1, static_cast<int>(shares[i] < 65535 ? shares[i] : 65535));
    }
    out.write(word);
}

}  // namespace hwgen

#endif
