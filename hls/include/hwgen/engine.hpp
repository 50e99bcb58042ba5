// The engine: a table of steps in the order of the network drives the units, one instance each.
//
// The weights of all steps form one sequential stream; a loader process reads it from memory and runs ahead of the engine as far
// as the stream is deep, so the weights of an expert (or of the next layer) arrive while the one before computes.
#ifndef HWGEN_ENGINE_HPP
#define HWGEN_ENGINE_HPP

#include "hwgen/attended.hpp"
#include "hwgen/attention.hpp"
#include "hwgen/layer_norm.hpp"
#include "hwgen/linear.hpp"
#include "hwgen/patch_embed.hpp"
#include "hwgen/pick.hpp"
#include "hwgen/sequence.hpp"
#include "hwgen/variants.hpp"

namespace hwgen {

/// Sizes of the whole engine; a generated struct replaces all of them.
struct EngineConfig : LinearConfig, LayerNormConfig, AttentionConfig, PatchEmbedConfig, PickConfig {
    static constexpr unsigned LANES = 16;
    static constexpr unsigned MAX_TOKENS = 64;
    static constexpr unsigned ACT_WORDS = 1024;  ///< activation memory
    static constexpr unsigned LOW_WORDS = 1;     ///< low halves of what has 16 bits in it: as many words, or 1
    static constexpr unsigned RESIDUAL_WORDS = 256;
    static constexpr unsigned LOGIT_WORDS = 64;
    static constexpr unsigned OPERAND_WORDS = 1;
};

/// On-chip memories.
template <class Config>
struct Memories {
    Act act[Config::ACT_WORDS][Config::LANES];
    Act low[Config::LOW_WORDS][Config::LANES];
    Res residual[Config::RESIDUAL_WORDS][Config::LANES];
    Res logits[Config::LOGIT_WORDS][Config::LANES];
    Res operand[Config::OPERAND_WORDS][Config::LANES];
    Queues<Config> queues;
    std::uint16_t kept[list_room<Config>()];
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
    case Kind::OPERANDS:
        return 2U * s.tokens * words_of(s.in_channels, Config::LANES);
    case Kind::CONSTANT:
        return s.tokens * words_of(s.in_channels, Config::LANES);
    case Kind::SCALE:
        return COLUMN_BYTES * words_of(s.in_channels, Config::LANES);
    case Kind::LINEAR:
        if (s.mixed) {
            return 0;
        }
        return s.taps == 0 ? linear_words(s.in_channels, s.out_channels, Config::LANES)
                           : list_words(s.taps, s.rows, Config::LANES) +
                                 linear_words(s.taps * words_of(s.in_channels, Config::LANES) * Config::LANES, s.out_channels, Config::LANES);
    case Kind::PICK:
        return s.limit != 0 ? 0 : linear_words(s.in_channels, s.out_channels, Config::LANES);
    case Kind::ROUTE:
        return linear_words(s.in_channels, s.out_channels, Config::LANES);
    case Kind::CHOOSE:
        return linear_words(s.in_channels, s.out_channels, Config::LANES) + (2U * words_of(s.count, Config::LANES));
    case Kind::EXPERTS:
        return s.count * ((s.target == Target::MULTIPLIED ? 2U : 1U) * linear_words(s.in_channels, s.size, Config::LANES) +
                          linear_words(s.size, s.in_channels, Config::LANES));
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
                     s.target, false,         0,      s.out,        s.function,    s.wide_source, s.wide_result, s.frac,
                     s.operand, s.fresh,  s.stream,       s.size,       s.taps,        s.mixed,       s.values,      s.count,       s.first};
}

/// The norm of a LAYER_NORM, RESCALE or SCALE step.
inline LayerNormJob norm_job(const Step &s)
{
#pragma HLS INLINE
    return LayerNormJob{s.tokens, s.in_channels, s.dst, s.eps, s.first, s.out, s.kind == Kind::RESCALE || (s.kind == Kind::SCALE && s.limit != 0), s.wide_result, s.src, s.rms};
}

/// The bias of the choice, then the choice by scores.
template <class Config>
void choose_experts(const Step &s, hls::stream<Word<Config::LANES>> &stream, Memories<Config> &m)
{
#pragma HLS INLINE
    Res bias[Config::MAX_EXPERTS] = {};
#pragma HLS ARRAY_PARTITION variable = bias complete
    for (unsigned i = 0; i < 2 * words_of(s.count, Config::LANES); ++i) {
#pragma HLS PIPELINE II = 1
        const Word<Config::LANES> word = stream.read();
        for (unsigned c = 0; c < Config::LANES / 2; ++c) {
#pragma HLS UNROLL
            const unsigned e = i * (Config::LANES / 2) + c;
            if (e < Config::MAX_EXPERTS) {
                bias[e] = static_cast<Res>(half_of<Config::LANES>(word, c));
            }
        }
    }
    choose<Config>(RouterJob{s.tokens, s.count, s.size, s.renormalize}, m.logits, bias, m.queues);
}

/// All experts in order: each one's weights are read once, whoever chose it. Gated ones have a layer more, in front of the others.
template <class Config>
void run_experts(const Step &s, hls::stream<Word<Config::LANES>> &stream, Memories<Config> &m, Acc *output)
{
#pragma HLS INLINE
    for (unsigned e = 0; e < s.count; ++e) {
        for (unsigned layer = s.target == Target::MULTIPLIED ? 0 : 1; layer < 3; ++layer) {
            LinearJob job = linear_job(s);
            job.expert = e;
            job.gather = layer < 2;
            job.wide_source = layer == 2 && s.wide_source;
            job.wide_result = layer == 1 && s.wide_source;
            if (layer == 0) {
                job.target = Target::OPERAND;
                job.dst = s.operand;
            }
            if (layer == 2) {
                job.in_channels = s.size;
                job.out_channels = s.in_channels;
                job.src = s.dst;
                job.target = Target::WEIGHED;
            }
            linear<Config>(job, stream, m.act, m.low, m.residual, m.logits, m.operand, m.queues, output);
        }
    }
}

/// Process 2: the steps of one frame; length: tokens of its sequence, 0 for as many as were compiled.
template <class Config>
void run_steps(const Step steps[], unsigned num_steps, hls::stream<Word<Config::LANES>> &stream, int task,
               const Word<Config::LANES> *input, Acc *output, std::uint16_t length = 0)
{
    static Memories<Config> m;
#pragma HLS ARRAY_PARTITION variable = m.act complete dim = 2
#pragma HLS ARRAY_PARTITION variable = m.low complete dim = 2
#pragma HLS ARRAY_PARTITION variable = m.residual complete dim = 2
#pragma HLS ARRAY_PARTITION variable = m.logits complete dim = 2
#pragma HLS ARRAY_PARTITION variable = m.operand complete dim = 2
// clang-format off
#pragma HLS ALLOCATION function instances = linear<Config> limit = 1
#pragma HLS ALLOCATION function instances = attention<Config> limit = 1
#pragma HLS ALLOCATION function instances = layer_norm<Config> limit = 1
    // clang-format on
    for (unsigned i = 0; i < num_steps; ++i) {
        const Step s = Config::LENGTHS ? shortened(steps[i], length) : steps[i];
        const Rectangle in{words_of(s.in_channels, Config::LANES), steps[i].tokens, s.tokens};  // of what comes from outside
        const Rectangle out{words_of(s.out_channels, Config::LANES), steps[i].tokens, s.tokens};
        if (s.task != ALL_TASKS && s.task != task) {
            continue;
        }
        switch (s.kind) {
        case Kind::PATCHES:
            load_patches<Config>(input, in, m.act, s.dst);
            break;
        case Kind::RESIDUAL_INIT:
        case Kind::RESIDUAL_ADD:
            load_residual<Config>(stream, out, s.kind == Kind::RESIDUAL_ADD, s.stream, m.residual);
            break;
        case Kind::CONSTANT:
            load_constant<Config>(stream, in, m.act, s.dst);
            break;
        case Kind::OPERANDS:
            load_operand<Config>(stream, s.tokens * words_of(s.in_channels, Config::LANES), m.operand, s.dst);
            break;
        case Kind::TOKENS:
            load_tokens<Config>(input, out, s.stream, m.residual);
            break;
        case Kind::LAYER_NORM:
        case Kind::RESCALE:
            layer_norm<Config>(norm_job(s), m.residual, m.act, m.low);
            break;
        case Kind::SCALE:
            scale<Config>(norm_job(s), ScaleJob{s.keys, s.rows, s.stream, s.dst_tokens, s.first_token, s.fresh, s.target == Target::ACT, s.size, s.operand,
                                                      s.values, s.frac, s.taps != 0}, stream, m.residual, m.act, m.operand, m.kept);
            break;
        case Kind::LINEAR:
            linear<Config>(linear_job(s), stream, m.act, m.low, m.residual, m.logits, m.operand, m.queues, output);
            break;
        case Kind::ATTENTION:
            attention<Config>(AttentionJob{s.tokens, s.rows, s.key_rows, s.dst_tokens, s.count, s.size, s.value_size, s.src, s.keys, s.values,
                                           s.dst + s.first_token, s.first, s.out, s.wide_result, s.frac, s.limit, s.biased, s.operand, s.out_channels,
                                           s.in_channels},
                              m.act, m.low, m.operand);
            break;
        case Kind::ROUTE:
            linear<Config>(linear_job(s), stream, m.act, m.low, m.residual, m.logits, m.operand, m.queues, output);
            route<Config>(RouterJob{s.tokens, s.count, s.size, s.renormalize}, m.logits, m.queues);
            break;
        case Kind::CHOOSE:
            linear<Config>(linear_job(s), stream, m.act, m.low, m.residual, m.logits, m.operand, m.queues, output);
            if (Config::SCORES) {
                choose_experts<Config>(s, stream, m);
            }
            break;
        case Kind::PICK:
            if (Config::PICKS && s.limit == 0) {
                linear<Config>(linear_job(s), stream, m.act, m.low, m.residual, m.logits, m.operand, m.queues, output);
            }
            if (Config::PICKS) {
                pick<Config>(PickJob{s.rows, s.size, s.keys, s.renormalize, s.limit != 0, s.src}, s.limit != 0 ? m.residual : m.logits, m.kept);
            }
            break;
        case Kind::ATTENDED:
            if (Config::PICKS) {
                attended<Config>(AttendedJob{s.tokens, s.key_rows, s.first_token, s.rows, s.limit, s.count, s.size, s.src, s.keys, s.stream, s.first,
                                             s.out, s.frac}, m.act, m.residual);
            }
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
