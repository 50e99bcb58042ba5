// Reordered attention with exact softmax (Edge-MoE, ICCAD'23, technique 1, in the wrapped form).
//
// QUERIES queries are resident, keys and values stream past them, one token a step, so the bandwidth is constant whatever
// QUERIES is. In the wrapped form query j starts at key j and wraps around: in every step at most one resident query is replaced,
// so one query load a step suffices and no step waits for a block of queries.
//
// Softmax needs the row maximum before the first exponential. Hence each slot works on two queries: while the scores of the new
// one are written, the scores of the one before are read from the same place, turned into un-normalised 8-bit probabilities and
// multiplied with the values. The one division of a row comes last, when its P * V is complete. The 8-bit products are made of
// LUTs: the linear unit needs the DSP slices.
#ifndef HWGEN_ATTENTION_HPP
#define HWGEN_ATTENTION_HPP

#include "hwgen/softmax.hpp"

namespace hwgen {

/// Sizes of the unit.
struct AttentionConfig {
    static constexpr unsigned LANES = 16;
    static constexpr unsigned MAX_TOKENS = 64;
    static constexpr unsigned QUERIES = 4;     ///< resident queries
    static constexpr unsigned HEAD_WORDS = 2;  ///< words a head touches, at most
    static constexpr bool CAUSAL = false;      ///< there are layers in which a query sees no key behind its own
    static constexpr bool BIASED = false;      ///< there are layers in which a constant is added to the scores
};

/// Steps of a round, at least: a score is written at the end of the pipeline and read at its beginning a round later. The same
/// number as in the DEPENDENCE pragma below.
constexpr unsigned MIN_PERIOD = 32;

/// One attention layer. Head h occupies channels h * head_dim .. of q and k, h * value_dim .. of v and of the result.
struct AttentionJob {
    unsigned tokens;   ///< keys that are looked at
    unsigned queries;  ///< rows of q and of the result that are done
    unsigned key_rows;  ///< of the whole of k, and of v
    unsigned query_rows;
    unsigned heads;
    unsigned head_dim;
    unsigned value_dim;
    unsigned q;  ///< word addresses
    unsigned k;
    unsigned v;
    unsigned dst;
    Factor score;
    Factor out;
    bool wide_result;  ///< 16 bits
    unsigned frac;  ///< fraction bits of scores
    unsigned limit;  ///< keys that the first query sees, each one more than that before it; 0: all see all
    bool biased;    ///< a constant is added to the scores: of head h and key k, channel h * bias_keys + k of the words from `operand` on
    unsigned operand;
    unsigned bias_queries;  ///< its rows, as many as there are queries or more
    unsigned bias_keys;
};

/// What a slot knows of the query whose scores it writes, and of the two before.
struct Slot {
    Res maximum;            ///< of the scores so far
    Res last_maximum;       ///< of the query whose P * V is under way
    std::int32_t row_sum;   ///< of that query's probabilities so far
    std::int32_t last_sum;  ///< of the query to be written
};

/// act [word][token]: q, k, v -> dst; low_halves: of a result of 16 bits; operand: the constant that is added.
template <class Config>
void attention(const AttentionJob &job, Act act[][Config::LANES], Act low_halves[][Config::LANES], const Res operand[][Config::LANES])
{
#pragma HLS INLINE off
    constexpr unsigned LANES = Config::LANES;
    constexpr unsigned QUERIES = Config::QUERIES;
    constexpr unsigned WORDS = Config::HEAD_WORDS;
    static Act keys[WORDS][Config::MAX_TOKENS][LANES];
    static Act values[WORDS][Config::MAX_TOKENS][LANES];
    static Act query[QUERIES][WORDS][LANES];
    static Res scores[QUERIES][Config::MAX_TOKENS];
    static Acc weighted[QUERIES][WORDS][LANES];  // P * V
    static Acc score[QUERIES];
    static Slot slots[QUERIES];
    static std::uint8_t probability[QUERIES];
#pragma HLS ARRAY_PARTITION variable = keys complete dim = 3
#pragma HLS ARRAY_PARTITION variable = values complete dim = 3
#pragma HLS ARRAY_PARTITION variable = query complete dim = 0
#pragma HLS ARRAY_PARTITION variable = scores complete dim = 1
#pragma HLS ARRAY_PARTITION variable = weighted complete dim = 0
#pragma HLS ARRAY_PARTITION variable = score complete
#pragma HLS ARRAY_PARTITION variable = slots complete
#pragma HLS ARRAY_PARTITION variable = probability complete
    const unsigned least = QUERIES > MIN_PERIOD ? QUERIES : MIN_PERIOD;
    const unsigned period = job.tokens > least ? job.tokens : least;
    const unsigned blocks = words_of(job.queries, QUERIES);
    for (unsigned h = 0; h < job.heads; ++h) {
        const unsigned low = h * job.head_dim;
        const unsigned high = low + job.head_dim;
        const unsigned first = low / LANES;
        const unsigned key_words = (high - 1) / LANES - first + 1;
        const unsigned value_low = h * job.value_dim;
        const unsigned value_high = value_low + job.value_dim;
        const unsigned value_first = value_low / LANES;
        const unsigned value_words = (value_high - 1) / LANES - value_first + 1;
        const unsigned words = key_words > value_words ? key_words : value_words;
        for (unsigned w = 0; w < words; ++w) {
            for (unsigned t = 0; t < job.tokens; ++t) {
#pragma HLS PIPELINE II = 1
                for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                    keys[w][t][lane] = static_cast<Act>(w < key_words ? act[job.k + (first + w) * job.key_rows + t][lane] : 0);
                    values[w][t][lane] = static_cast<Act>(w < value_words ? act[job.v + (value_first + w) * job.key_rows + t][lane] : 0);
                }
            }
        }
        // A round replaces every slot's query; one more ends the last P * V, and the first steps of another write the results.
        const unsigned steps = ((blocks + 1) * period + QUERIES) * words;
        unsigned w = 0;
        unsigned step = 0;  // key and value now streamed; slot whose query changes
        unsigned row = 0;   // first query of the round
        for (unsigned i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = scores inter true distance = 32
#pragma HLS DEPENDENCE variable = act inter false
            const unsigned word = first + w;
            const unsigned value_word = value_first + w;
            if (step < QUERIES) {
                Slot &slot = slots[step];
                if (w == 0) {
                    slot.last_maximum = slot.maximum;
                    slot.last_sum = slot.row_sum;
                    slot.maximum = -32767;
                    slot.row_sum = 0;
                }
                const unsigned load = row + step;
                const unsigned store = load - 2 * QUERIES;
                const bool stores = load >= 2 * QUERIES && store < job.queries;
                const Scale scale = stores ? softmax_factor(slot.last_sum, job.out) : Scale{Mult(0), Shift(1)};
                for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                    const unsigned channel = word * LANES + lane;
                    const bool mine = channel >= low && channel < high;
                    if (load < job.queries) {
                        query[step][w][lane] = static_cast<Act>(mine ? act[job.q + word * job.query_rows + load][lane] : 0);
                    }
                    const unsigned value = value_word * LANES + lane;
                    if (stores && value >= value_low && value < value_high) {
                        const Acc sum = weighted[step][w][lane];
                        const Wide wide = requantize<16>(sum, scale);
                        act[job.dst + value_word * job.query_rows + store][lane] =
                            job.wide_result ? high_half(wide) : static_cast<Act>(requantize<8>(sum, scale));
                        if (job.wide_result) {
                            low_halves[job.dst + value_word * job.query_rows + store][lane] = low_half(wide);
                        }
                    }
                    weighted[step][w][lane] = 0;
                }
            }
            if (step < job.tokens) {
                for (unsigned j = 0; j < QUERIES; ++j) {
#pragma HLS UNROLL
                    Slot &slot = slots[j];
                    // The query whose score is made now; the one that is weighed lies QUERIES before it.
                    const unsigned scored = row + j - (step < j ? QUERIES : 0);
                    const bool limited = Config::CAUSAL && job.limit != 0;
                    if (w == 0) {
                        const int distance = slot.last_maximum - scores[j][step];  // below 0 only before the first query
                        const bool hidden = distance < 0 || (limited && step + QUERIES >= scored + job.limit);
                        probability[j] = static_cast<std::uint8_t>(hidden ? 0 : exp2_p8(static_cast<unsigned>(distance), job.frac));
                        slot.row_sum += probability[j];
                        score[j] = 0;
                    }
                    for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                        const Acc product = static_cast<Acc>(probability[j]) * values[w][step][lane];
#pragma HLS BIND_OP variable = product op = mul impl = fabric
                        weighted[j][w][lane] += product;
                    }
                    Acc part = 0;
                    for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                        const Acc product = static_cast<Acc>(query[j][w][lane]) * keys[w][step][lane];
#pragma HLS BIND_OP variable = product op = mul impl = fabric
                        part += product;
                    }
                    score[j] += part;
                    if (w + 1 == words) {
                        const int plain = requantize<16>(score[j], scale_of(job.score));
                        const unsigned place = h * job.bias_keys + step;
                        const bool adds = Config::BIASED && job.biased && scored < job.queries;
                        const int added = adds ? operand[job.operand + place / LANES * job.bias_queries + scored][place % LANES] : 0;
                        const auto s = static_cast<Res>(saturate<16>(plain + added));
                        scores[j][step] = s;
                        slot.maximum = s > slot.maximum && !(limited && step >= scored + job.limit) ? s : slot.maximum;
                    }
                }
            }
            if (++w == words) {
                w = 0;
                if (++step == period) {
                    step = 0;
                    row += QUERIES;
                }
            }
        }
    }
}

}  // namespace hwgen

#endif
