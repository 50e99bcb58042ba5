// How much one token looks at others: the weights of its attention, added up over the heads. Only their order counts: each is less by one number.
#ifndef HWGEN_ATTENDED_HPP
#define HWGEN_ATTENDED_HPP

#include "hwgen/pick.hpp"
#include "hwgen/softmax.hpp"

namespace hwgen {

/// `heads` heads of `head_dim` channels: row `query` of q, of `query_rows`, looks at `tokens` keys; the weights from key `first` on are kept.
struct AttendedJob {
    unsigned tokens;
    unsigned key_rows;
    unsigned query;
    unsigned query_rows;
    unsigned first;
    unsigned heads;
    unsigned head_dim;
    unsigned q;  ///< word addresses
    unsigned k;
    unsigned stream;
    Factor score;
    Factor out;
    unsigned frac;  ///< of scores
};

constexpr int WEIGHT_OFFSET = 128;  ///< what the array of the RTL takes off a weight
constexpr int WEIGHT_UNIT = 127;    ///< and what it multiplies the rest with

/// act [word][token]: q, k -> residual, the words of one row.
template <class Config>
void attended(const AttendedJob &job, const Act act[][Config::LANES], Res residual[][Config::LANES])
{
#pragma HLS INLINE off
    static Res scores[Config::PICKS ? Config::MAX_TOKENS : 1];
    for (unsigned h = 0; h < job.heads; ++h) {
        Res maximum = -32767;
        for (unsigned t = 0; t < job.tokens; ++t) {
            Acc sum = 0;
            for (unsigned c = h * job.head_dim; c < (h + 1) * job.head_dim; ++c) {
#pragma HLS PIPELINE II = 1
                const unsigned word = c / Config::LANES;
                const unsigned lane = c % Config::LANES;
                sum += static_cast<Acc>(act[job.q + word * job.query_rows + job.query][lane]) * act[job.k + word * job.key_rows + t][lane];
            }
            const auto score = static_cast<Res>(requantize<16>(sum, scale_of(job.score)));
            scores[t] = score;
            maximum = score > maximum ? score : maximum;
        }
        std::int32_t row_sum = 0;
        for (unsigned t = 0; t < job.tokens; ++t) {
#pragma HLS PIPELINE II = 1
            const unsigned weight = exp2_p8(static_cast<unsigned>(maximum - scores[t]), job.frac);
            scores[t] = static_cast<Res>(weight);
            row_sum += static_cast<std::int32_t>(weight);
        }
        const Scale scale = softmax_factor(row_sum, job.out);
        for (unsigned t = job.first; t < job.tokens; ++t) {
#pragma HLS PIPELINE II = 1
            const unsigned place = t - job.first;
            const int part = requantize<16>((scores[t] - WEIGHT_OFFSET) * WEIGHT_UNIT, scale);
            Res &word = residual[job.stream + place / Config::LANES][place % Config::LANES];
            word = static_cast<Res>(h == 0 ? part : saturate<16>(word + part));
        }
    }
}

}  // namespace hwgen

#endif
