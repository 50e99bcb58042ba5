// A step of the table, and the functions that make one: what the generated program is written in.
#ifndef HWGEN_STEP_HPP
#define HWGEN_STEP_HPP

#include "hwgen/attention.hpp"
#include "hwgen/layer_norm.hpp"
#include "hwgen/linear.hpp"
#include "hwgen/patch_embed.hpp"

namespace hwgen {

/// What a step does.
enum class Kind : std::uint8_t { PATCHES, RESIDUAL_INIT, LAYER_NORM, LINEAR, ATTENTION, ROUTE, EXPERTS, TOKENS, RESIDUAL_ADD, RESCALE, CONSTANT, SCALE,
                                 OPERANDS, CHOOSE, PICK, ATTENDED };

constexpr std::int8_t ALL_TASKS = -1;

/// One step. Fields a kind does not name are 0; see the functions below, which make steps.
struct Step {
    Kind kind = Kind::PATCHES;
    std::int8_t task = ALL_TASKS;
    Target target = Target::ACT;
    bool renormalize = false;
    std::uint16_t tokens = 0;      ///< rows of the source
    std::uint16_t dst_tokens = 0;  ///< rows of the target
    std::uint16_t first_token = 0;
    std::uint16_t rows = 0;
    std::uint16_t in_channels = 0;
    std::uint16_t out_channels = 0;
    std::uint16_t count = 0;  ///< heads, or experts
    std::uint16_t size = 0;   ///< channels of a head, hidden channels of an expert, or top k
    std::uint32_t src = 0;    ///< word addresses
    std::uint32_t keys = 0;
    std::uint32_t values = 0;
    std::uint32_t dst = 0;
    Factor first = {0, 0};  ///< score, or 1 / channels
    Factor out = {0, 0};
    std::int64_t eps = 0;
    std::uint32_t weights = 0;  ///< first word in the weight image
    std::uint8_t function = 0;  ///< of FUNCTIONS
    bool wide_source = false;   ///< words of 16 bits; of an expert's second layer too
    bool wide_result = false;
    std::uint8_t frac = 0;      ///< fraction bits of scores, or of what an activation function is of
    std::uint16_t limit = 0;    ///< keys that the first query sees, each one more than that before it; 0: all see all
    std::uint32_t operand = 0;  ///< word address of what a result is multiplied with, or scores are added to
    std::uint8_t follows = 0;   ///< of Follow: what is shorter in a shorter sequence
    bool rms = false;           ///< a norm that takes no mean off
    bool fresh = false;         ///< a residual stream starts with the result
    std::uint32_t stream = 0;   ///< word address of the residual stream that is written; of one that is read it is `src`
    bool biased = false;        ///< scores are
    std::uint16_t value_size = 0;  ///< channels of a head of values and results
    std::uint16_t taps = 0;     ///< tokens of the source side by side in one of a product's result, by a list; 0: there is none
    std::uint16_t key_rows = 0;  ///< of the whole values that keys are some of
    bool mixed = false;         ///< tokens of the activation memory are multiplied with, no weights
};

/// A value in the activation memory: `tokens` rows at word `address`.
struct Value {
    std::uint32_t address;
    std::uint16_t tokens;
    std::uint16_t channels;
};

/// Sizes of the residual stream.
struct Shape {
    std::uint16_t tokens;
    std::uint16_t channels;
};

/// Where a step's weights start in the image.
struct Weights {
    std::uint32_t word;
};

/// Place and length of a network output in the output of a frame.
struct Output {
    std::uint32_t word;
    std::uint16_t channels;
};

/// Rows of a value.
struct Rows {
    std::uint16_t first;
    std::uint16_t count;
};

/// What a router chooses from.
struct Choice {
    std::uint16_t experts;
    std::uint16_t top_k;
    bool renormalize;
};

/// The patches of the frame -> dst.
constexpr Step patches(Value dst)
{
    Step s;
    s.kind = Kind::PATCHES;
    s.tokens = dst.tokens;
    s.in_channels = dst.channels;
    s.dst = dst.address;
    return s;
}

/// The residual stream becomes the constant at `weights`.
constexpr Step residual_init(Shape residual, Weights weights)
{
    Step s;
    s.kind = Kind::RESIDUAL_INIT;
    s.tokens = residual.tokens;
    s.out_channels = residual.channels;
    s.weights = weights.word;
    return s;
}

/// The same, added to what is there.
constexpr Step residual_add(Shape residual, Weights weights)
{
    Step s = residual_init(residual, weights);
    s.kind = Kind::RESIDUAL_ADD;
    return s;
}

/// The constant at `weights` -> dst.
constexpr Step constant(Value dst, Weights weights)
{
    Step s = patches(dst);
    s.kind = Kind::CONSTANT;
    s.weights = weights.word;
    return s;
}

/// The constant of 16 bits at `weights` -> the operand memory.
constexpr Step operands(Value dst, Weights weights)
{
    Step s = constant(dst, weights);
    s.kind = Kind::OPERANDS;
    return s;
}

/// The residual stream becomes the input of the frame.
constexpr Step tokens(Shape residual)
{
    Step s = residual_init(residual, Weights{0});
    s.kind = Kind::TOKENS;
    return s;
}

/// Residual stream -> dst.
constexpr Step layer_norm(Value dst, std::int64_t eps, Factor inverse, Factor out)
{
    Step s;
    s.kind = Kind::LAYER_NORM;
    s.tokens = dst.tokens;
    s.in_channels = dst.channels;
    s.dst = dst.address;
    s.eps = eps;
    s.first = inverse;
    s.out = out;
    return s;
}

/// Residual stream times a factor -> dst.
constexpr Step rescale(Value dst, Factor out)
{
    Step s = layer_norm(dst, 1, Factor{0, 0}, out);
    s.kind = Kind::RESCALE;
    return s;
}

/// Some rows of a residual stream, normalised, each channel times its factor and with its bias: residual stream +=, from row `first_token` on.
constexpr Step scale(Shape residual, std::uint16_t first_token, Shape source, Rows rows, std::int64_t eps, Factor inverse, Factor out,
                     Weights weights)
{
    Step s = layer_norm(Value{0, source.tokens, source.channels}, eps, inverse, out);
    s.kind = Kind::SCALE;
    s.target = Target::RESIDUAL;
    s.out_channels = source.channels;
    s.dst_tokens = residual.tokens;
    s.first_token = first_token;
    s.keys = rows.first;
    s.rows = rows.count;
    s.weights = weights.word;
    return s;
}

/// A whole residual stream, normalised, each channel times its factor and with its bias -> channels of dst, from `first` on.
constexpr Step scale_head(Value dst, std::uint16_t first, std::uint16_t channels, std::int64_t eps, Factor inverse, Factor out, Weights weights)
{
    Step s = scale(Shape{dst.tokens, channels}, first, Shape{dst.tokens, channels}, Rows{0, dst.tokens}, eps, inverse, out, weights);
    s.target = Target::ACT;
    s.out_channels = dst.channels;
    s.dst = dst.address;
    return s;
}

/// The same, pairs of its channels turned by cosines and sines in the operand memory.
constexpr Step turned(Step step, Value operand, std::uint8_t shift)
{
    step.operand = operand.address;
    step.values = operand.tokens;
    step.size = operand.channels;
    step.frac = shift;
    return step;
}

/// src -> dst with the weights at `weights`.
constexpr Step linear(Value dst, Value src, Weights weights)
{
    Step s;
    s.kind = Kind::LINEAR;
    s.target = Target::ACT;
    s.tokens = src.tokens;
    s.rows = src.tokens;
    s.dst_tokens = dst.tokens;
    s.in_channels = src.channels;
    s.out_channels = dst.channels;
    s.src = src.address;
    s.dst = dst.address;
    s.weights = weights.word;
    return s;
}

/// The same with an activation function and its output factor, of which multiplier 0 means that of the column.
constexpr Step linear_activated(Value dst, Value src, Weights weights, Factor out, std::uint8_t function = 0, std::uint8_t frac = 8)
{
    Step s = linear(dst, src, weights);
    s.target = Target::ACTIVATED;
    s.out = out;
    s.function = function;
    s.frac = frac;
    return s;
}

/// src -> the operand memory, 16 bits.
constexpr Step linear_operand(Value operand, Value src, Weights weights)
{
    Step s = linear(operand, src, weights);
    s.target = Target::OPERAND;
    return s;
}

/// src -> dst, times what is in the operand memory, behind an activation function where `frac` is not 0.
constexpr Step linear_multiplied(Value dst, Value src, Weights weights, Value operand, std::uint8_t shift, std::uint8_t frac = 0,
                                 std::uint8_t function = 0)
{
    Step s = linear_activated(dst, src, weights, Factor{1, shift}, function, frac);
    s.target = Target::MULTIPLIED;
    s.operand = operand.address;
    return s;
}

/// src -> dst, pairs of channels turned by cosines and sines in the operand memory.
constexpr Step linear_rotated(Value dst, Value src, Weights weights, Value operand, std::uint8_t shift)
{
    Step s = linear_multiplied(dst, src, weights, operand, shift);
    s.target = Target::ROTATED;
    s.first_token = operand.tokens;
    s.size = operand.channels;
    return s;
}

/// Residual stream += src, from row `first_token` on.
constexpr Step linear_residual(Shape residual, std::uint16_t first_token, Value src, Weights weights)
{
    Step s = linear(Value{0, residual.tokens, residual.channels}, src, weights);
    s.target = Target::RESIDUAL;
    s.first_token = first_token;
    return s;
}

/// Rows of src, added up -> int32 words of the output.
constexpr Step head(Output output, Value src, Rows rows, Weights weights)
{
    Step s = linear(Value{output.word, 1, output.channels}, src, weights);
    s.target = Target::OUTPUT;
    s.first_token = rows.first;
    s.rows = rows.count;
    return s;
}

/// Rows of src, each -> int32 words of the output.
constexpr Step features(Output output, Value src, Rows rows, Weights weights)
{
    Step s = head(output, src, rows, weights);
    s.dst_tokens = rows.count;
    return s;
}

/// q, k, v -> dst; as many rows of q and of dst as there are queries, of k and v as there are keys.
constexpr Step attention(Value dst, Value q, Value k, Value v, std::uint16_t heads, Factor score, Factor out,
                         std::uint8_t frac = 6)
{
    Step s;
    s.kind = Kind::ATTENTION;
    s.tokens = k.tokens;
    s.rows = q.tokens;
    s.dst_tokens = q.tokens;
    s.key_rows = k.tokens;
    s.count = heads;
    s.size = static_cast<std::uint16_t>(q.channels / heads);
    s.value_size = static_cast<std::uint16_t>(v.channels / heads);
    s.src = q.address;
    s.keys = k.address;
    s.values = v.address;
    s.dst = dst.address;
    s.first = score;
    s.out = out;
    s.frac = frac;
    return s;
}

/// src -> the queues of the experts.
constexpr Step route(Value src, Choice choice, Weights weights)
{
    Step s = linear(Value{0, src.tokens, choice.experts}, src, weights);
    s.kind = Kind::ROUTE;
    s.target = Target::LOGITS;
    s.count = choice.experts;
    s.size = choice.top_k;
    s.renormalize = choice.renormalize;
    return s;
}

/// The same by scores, the results of an activation function; `out` is the factor behind it. The bias of the choice is behind the weights.
constexpr Step choose(Value src, Choice choice, Weights weights, Factor out, std::uint8_t function = 0, std::uint8_t frac = 8)
{
    Step s = route(src, choice, weights);
    s.kind = Kind::CHOOSE;
    s.target = Target::SCORES;
    s.out = out;
    s.function = function;
    s.frac = frac;
    return s;
}

/// src -> the list of the `keep` rows with the largest results, numbers from `first` on.
constexpr Step pick(Value src, std::uint16_t keep, std::uint16_t first, bool ranked, Weights weights)
{
    Step s = route(src, Choice{1, keep, ranked}, weights);
    s.kind = Kind::PICK;
    s.keys = first;
    return s;
}

/// The same of scores that lie side by side in a residual stream of one row.
constexpr Step pick_row(std::uint16_t tokens, std::uint16_t keep, std::uint16_t first, bool ranked)
{
    Step s = pick(Value{0, tokens, 0}, keep, first, ranked, Weights{0});
    s.limit = 1;
    return s;
}

/// How much row `rows.first` of q looks at k, from row `rows.count` on: a residual stream of one row.
constexpr Step attended(Value q, Value k, std::uint16_t heads, Rows rows, Factor score, Factor out, std::uint8_t frac)
{
    Step s;
    s.kind = Kind::ATTENDED;
    s.tokens = k.tokens;
    s.key_rows = k.tokens;
    s.rows = q.tokens;
    s.first_token = rows.first;
    s.limit = rows.count;
    s.count = heads;
    s.size = static_cast<std::uint16_t>(q.channels / heads);
    s.src = q.address;
    s.keys = k.address;
    s.first = score;
    s.out = out;
    s.frac = frac;
    return s;
}

/// Residual stream += every expert's result for the tokens of its queue, weighed; `hidden` is room for the layer between.
constexpr Step experts(Value src, Value hidden, std::uint16_t count, Weights weights, Factor out,
                       std::uint8_t function = 0, std::uint8_t frac = 8)
{
    Step s = linear_activated(hidden, src, weights, out, function, frac);
    s.kind = Kind::EXPERTS;
    s.count = count;
    s.size = hidden.channels;
    return s;
}

}  // namespace hwgen

#endif
