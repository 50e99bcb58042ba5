// The engine: a table of steps in the order of the network drives the units, one instance each.
//
// The weights of all steps form one sequential stream; a loader process reads it from memory and runs ahead of the engine as far
// as the stream is deep, so the weights of an expert (or of the next layer) arrive while the one before computes.
#ifndef HWGEN_ENGINE_HPP
#define HWGEN_ENGINE_HPP

#include "hwgen/attention.hpp"
#include "hwgen/layer_norm.hpp"
#include "hwgen/linear.hpp"
#include "hwgen/patch_embed.hpp"

namespace hwgen {

/// Sizes of the whole engine; a generated struct replaces all of them.
struct EngineConfig : LinearConfig, LayerNormConfig, AttentionConfig, PatchEmbedConfig {
    static constexpr unsigned LANES = 16;
    static constexpr unsigned MAX_TOKENS = 64;
    static constexpr unsigned ACT_WORDS = 1024;  ///< activation memory
    static constexpr unsigned LOW_WORDS = 1;     ///< low halves of what has 16 bits in it: as many words, or 1
    static constexpr unsigned RESIDUAL_WORDS = 256;
    static constexpr unsigned LOGIT_WORDS = 64;
};

/// What a step does.
enum class Kind : std::uint8_t { PATCHES, RESIDUAL_INIT, LAYER_NORM, LINEAR, ATTENTION, ROUTE, EXPERTS, TOKENS, RESIDUAL_ADD, RESCALE };

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

/// The residual stream becomes the input of the frame.
constexpr Step tokens(Shape residual)
{
    Step s = residual_init(residual, Weights{0});
    s.kind = Kind::TOKENS;
    return s;
}

/// A step whose source, or whose result, has words of 16 bits.
constexpr Step wide(Step step, bool source, bool result)
{
    step.wide_source = source;
    step.wide_result = result;
    return step;
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

/// The same product of some rows of its source only.
constexpr Step some(Step s, Rows rows)
{
    s.src += rows.first;
    s.rows = rows.count;
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

/// q, k, v -> dst.
constexpr Step attention(Value dst, Value q, Value k, Value v, std::uint16_t heads, Factor score, Factor out,
                         std::uint8_t frac = 6)
{
    Step s;
    s.kind = Kind::ATTENTION;
    s.tokens = q.tokens;
    s.count = heads;
    s.size = static_cast<std::uint16_t>(q.channels / heads);
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

/// On-chip memories.
template <class Config>
struct Memories {
    Act act[Config::ACT_WORDS][Config::LANES];
    Act low[Config::LOW_WORDS][Config::LANES];
    Res residual[Config::RESIDUAL_WORDS][Config::LANES];
    Res logits[Config::LOGIT_WORDS][Config::LANES];
    Queues<Config> queues;
};

#ifndef __SYNTHESIS__
/// C simulation only: called after every step that ran, with the memories as they are then.
template <class Config>
struct Observer {
    using Function = void (*)(unsigned step, const Memories<Config> &memories);
    static Function function;
};
template <class Config>
typename Observer<Config>::Function Observer<Config>::function = nullptr;
#endif

/// Words of the weight stream a step takes.
template <class Config>
constexpr std::uint32_t weight_words(const Step &s)
{
    switch (s.kind) {
    case Kind::RESIDUAL_INIT:
    case Kind::RESIDUAL_ADD:
        return 2U * s.tokens * words_of(s.out_channels, Config::LANES);
    case Kind::LINEAR:
    case Kind::ROUTE:
        return linear_words(s.in_channels, s.out_channels, Config::LANES);
    case Kind::EXPERTS:
        return s.count *
               (linear_words(s.in_channels, s.size, Config::LANES) + linear_words(s.size, s.in_channels, Config::LANES));
    default:
        return 0;
    }
}

/// Process 1: the weights of a frame's steps, in order.
template <class Config>
void load_weights(const Step steps[], unsigned num_steps, const Word<Config::LANES> *weights, int task,
                  hls::stream<Word<Config::LANES>> &stream)
{
    for (unsigned i = 0; i < num_steps; ++i) {
        if (steps[i].task == ALL_TASKS || steps[i].task == task) {
            const std::uint32_t first = steps[i].weights;
            const std::uint32_t count = weight_words<Config>(steps[i]);
            for (std::uint32_t word = 0; word < count; ++word) {
#pragma HLS PIPELINE II = 1
                stream.write(weights[first + word]);
            }
        }
    }
}

/// The product of a LINEAR, ROUTE or EXPERTS step.
inline LinearJob linear_job(const Step &s)
{
#pragma HLS INLINE
    return LinearJob{s.tokens, s.first_token, s.rows, s.in_channels, s.out_channels, s.src, s.dst, s.dst_tokens,
                     s.target, false,         0,      s.out,        s.function,    s.wide_source, s.wide_result, s.frac};
}

/// All experts in order: each one's weights are read once, whoever chose it.
template <class Config>
void run_experts(const Step &s, hls::stream<Word<Config::LANES>> &stream, Memories<Config> &m, Acc *output)
{
#pragma HLS INLINE
    for (unsigned e = 0; e < s.count; ++e) {
        for (unsigned layer = 0; layer < 2; ++layer) {
            LinearJob job = linear_job(s);
            job.expert = e;
            job.gather = layer == 0;
            job.wide_source = layer == 1 && s.wide_source;
            job.wide_result = layer == 0 && s.wide_source;
            if (layer == 1) {
                job.in_channels = s.size;
                job.out_channels = s.in_channels;
                job.src = s.dst;
                job.target = Target::WEIGHED;
            }
            linear<Config>(job, stream, m.act, m.low, m.residual, m.logits, m.queues, output);
        }
    }
}

/// Process 2: the steps of one frame.
template <class Config>
void run_steps(const Step steps[], unsigned num_steps, hls::stream<Word<Config::LANES>> &stream, int task,
               const Word<Config::LANES> *input, Acc *output)
{
    static Memories<Config> m;
#pragma HLS ARRAY_PARTITION variable = m.act complete dim = 2
#pragma HLS ARRAY_PARTITION variable = m.low complete dim = 2
#pragma HLS ARRAY_PARTITION variable = m.residual complete dim = 2
#pragma HLS ARRAY_PARTITION variable = m.logits complete dim = 2
// clang-format off
#pragma HLS ALLOCATION function instances = linear<Config> limit = 1
#pragma HLS ALLOCATION function instances = attention<Config> limit = 1
#pragma HLS ALLOCATION function instances = layer_norm<Config> limit = 1
    // clang-format on
    for (unsigned i = 0; i < num_steps; ++i) {
        const Step s = steps[i];
        if (s.task != ALL_TASKS && s.task != task) {
            continue;
        }
        switch (s.kind) {
        case Kind::PATCHES:
            load_patches<Config>(input, s.tokens * words_of(s.in_channels, Config::LANES), m.act, s.dst);
            break;
        case Kind::RESIDUAL_INIT:
        case Kind::RESIDUAL_ADD:
            load_residual<Config>(stream, s.tokens * words_of(s.out_channels, Config::LANES), s.kind == Kind::RESIDUAL_ADD,
                                  m.residual);
            break;
        case Kind::TOKENS:
            load_tokens<Config>(input, s.tokens * words_of(s.out_channels, Config::LANES), m.residual);
            break;
        case Kind::LAYER_NORM:
        case Kind::RESCALE:
            layer_norm<Config>(LayerNormJob{s.tokens, s.in_channels, s.dst, s.eps, s.first, s.out, s.kind == Kind::RESCALE,
                                            s.wide_result},
                               m.residual, m.act, m.low);
            break;
        case Kind::LINEAR:
            linear<Config>(linear_job(s), stream, m.act, m.low, m.residual, m.logits, m.queues, output);
            break;
        case Kind::ATTENTION:
            attention<Config>(AttentionJob{s.tokens, s.count, s.size, s.src, s.keys, s.values, s.dst, s.first, s.out, s.wide_result,
                                           s.frac},
                              m.act, m.low);
            break;
        case Kind::ROUTE:
            linear<Config>(linear_job(s), stream, m.act, m.low, m.residual, m.logits, m.queues, output);
            route<Config>(RouterJob{s.tokens, s.count, s.size, s.renormalize}, m.logits, m.queues);
            break;
        case Kind::EXPERTS:
            run_experts<Config>(s, stream, m, output);
            break;
        }
#ifndef __SYNTHESIS__
        if (Observer<Config>::function != nullptr) {
            Observer<Config>::function(i, m);
        }
#endif
    }
}

}  // namespace hwgen

#endif
