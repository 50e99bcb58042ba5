// The unified linear unit: one instance serves every matrix product with weights, with dimensions and flags at run time.
//
// Weight-stationary: for each output tile of LANES columns and each reduction tile of LANES rows, the tile is held and one token
// streams through per cycle. The next tile (and the next columns' parameters) arrives from the weight stream meanwhile, in the
// other half of a ping-pong buffer, so only the first tile of a layer is waited for.
//
// The stream, in words of LANES bytes, is what hwgen/layout/image.py writes: per output tile 8 words of column parameters
// (bias int32, multiplier uint16, shift in 6 bits, code of the multiplier behind an activation function in 10), then per reduction tile
// LANES words, a column each.
#ifndef HWGEN_LINEAR_HPP
#define HWGEN_LINEAR_HPP

#include "hwgen/function.hpp"
#include "hwgen/router.hpp"

namespace hwgen {

/// Sizes of the unit.
struct LinearConfig : ActivationConfig, RouterConfig {
    static constexpr unsigned LANES = 16;  ///< rows and columns of a weight tile
    static constexpr unsigned MAX_TOKENS = 64;
    static constexpr unsigned OPERAND_WORDS = 1;  ///< of 16 bits that results are multiplied with; 1: there are none
    static constexpr bool ROTATES = false;        ///< there are results of which they turn pairs
    static constexpr unsigned LIST_SIZE = 1;      ///< numbers of tokens of a product that takes them by a list; 1: there is none
    static constexpr bool MIXES = false;          ///< there are products with tokens of the activation memory instead of weights
};

/// Where results go.
enum class Target : std::uint8_t {
    ACT,        ///< requantized to 8 bits, to the activation memory
    ACTIVATED,  ///< requantized to 16 bits, activation function, 8 bits, to the activation memory
    RESIDUAL,   ///< requantized to 16 bits, added to the residual stream
    WEIGHED,    ///< the same, times the router's score, for the tokens of an expert's queue
    LOGITS,     ///< requantized to 16 bits, to the logits memory
    OUTPUT,     ///< accumulators to the output: of each token, or of all tokens added up where `dst_tokens` is 1
    OPERAND,    ///< requantized to 16 bits, to the operand memory
    MULTIPLIED, ///< requantized to 16 bits, activation function if `frac` is not 0, times the word of the operand memory, 8 bits, to the
                ///< activation memory
    SCORES,     ///< requantized to 16 bits, activation function, 16 bits, to the logits memory
    ROTATED,    ///< requantized to 16 bits, pairs of lanes turned by cosines and sines in the operand memory, 8 bits, to the activation memory
};

/// One matrix product.
struct LinearJob {
    unsigned tokens;       ///< rows of the source in memory
    unsigned first_token;  ///< of the source; RESIDUAL, ACT, ACTIVATED: of the target
    unsigned rows;         ///< tokens to compute, at most `tokens`
    unsigned in_channels;
    unsigned out_channels;
    unsigned src;         ///< word address
    unsigned dst;         ///< word address, or place in the output
    unsigned dst_tokens;  ///< rows of the target in memory, or in the output
    Target target;
    bool gather;      ///< read the tokens of expert `expert`'s queue
    unsigned expert;  ///< whose queue gather and WEIGHED use
    Factor out;       ///< after the activation function; multiplier 0: that of the column
    unsigned function;
    bool wide_source;  ///< words of 16 bits: each tile is passed by the high halves, then by the low ones
    bool wide_result;  ///< ACT, ACTIVATED: the same
    unsigned frac;  ///< fraction bits of what the activation function is of
    unsigned operand;  ///< MULTIPLIED, ROTATED: word address of what is multiplied with; it has `rows` rows, or `first_token`
    bool fresh;     ///< RESIDUAL: the result is not added
    unsigned stream;  ///< RESIDUAL, WEIGHED: word address
    unsigned period;  ///< ROTATED: channels of the operand; `mixed`: rows of the tokens in memory
    unsigned taps;    ///< tokens of the source side by side in one of the result, whose numbers come in front of the weights; 0: it is streamed in order
    bool mixed;       ///< tokens of the activation memory are the rows of the tiles, behind them `ones` of constants: one of 1, others of 127
    unsigned held;    ///< word address of the tokens
    unsigned ones;
    Factor mix;       ///< of all columns
};

/// Parameters of an output column.
struct Column {
    Acc bias;
    Scale scale;
    Mult second;  ///< after an activation function
    bool turn;    ///< of words that are not multiplied: the complement is taken
};

constexpr unsigned COLUMN_BYTES = 8;

/// Words of the weight stream one product takes.
constexpr unsigned linear_words(unsigned in_channels, unsigned out_channels, unsigned lanes)
{
    return words_of(out_channels, lanes) * (COLUMN_BYTES + words_of(in_channels, lanes) * lanes);
}

/// Words of the stream with the numbers of `taps` times `rows` tokens, two bytes each.
constexpr unsigned list_words(unsigned taps, unsigned rows, unsigned lanes)
{
    return words_of(taps * rows, lanes / 2);
}

constexpr std::int16_t NO_TOKEN = -1;  ///< in a list: all words are 0

/// Takes a word of column parameters apart.
template <class Config>
inline void load_columns(const Word<Config::LANES> &word, unsigned place, Column columns[Config::LANES])
{
#pragma HLS INLINE
    constexpr unsigned PER_WORD = Config::LANES / COLUMN_BYTES;
    for (unsigned i = 0; i < PER_WORD; ++i) {
#pragma HLS UNROLL
        Column &column = columns[place * PER_WORD + i];
        const unsigned half = 4 * i;
        const auto low = static_cast<std::uint16_t>(half_of<Config::LANES>(word, half));
        column.bias = static_cast<Acc>(half_of<Config::LANES>(word, half + 1)) * 65536 + low;
        column.scale.mult = Mult(static_cast<std::uint16_t>(half_of<Config::LANES>(word, half + 2)));
        const auto high = static_cast<std::uint16_t>(half_of<Config::LANES>(word, half + 3));
        column.scale.shift = Shift(high & 63U);
        column.second = short_multiplier(high >> 6U);
        column.turn = high >> 15U != 0;
    }
}

/// Takes a word of weights apart: a column of the tile.
template <class Config>
inline void load_tile(const Word<Config::LANES> &word, Act column[Config::LANES])
{
#pragma HLS INLINE
    for (unsigned r = 0; r < Config::LANES; ++r) {
#pragma HLS UNROLL
        column[r] = lane_of<Config::LANES>(word, r);
    }
}

/// A tile of tokens, for output tile `n` and reduction tile `k`.
template <class Config>
inline void load_tokens_tile(const LinearJob &job, unsigned n, unsigned k, const Act act[][Config::LANES], Act tile[Config::LANES][Config::LANES])
{
#pragma HLS INLINE
    for (unsigned r = 0; r < Config::LANES; ++r) {
#pragma HLS PIPELINE II = 1
        const unsigned row = k * Config::LANES + r;
        const unsigned count = job.in_channels - job.ones;
        for (unsigned c = 0; c < Config::LANES; ++c) {
#pragma HLS UNROLL
            const Act constant = static_cast<Act>(row == count ? 1 : 127);
            tile[c][r] = row < count ? act[job.held + n * job.period + row][c] : static_cast<Act>(row < job.in_channels ? constant : 0);
        }
    }
}

/// What leaves the accumulators of one token and output tile `n`.
template <class Config>
inline void drain(const LinearJob &job, unsigned n, const Ticket &ticket, unsigned t, const Acc acc[Config::LANES],
                  const Column columns[Config::LANES], Res residual[][Config::LANES], Act act[][Config::LANES],
                  Act low[][Config::LANES], Res logits[][Config::LANES], Res operand[][Config::LANES], Acc total[Config::LANES])
{
#pragma HLS INLINE
    const unsigned word = n * job.dst_tokens;
    for (unsigned c = 0; c < Config::LANES; ++c) {
#pragma HLS UNROLL
        const bool used = n * Config::LANES + c < job.out_channels;
        const auto wide = static_cast<Res>(requantize<16>(acc[c], columns[c].scale));
        const std::int64_t looked = job.frac == 0 ? wide : activation<Config>(wide, job.function, job.frac).to_int64();
        const std::int64_t f = job.target == Target::ACT ? acc[c] : looked;
        const Scale second = job.out.mult == 0 ? Scale{columns[c].second, Shift(job.out.shift)} : scale_of(job.out);
        const Scale scale = job.target == Target::ACT ? columns[c].scale : second;
        const bool rotated = Config::ROTATES && job.target == Target::ROTATED;
        const bool multiplied = Config::OPERAND_WORDS > 1 && (rotated || job.target == Target::MULTIPLIED);
        std::int64_t times = 0;
        if (rotated) {
            const auto other = static_cast<Res>(requantize<16>(acc[c ^ 1U], columns[c ^ 1U].scale));
            const unsigned pair = (n * Config::LANES + (c & ~1U)) % job.period;
            const unsigned turn = job.operand + pair / Config::LANES * job.first_token + t;
            const std::int64_t sine = static_cast<std::int64_t>(other) * operand[turn][pair % Config::LANES + 1];
            times = static_cast<std::int64_t>(wide) * operand[turn][pair % Config::LANES] + (c % 2 == 1 ? sine : -sine);
        } else if (multiplied) {
            times = looked * operand[job.operand + n * job.rows + t][c];
        }
        const std::int64_t product = round_shift(times, multiplied ? job.out.shift : 0U);
        const int narrow = used ? (multiplied ? saturate<8>(product) : requantize<8>(f, scale)) : 0;
        const Wide result = used ? (multiplied ? saturate<16>(product) : requantize<16>(f, scale)) : 0;
        const std::int64_t part =
            job.target == Target::WEIGHED ? round_shift(static_cast<std::int64_t>(wide) * ticket.score, 16) : wide;
        const unsigned row = job.target == Target::WEIGHED ? ticket.token : job.first_token + t;
        switch (job.target) {
        case Target::ACT:
        case Target::ACTIVATED:
        case Target::MULTIPLIED:
        case Target::ROTATED:
            act[job.dst + word + (rotated ? t : row)][c] = job.wide_result ? high_half(result) : static_cast<Act>(narrow);
            if (job.wide_result) {
                low[job.dst + word + (rotated ? t : row)][c] = low_half(result);
            }
            break;
        case Target::RESIDUAL:
        case Target::WEIGHED:
            residual[job.stream + word + row][c] =
                static_cast<Res>(used ? saturate<16>((job.fresh ? 0 : residual[job.stream + word + row][c]) + part) : 0);
            break;
        case Target::LOGITS:
        case Target::SCORES:
            logits[word + t][c] = Config::SCORES && job.target == Target::SCORES ? static_cast<Res>(result) : wide;
            break;
        case Target::OUTPUT:
            total[c] += acc[c];
            break;
        case Target::OPERAND:
            operand[job.dst + word + t][c] = wide;
            break;
        }
    }
}

/// act, residual: [word][token]; low: the low halves of what has 16 bits in act; logits, operand the same; weights: the stream; output: int32 words.
template <class Config>
void linear(const LinearJob &job, hls::stream<Word<Config::LANES>> &weights, Act act[][Config::LANES], Act low[][Config::LANES],
            Res residual[][Config::LANES], Res logits[][Config::LANES], Res operand[][Config::LANES], const Queues<Config> &queues,
            Acc output[])
{
#pragma HLS INLINE off
    constexpr unsigned LANES = Config::LANES;
    static Act tile[2][LANES][LANES];  // [half][column][row]
    static Column columns[2][LANES];
    static Acc acc[Config::MAX_TOKENS][LANES];
    static Acc total[LANES];  // of an OUTPUT
    static std::int16_t numbers[Config::LIST_SIZE];
#pragma HLS ARRAY_PARTITION variable = tile complete dim = 0
#pragma HLS ARRAY_PARTITION variable = columns complete dim = 0
#pragma HLS ARRAY_PARTITION variable = acc complete dim = 2
#pragma HLS ARRAY_PARTITION variable = total complete
    const bool listed = Config::LIST_SIZE > 1 && job.taps != 0;
    const unsigned chunks = words_of(job.in_channels, LANES);          // of a token of the source
    const unsigned k_tiles = listed ? job.taps * chunks : chunks;
    const unsigned n_tiles = words_of(job.out_channels, LANES);
    const unsigned passes = job.wide_source ? 2 : 1;
    const unsigned rows = job.gather || job.target == Target::WEIGHED ? queues.count[job.expert] : job.rows;
    if (rows == 0) {  // an expert nobody chose: its weights are in the stream all the same
        for (unsigned i = 0; i < linear_words(job.in_channels, job.out_channels, LANES); ++i) {
#pragma HLS PIPELINE II = 1
            (void)weights.read();
        }
        return;
    }
    if (Config::LIST_SIZE > 1) {
        for (unsigned i = 0; i < list_words(job.taps, rows, LANES); ++i) {
#pragma HLS PIPELINE II = 1
            const Word<LANES> word = weights.read();
            for (unsigned c = 0; c < LANES / 2; ++c) {
#pragma HLS UNROLL
                if (i * (LANES / 2) + c < job.taps * rows) {
                    numbers[i * (LANES / 2) + c] = static_cast<std::int16_t>(half_of<LANES>(word, c));
                }
            }
        }
    }
    const bool mixed = Config::MIXES && job.mixed;
    for (unsigned c = 0; mixed && c < LANES; ++c) {
#pragma HLS UNROLL
        columns[0][c] = columns[1][c] = Column{0, scale_of(job.mix), Mult(0), false};
    }
    for (unsigned i = 0; !mixed && i < COLUMN_BYTES + LANES; ++i) {  // the first columns and the first tile
#pragma HLS PIPELINE II = 1
        const Word<LANES> word = weights.read();
        if (i < COLUMN_BYTES) {
            load_columns<Config>(word, i, columns[0]);
        } else {
            load_tile<Config>(word, tile[0][i - COLUMN_BYTES]);
        }
    }
    unsigned half = 0;
    for (unsigned n = 0; n < n_tiles; ++n) {
        for (unsigned c = 0; c < LANES; ++c) {
#pragma HLS UNROLL
            total[c] = 0;
        }
        unsigned chunk = 0;  // of the source, and the first number of the tap
        unsigned first = 0;
        for (unsigned p = 0; p < passes * k_tiles; ++p) {
            const unsigned k = p / passes;
            const bool last = k + 1 == k_tiles;
            const bool low_pass = p % passes == 1;  // the next tile is here already
            const unsigned head = last ? COLUMN_BYTES : 0;  // words of columns before the next tile
            const unsigned loads = mixed || low_pass || (last && n + 1 == n_tiles) ? 0 : head + LANES;
            if (mixed) {
                load_tokens_tile<Config>(job, n, k, act, tile[half]);
            }
            const unsigned steps = rows > loads ? rows : loads;
            for (unsigned t = 0; t < steps; ++t) {
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = acc inter false
#pragma HLS DEPENDENCE variable = act inter false
#pragma HLS DEPENDENCE variable = low inter false
#pragma HLS DEPENDENCE variable = residual inter false
#pragma HLS DEPENDENCE variable = operand inter false
                if (t < loads) {
                    const Word<LANES> word = weights.read();
                    if (t < head) {
                        load_columns<Config>(word, t, columns[(n + 1) % 2]);
                    } else {
                        load_tile<Config>(word, tile[1 - half][t - head]);
                    }
                }
                if (t < rows) {
                    const Ticket ticket = queues.tickets[job.expert][t];
                    const int number = listed ? numbers[first + t] : 0;
                    const bool none = listed && number == NO_TOKEN;
                    const unsigned in_order = job.target == Target::OUTPUT ? job.first_token + t : t;
                    const unsigned token = listed ? static_cast<unsigned>(none ? 0 : number) : (job.gather ? ticket.token : in_order);
                    const unsigned address = job.src + chunk * job.tokens + token;
                    for (unsigned c = 0; c < LANES; ++c) {
#pragma HLS UNROLL
                        Acc sum = 0;
                        for (unsigned r = 0; r < LANES; ++r) {
#pragma HLS UNROLL
                            const Act word = low_pass ? (none ? low_half(0) : low[address][r]) : (none ? Act(0) : act[address][r]);
                            sum += static_cast<Acc>(word) * tile[half][c][r];
                        }
                        acc[t][c] = (p == 0 ? columns[n % 2][c].bias : acc[t][c]) + (passes == 2 && !low_pass ? sum * 256 : sum);
                    }
                    if (p + 1 == passes * k_tiles) {
                        drain<Config>(job, n, ticket, t, acc[t], columns[n % 2], residual, act, low, logits, operand, total);
                    }
                }
            }
            if (p % passes + 1 == passes) {
                half = 1 - half;
                chunk = chunk + 1 == chunks ? 0 : chunk + 1;
                first = chunk == 0 ? first + rows : first;
            }
        }
        if (job.target == Target::OUTPUT) {
            for (unsigned t = 0; t < job.dst_tokens; ++t) {
                for (unsigned c = 0; c < LANES; ++c) {
#pragma HLS PIPELINE II = 1
                    if (n * LANES + c < job.out_channels) {
                        output[job.dst + t * job.out_channels + n * LANES + c] = job.dst_tokens == 1 ? total[c] : acc[t][c];
                    }
                }
            }
        }
    }
}

}  // namespace hwgen

#endif
