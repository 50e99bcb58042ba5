// Mixture of experts, the routing part: softmax over all experts in one pass, the k largest logits (the lowest expert wins a
// tie), and a queue of tokens per expert; or scores as they are, of which the k with the largest score plus bias. No token is dropped.
#ifndef HWGEN_ROUTER_HPP
#define HWGEN_ROUTER_HPP

#include "hwgen/softmax.hpp"

namespace hwgen {

/// Sizes of the unit.
struct RouterConfig {
    static constexpr unsigned LANES = 16;
    static constexpr unsigned MAX_TOKENS = 64;
    static constexpr unsigned MAX_EXPERTS = 16;
    static constexpr unsigned MAX_TOP_K = 4;
    static constexpr bool SCORES = false;  ///< there are routers of scores
};

/// Tokens of one expert, in token order, and their scores in unit 2**-16.
struct Ticket {
    std::uint16_t token;
    std::uint16_t score;
};

/// What the router decided. count[e] tickets of expert e are valid.
template <class Config>
struct Queues {
    Ticket tickets[Config::MAX_EXPERTS][Config::MAX_TOKENS];
    unsigned count[Config::MAX_EXPERTS];
};

/// One routing: logits [word][token] of `tokens` tokens and `experts` experts.
struct RouterJob {
    unsigned tokens;
    unsigned experts;
    unsigned top_k;
    bool renormalize;  ///< scores are divided by the sum of the k chosen ones
};

/// Puts experts, best first, into a list of the k largest: `x` of expert `e`, which comes after those before it.
template <unsigned K, class Key>
void insert(Key x, unsigned e, Key best[K], unsigned chosen[K])
{
#pragma HLS INLINE
    Key carry = x;
    unsigned owner = e;
    bool inserted = false;  // from there on everything moves down one place
    for (unsigned i = 0; i < K; ++i) {
#pragma HLS UNROLL
        inserted = inserted || i >= e || carry > best[i];
        if (inserted) {
            const Key old = best[i];
            const unsigned old_owner = chosen[i];
            best[i] = carry;
            chosen[i] = owner;
            carry = old;
            owner = old_owner;
        }
    }
}

/// A token's place in the queue of an expert, with its share.
template <class Config>
void enqueue(unsigned token, unsigned expert, std::int64_t score, Queues<Config> &queues)
{
#pragma HLS INLINE
    const unsigned place = queues.count[expert];
    queues.tickets[expert][place].token = static_cast<std::uint16_t>(token);
    queues.tickets[expert][place].score = static_cast<std::uint16_t>(score < 65535 ? score : 65535);
    queues.count[expert] = place + 1;
}

/// Fills the queues from scores in unit 2**-15; bias: of the choice, in the same unit.
template <class Config>
void choose(const RouterJob &job, const Res scores[][Config::LANES], const Res bias[Config::MAX_EXPERTS], Queues<Config> &queues)
{
#pragma HLS INLINE off
    for (unsigned e = 0; e < job.experts; ++e) {
        queues.count[e] = 0;
    }
    for (unsigned t = 0; t < job.tokens; ++t) {
        std::int32_t best[Config::MAX_TOP_K] = {};  // descending
        unsigned chosen[Config::MAX_TOP_K] = {};
        std::int64_t own[Config::MAX_TOP_K] = {};
#pragma HLS ARRAY_PARTITION variable = best complete
#pragma HLS ARRAY_PARTITION variable = chosen complete
#pragma HLS ARRAY_PARTITION variable = own complete
        for (unsigned e = 0; e < job.experts; ++e) {
#pragma HLS PIPELINE
            const std::int32_t key = scores[(e / Config::LANES) * job.tokens + t][e % Config::LANES] + bias[e];
            insert<Config::MAX_TOP_K>(key, e, best, chosen);
        }
        std::int64_t sum = 0;
        for (unsigned i = 0; i < job.top_k; ++i) {
            own[i] = best[i] - bias[chosen[i]];
            sum += own[i];
        }
        const std::int64_t total = sum < 1 ? 1 : sum;
        const int missing = 16 - bit_length(total);
        const unsigned lift = missing > 0 ? static_cast<unsigned>(missing) : 0;
        int exponent = 0;
        const std::int64_t r = reciprocal(total << lift, exponent);
        for (unsigned i = 0; i < job.top_k; ++i) {
            const std::int64_t part = round_shift((own[i] << lift) * r, static_cast<unsigned>(15 + exponent));
            enqueue<Config>(t, chosen[i], job.renormalize ? part : 2 * own[i], queues);
        }
    }
}

/// The experts of token `t`, the best first, and their shares in unit 2**-16, up to 2**16.
template <class Config>
void route_token(const RouterJob &job, const Res logits[][Config::LANES], unsigned t, unsigned chosen[Config::MAX_TOP_K],
                 std::int64_t shares[Config::MAX_TOP_K])
{
#pragma HLS INLINE
    Res best[Config::MAX_TOP_K] = {};  // descending
#pragma HLS ARRAY_PARTITION variable = best complete
    OnlineSoftmax softmax;
    for (unsigned e = 0; e < job.experts; ++e) {
#pragma HLS PIPELINE
        const Res x = logits[(e / Config::LANES) * job.tokens + t][e % Config::LANES];
        if (e == 0) {
            softmax.first(x);
        } else {
            softmax.next(x);
        }
        insert<Config::MAX_TOP_K>(x, e, best, chosen);
    }
    std::int64_t sum = softmax.sum;
    if (job.renormalize) {
        sum = 0;
        for (unsigned i = 0; i < job.top_k; ++i) {
            sum += exp2_q15(static_cast<unsigned>(softmax.bias - best[i]));
        }
    }
    int exponent = 0;
    const std::int64_t r = reciprocal(sum, exponent);
    for (unsigned i = 0; i < job.top_k; ++i) {
        const std::int64_t e = exp2_q15(static_cast<unsigned>(softmax.bias - best[i]));
        shares[i] = round_shift(e * r, static_cast<unsigned>(15 + exponent));
    }
}

/// Fills the queues from the logits.
template <class Config>
void route(const RouterJob &job, const Res logits[][Config::LANES], Queues<Config> &queues)
{
#pragma HLS INLINE off
    for (unsigned e = 0; e < job.experts; ++e) {
        queues.count[e] = 0;
    }
    for (unsigned t = 0; t < job.tokens; ++t) {
        unsigned chosen[Config::MAX_TOP_K] = {};
        std::int64_t shares[Config::MAX_TOP_K] = {};
#pragma HLS ARRAY_PARTITION variable = chosen complete
#pragma HLS ARRAY_PARTITION variable = shares complete
        route_token<Config>(job, logits, t, chosen, shares);
        for (unsigned i = 0; i < job.top_k; ++i) {
            enqueue<Config>(t, chosen[i], shares[i], queues);
        }
    }
}

}  // namespace hwgen

#endif
