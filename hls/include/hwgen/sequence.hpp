// Steps of a sequence that may be shorter than the longest: what of a step is less then.
#ifndef HWGEN_SEQUENCE_HPP
#define HWGEN_SEQUENCE_HPP

#include "hwgen/step.hpp"

namespace hwgen {

/// What of a step a frame makes shorter whose sequence has fewer tokens than the longest.
enum Follow : std::uint8_t { FOLLOW_TOKENS = 1, FOLLOW_ROWS = 2, FOLLOW_TARGET = 4, FOLLOW_LAST = 8 };

/// A step that does less for a shorter sequence; what: of Follow, added up.
constexpr Step follows(Step step, std::uint8_t what)
{
    step.follows = what;
    return step;
}

/// The step for a sequence of `length` tokens, 0 for the longest. The rows of its values lie as close as those of a network of this length.
constexpr Step shortened(Step s, std::uint16_t length)
{
    if (length != 0) {
        if ((s.follows & FOLLOW_LAST) != 0) {
            const auto back = static_cast<std::uint16_t>(s.tokens - length);
            s.src -= s.target == Target::OUTPUT ? 0U : back;
            s.first_token = static_cast<std::uint16_t>(s.first_token - (s.target == Target::OUTPUT ? back : 0));
        }
        s.tokens = (s.follows & FOLLOW_TOKENS) != 0 ? length : s.tokens;
        s.key_rows = (s.follows & FOLLOW_TOKENS) != 0 ? length : s.key_rows;
        s.rows = (s.follows & FOLLOW_ROWS) != 0 ? length : s.rows;
        s.dst_tokens = (s.follows & FOLLOW_TARGET) != 0 ? length : s.dst_tokens;
    }
    return s;
}

}  // namespace hwgen

#endif
