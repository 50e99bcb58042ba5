// LayerNorm of the residual stream: one pass for the sum and the sum of squares, reciprocal square root by table and a Newton
// step, one pass to normalise. Gamma and beta are folded into the layer that reads the result.
#ifndef HWGEN_LAYER_NORM_HPP
#define HWGEN_LAYER_NORM_HPP

#include "hwgen/linear.hpp"
#include "hwgen/pick.hpp"
#include "hwgen/softmax.hpp"

namespace hwgen {

/// Sizes of the unit.
struct LayerNormConfig {
    static constexpr unsigned LANES = 16;  ///< channels per word
    static constexpr unsigned MAX_TOKENS = 64;
};

/// One normalisation: `channels` of `tokens`, read at word `src` of the residual memory, written to `dst`.
struct LayerNormJob {
    unsigned tokens;
    unsigned channels;
    unsigned dst;
    std::int64_t eps;  ///< added to channels**2 * variance
    Factor inverse;    ///< 16 / channels
    Factor out;        ///< channels / (16 * output scale), of 16 bits that of the high half
    bool rescale;      ///< without a norm: mean 0, and `out` as it is
    bool wide_result;  ///< 16 bits
    unsigned src;
    bool rms;  ///< no mean is taken off
};

/// Where a norm becomes a value of its own: some of its rows, each channel times its factor and with its bias, added to a residual stream, or
/// in 8 bits to some channels of a value.
struct ScaleJob {
    unsigned first;        ///< row of the norm
    unsigned rows;
    unsigned stream;       ///< word address
    unsigned dst_tokens;   ///< rows of the stream, or of the value
    unsigned first_token;  ///< of the stream; or the first channel of the value
    bool fresh;            ///< the stream starts with it
    bool part;             ///< to a value at word `dst` of the norm's job
    unsigned period;       ///< of a part that is turned: channels of the cosines and sines; 0: it is not
    unsigned operand;      ///< their word address
    unsigned operand_tokens;
    unsigned shift;        ///< behind the products
    bool listed;           ///< the rows are those of the list of tokens that are kept
};

/// v >= 1 -> y in [2**15, 2**16) and exponent with 1/sqrt(v) = y * 2**-(23 + exponent).
inline std::int64_t rsqrt(std::int64_t v, int &exponent)
{
#pragma HLS INLINE
    const int raw = bit_length(v) - 16;
    const int even = raw + (raw & 1);
    const std::int64_t m = mantissa(v, even);
    const std::int64_t y0 = RSQRT[m >> 8];
    const std::int64_t t = (m * ((y0 * y0) >> 16)) >> 14;
    const std::int64_t y = (y0 * ((3 << 16) - t)) >> 17;
    exponent = even / 2;
    return y < 65535 ? y : 65535;
}

/// What each token of residual [word][token] is normalised with: mean, unit 2**-4, and scale.
template <class Config>
void norm_coefficients(const LayerNormJob &job, const Res residual[][Config::LANES], std::int32_t mean[Config::MAX_TOKENS],
                       Scale scale[Config::MAX_TOKENS])
{
#pragma HLS INLINE
    static std::int64_t total[Config::MAX_TOKENS];
    static std::int64_t squares[Config::MAX_TOKENS];
    const unsigned words = words_of(job.channels, Config::LANES);
    std::int64_t sum = 0;
    std::int64_t sum_squares = 0;
    unsigned token = 0;
    unsigned word = 0;
    for (unsigned i = 0; i < job.tokens * words; ++i) {
#pragma HLS PIPELINE II = 1
        for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
            const std::int32_t x = word * Config::LANES + lane < job.channels ? residual[job.src + word * job.tokens + token][lane] : 0;
            sum += x;
            sum_squares += static_cast<std::int64_t>(x) * x;
        }
        if (++word == words) {
            total[token] = job.rms ? 0 : sum;
            squares[token] = sum_squares;
            sum = 0;
            sum_squares = 0;
            word = 0;
            ++token;
        }
    }
    for (unsigned t = 0; t < job.tokens; ++t) {
#pragma HLS PIPELINE II = 1
        mean[t] = job.rescale ? 0 : static_cast<std::int32_t>(round_shift(total[t] * job.inverse.mult, job.inverse.shift));
        int exponent = 0;
        const std::int64_t v = static_cast<std::int64_t>(job.channels) * squares[t] - total[t] * total[t] + job.eps;
        const std::int64_t y = rsqrt(v, exponent);
        scale[t] = job.rescale ? scale_of(job.out) : scale_factor(y, job.out, 23 + exponent);
    }
}

/// A word of 16 bits for a lane of a residual word.
inline Wide normal_word(Res lane, std::int32_t mean, const Scale &scale)
{
#pragma HLS INLINE
    return whole<16>(static_cast<std::int32_t>(lane) * 16 - mean, Scale{scale.mult, Shift(scale.shift.to_uint() - 8)});
}

/// residual [word][token] -> act [word][token], int8, or the high halves of 16 bits and the low ones in `low`.
template <class Config>
void layer_norm(const LayerNormJob &job, const Res residual[][Config::LANES], Act act[][Config::LANES], Act low[][Config::LANES])
{
#pragma HLS INLINE off
    static std::int32_t mean[Config::MAX_TOKENS];
    static Scale scale[Config::MAX_TOKENS];
    const unsigned words = words_of(job.channels, Config::LANES);
    norm_coefficients<Config>(job, residual, mean, scale);
    for (unsigned w = 0; w < words; ++w) {
        for (unsigned t = 0; t < job.tokens; ++t) {
#pragma HLS PIPELINE II = 1
            for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
                const Res x = residual[job.src + w * job.tokens + t][lane];
                const bool used = w * Config::LANES + lane < job.channels;
                const int narrow = used ? requantize<8>(static_cast<std::int32_t>(x) * 16 - mean[t], scale[t]) : 0;
                const Wide wide = used && job.wide_result ? normal_word(x, mean[t], scale[t]) : 0;
                act[job.dst + w * job.tokens + t][lane] = job.wide_result ? high_half(wide) : static_cast<Act>(narrow);
                if (job.wide_result) {
                    low[job.dst + w * job.tokens + t][lane] = low_half(wide);
                }
            }
        }
    }
}

/// Words of a head, in 8 bits, to the lanes they have in a value: `first` is the lane of the first one.
template <class Config>
void store_head(const Act word[Config::LANES], unsigned channels, unsigned first, unsigned tokens, Act act[][Config::LANES], unsigned place)
{
#pragma HLS INLINE
    for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
        const unsigned from = (lane + Config::LANES - first) % Config::LANES;
        if (from < channels) {
            act[place + (lane < first ? tokens : 0U)][lane] = word[from];
        }
    }
}

/// The same, each channel by itself on to another residual stream or to channels of a value; weights: the columns of its words.
template <class Config>
void scale(const LayerNormJob &job, const ScaleJob &to, hls::stream<Word<Config::LANES>> &weights, Res residual[][Config::LANES],
           Act act[][Config::LANES], const Res operand[][Config::LANES], const std::uint16_t kept[])
{
#pragma HLS INLINE off
    static std::int32_t mean[Config::MAX_TOKENS];
    static Scale scale[Config::MAX_TOKENS];
    static Column columns[Config::LANES];
#pragma HLS ARRAY_PARTITION variable = columns complete dim = 0
    const unsigned words = words_of(job.channels, Config::LANES);
    norm_coefficients<Config>(job, residual, mean, scale);
    for (unsigned w = 0; w < words; ++w) {
        for (unsigned i = 0; i < COLUMN_BYTES; ++i) {
#pragma HLS PIPELINE II = 1
            load_columns<Config>(weights.read(), i, columns);
        }
        for (unsigned t = 0; t < to.rows; ++t) {
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = residual inter false
#pragma HLS DEPENDENCE variable = act inter false
            Act narrow[Config::LANES];
            Res whole[Config::LANES];
#pragma HLS ARRAY_PARTITION variable = narrow complete
#pragma HLS ARRAY_PARTITION variable = whole complete
            for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
                const unsigned row = Config::PICKS && to.listed ? kept[t] : to.first + t;
                const Wide word = normal_word(residual[job.src + w * job.tokens + row][lane], mean[row], scale[row]);
                const Acc acc = (columns[lane].turn ? ~word : word) + columns[lane].bias;
                narrow[lane] = static_cast<Act>(requantize<8>(acc, columns[lane].scale));
                whole[lane] = static_cast<Res>(requantize<16>(acc, columns[lane].scale));
                if (!to.part) {
                    Res &place = residual[to.stream + w * to.dst_tokens + to.first_token + t][lane];
                    const int part = requantize<16>(acc, columns[lane].scale);
                    place = static_cast<Res>(w * Config::LANES + lane < job.channels ? saturate<16>((to.fresh ? 0 : place) + part) : 0);
                }
            }
            if (Config::ROTATES && to.period != 0) {
                for (unsigned lane = 0; lane < Config::LANES; ++lane) {
#pragma HLS UNROLL
                    const unsigned pair = (w * Config::LANES + (lane & ~1U)) % to.period;
                    const Res *turn = operand[to.operand + pair / Config::LANES * to.operand_tokens + to.first + t];
                    const std::int64_t sine = static_cast<std::int64_t>(whole[lane ^ 1U]) * turn[pair % Config::LANES + 1];
                    const std::int64_t sum = static_cast<std::int64_t>(whole[lane]) * turn[pair % Config::LANES] + (lane % 2 == 1 ? sine : -sine);
                    narrow[lane] = static_cast<Act>(saturate<8>(round_shift(sum, to.shift)));
                }
            }
            if (to.part) {
                store_head<Config>(narrow, job.channels - w * Config::LANES, to.first_token % Config::LANES, to.dst_tokens, act,
                                   job.dst + (to.first_token / Config::LANES + w) * to.dst_tokens + t);
            }
        }
    }
}

}  // namespace hwgen

#endif
