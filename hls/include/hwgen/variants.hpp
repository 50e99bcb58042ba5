// Steps that do what another does a little differently: functions of one step that give it.
#ifndef HWGEN_VARIANTS_HPP
#define HWGEN_VARIANTS_HPP

#include "hwgen/step.hpp"

namespace hwgen {

/// A step whose source, or whose result, has words of 16 bits.
constexpr Step wide(Step step, bool source, bool result)
{
    step.wide_source = source;
    step.wide_result = result;
    return step;
}

/// A norm that takes no mean off.
constexpr Step rms(Step step)
{
    step.rms = true;
    return step;
}

/// A step that reads the residual stream at word `address`.
constexpr Step from(Step step, std::uint32_t address)
{
    step.src = address;
    return step;
}

/// A step that writes the residual stream at word `address`.
constexpr Step into(Step step, std::uint32_t address)
{
    step.stream = address;
    return step;
}

/// A step that starts a residual stream instead of being added to it.
constexpr Step fresh(Step step)
{
    step.fresh = true;
    return step;
}

/// Rows of a residual stream as they are instead of their norm.
constexpr Step as_it_is(Step step)
{
    step.limit = 1;
    return step;
}

/// Rows of a residual stream by the list of tokens that are kept.
constexpr Step listed(Step step)
{
    step.taps = 1;
    return step;
}

/// A product of some rows of its source only.
constexpr Step some(Step s, Rows rows)
{
    s.src += rows.first;
    s.rows = rows.count;
    return s;
}

/// A product into the rows of its target from `first` on.
constexpr Step into_rows(Step s, std::uint16_t first)
{
    s.first_token = first;
    return s;
}

/// A product of `rows` tokens, each of which is `taps` tokens of the source side by side, or zeros: their numbers lie in front of the weights.
constexpr Step taken(Step s, std::uint16_t taps, std::uint16_t rows)
{
    s.taps = taps;
    s.rows = rows;
    return s;
}

/// A product with tokens for weights, from row `first` of theirs on, and `ones` rows of constants behind them; factor: of the result.
constexpr Step mixed(Step step, Value tokens, std::uint16_t first, std::uint16_t ones, Factor factor)
{
    step.mixed = true;
    step.values = tokens.address + first;
    step.size = tokens.tokens;
    step.count = ones;
    step.first = factor;
    return step;
}

/// An attention with a constant of the operand memory, for every head, query and key of the longest sequence, added to its scores.
constexpr Step biased(Step step, Value bias)
{
    step.biased = true;
    step.out_channels = step.rows;
    step.in_channels = step.tokens;
    step.operand = bias.address;
    return step;
}

/// An attention of some queries to some keys.
constexpr Step within(Step s, Rows queries, Rows keys)
{
    s.src += queries.first;
    s.first_token = queries.first;
    s.rows = queries.count;
    s.keys += keys.first;
    s.values += keys.first;
    s.tokens = keys.count;
    return s;
}

/// An attention whose first query sees `limit` keys, and each one more than that before it.
constexpr Step causal(Step step, std::uint16_t limit = 1)
{
    step.limit = limit;
    return step;
}

/// Gated experts: `operand` is room for what activations are multiplied by, the shift of `out` is behind the product.
constexpr Step gated(Step step, Value operand)
{
    step.target = Target::MULTIPLIED;
    step.operand = operand.address;
    return step;
}

}  // namespace hwgen

#endif
