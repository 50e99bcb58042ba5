// The choice of tokens: the numbers of those with the largest scores of a sequence, the lower number first among equals.
#ifndef HWGEN_PICK_HPP
#define HWGEN_PICK_HPP

#include "hwgen/types.hpp"

namespace hwgen {

/// Sizes of the unit.
struct PickConfig {
    static constexpr unsigned LANES = 16;
    static constexpr unsigned MAX_TOKENS = 64;
    static constexpr bool PICKS = false;  ///< tokens are chosen
};

/// Numbers a list has room for: whole words.
template <class Config>
constexpr unsigned list_room()
{
    return Config::PICKS ? words_of(Config::MAX_TOKENS, Config::LANES) * Config::LANES : Config::LANES;
}

/// One choice: `keep` of `tokens`, of which the first has the number `first`.
struct PickJob {
    unsigned tokens;
    unsigned keep;
    unsigned first;
    bool ranked;    ///< the largest first, else the lowest number
    bool by_row;    ///< scores lie side by side, from word `src` on; else one in each word
    unsigned src;
};

/// The score of a token.
template <class Config>
Res score_of(const PickJob &job, const Res scores[][Config::LANES], unsigned token)
{
#pragma HLS INLINE
    return job.by_row ? scores[job.src + token / Config::LANES][token % Config::LANES] : scores[token][0];
}

/// scores -> kept: every score is compared with each other one; so many are greater, or equal and in front, is its place.
template <class Config>
void pick(const PickJob &job, const Res scores[][Config::LANES], std::uint16_t kept[])
{
#pragma HLS INLINE off
    unsigned next = 0;
    for (unsigned t = 0; t < job.tokens; ++t) {
        const Res own = score_of<Config>(job, scores, t);
        unsigned place = 0;
        for (unsigned u = 0; u < job.tokens; ++u) {
#pragma HLS PIPELINE II = 1
            const Res other = score_of<Config>(job, scores, u);
            place += other > own || (other == own && u < t) ? 1U : 0U;
        }
        if (place < job.keep) {
            kept[job.ranked ? place : next] = static_cast<std::uint16_t>(job.first + t);
            ++next;
        }
    }
}

}  // namespace hwgen

#endif
