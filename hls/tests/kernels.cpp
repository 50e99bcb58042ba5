// Unit tests of the kernels: `kernels NAME < input > output`, both int64 words. tests/hls/test_kernels.py makes the input from
// the numpy functions of hwgen/numerics.py and hwgen/golden and compares every word. Two lane counts, so that words are cut
// differently.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "hwgen/engine.hpp"
#include "hwgen/fused_attention.hpp"

namespace {

std::vector<std::int64_t> input;
std::size_t place = 0;

std::int64_t next()
{
    if (place == input.size()) {
        std::fprintf(stderr, "error: the input ends too early\n");
        std::exit(2);
    }
    return input[place++];
}

unsigned next_size()
{
    return static_cast<unsigned>(next());
}
hwgen::Factor next_factor()
{
    const auto mult = static_cast<std::uint16_t>(next());
    return hwgen::Factor{mult, static_cast<std::uint8_t>(next())};
}

void put(std::int64_t value)
{
    (void)std::fwrite(&value, sizeof value, 1, stdout);
}

bool more()
{
    return place < input.size();
}

template <unsigned L>
struct Config : hwgen::EngineConfig {
    static constexpr unsigned LANES = L;
    static constexpr unsigned QUERIES = 3;
    static constexpr unsigned MAX_TOKENS = 40;
    static constexpr unsigned HEAD_WORDS = 5;
    static constexpr bool CAUSAL = true;
    static constexpr bool BIASED = true;
    static constexpr bool SCORES = true;
    static constexpr unsigned MAX_EXPERTS = 20;
    static constexpr unsigned MAX_TOP_K = 4;
    static constexpr unsigned ACT_WORDS = 2048;
    static constexpr unsigned RESIDUAL_WORDS = 512;
    static constexpr unsigned OPERAND_WORDS = 1536;
    static constexpr unsigned LOGIT_WORDS = 256;
    static constexpr unsigned GUARD = hwgen::FusedAttentionConfig::GUARD;
};

template <unsigned L>
hwgen::Memories<Config<L>> memories;

/// [tokens, channels] into a memory of words.
template <unsigned L, class T>
void load(T memory[][L], unsigned address, unsigned tokens, unsigned channels)
{
    for (unsigned t = 0; t < tokens; ++t) {
        for (unsigned c = 0; c < channels; ++c) {
            memory[address + c / L * tokens + t][c % L] = static_cast<T>(next());
        }
    }
}

template <unsigned L, class T>
void store(T memory[][L], unsigned address, unsigned tokens, unsigned channels)
{
    for (unsigned t = 0; t < tokens; ++t) {
        for (unsigned c = 0; c < channels; ++c) {
            put(memory[address + c / L * tokens + t][c % L]);
        }
    }
}

/// The rest of the input as words of the weight stream.
template <unsigned L>
void load_stream(hls::stream<hwgen::Word<L>> &stream)
{
    while (more()) {
        hwgen::Word<L> word;
        for (unsigned lane = 0; lane < L; ++lane) {
            const int low = static_cast<int>(8 * lane);
            word.range(low + 7, low) = static_cast<std::uint64_t>(next());
        }
        stream.write(word);
    }
}

void requantize()
{
    while (more()) {
        const std::int64_t acc = next();
        const hwgen::Scale scale = hwgen::scale_of(next_factor());
        put(hwgen::requantize<8>(acc, scale));
        put(hwgen::requantize<16>(acc, scale));
    }
}

void activation()
{
    const unsigned function = next_size();
    const unsigned frac = next_size();
    while (more()) {
        put(hwgen::activation<hwgen::ActivationConfig>(static_cast<hwgen::Res>(next()), function, frac).to_int64());
    }
}

void exponentials()
{
    const unsigned frac = next_size();
    while (more()) {
        const unsigned distance = next_size();
        put(hwgen::exp2_p8(distance, frac));
        put(hwgen::exp2_q15(distance));
    }
}

void reciprocal()
{
    while (more()) {
        int exponent = 0;
        put(hwgen::reciprocal(next(), exponent));
        put(exponent);
    }
}

void rsqrt()
{
    while (more()) {
        int exponent = 0;
        put(hwgen::rsqrt(next(), exponent));
        put(exponent);
    }
}

/// Rows of logits, their length first -> bias and sum.
void online_softmax()
{
    const unsigned length = next_size();
    while (more()) {
        hwgen::OnlineSoftmax softmax;
        softmax.first(static_cast<hwgen::Res>(next()));
        for (unsigned i = 1; i < length; ++i) {
            softmax.next(static_cast<hwgen::Res>(next()));
        }
        put(softmax.bias);
        put(softmax.sum);
    }
}

template <unsigned L>
void layer_norm()
{
    hwgen::LayerNormJob job{next_size(), next_size(), 7, next(), {}, {}, false, false, 0, false};
    job.inverse = next_factor();
    job.out = next_factor();
    load<L>(memories<L>.residual, 0, job.tokens, job.channels);
    hwgen::layer_norm<Config<L>>(job, memories<L>.residual, memories<L>.act, memories<L>.low);
    store<L>(memories<L>.act, 7, job.tokens, job.channels);
}

/// A product into every kind of target, the weights as they are in the image.
template <unsigned L>
void linear()
{
    hwgen::LinearJob job{};
    job.tokens = next_size();
    job.in_channels = next_size();
    job.out_channels = next_size();
    job.rows = next_size();
    job.first_token = next_size();
    job.dst_tokens = next_size();
    job.target = static_cast<hwgen::Target>(next());
    job.out = next_factor();
    job.frac = next_size();
    job.src = 3;
    const bool output = job.target == hwgen::Target::OUTPUT;
    const bool residual = job.target == hwgen::Target::RESIDUAL;
    job.dst = output ? 0 : 1024;
    load<L>(memories<L>.act, job.src, job.tokens, job.in_channels);
    if (residual) {
        load<L>(memories<L>.residual, 0, job.dst_tokens, job.out_channels);
    }
    if (job.target == hwgen::Target::MULTIPLIED) {
        job.operand = 2;
        load<L>(memories<L>.operand, job.operand, job.rows, job.out_channels);
    }
    hls::stream<hwgen::Word<L>> stream("weights");
    load_stream<L>(stream);
    std::vector<hwgen::Acc> out(output ? job.dst_tokens * job.out_channels : 0);
    hwgen::linear<Config<L>>(job, stream, memories<L>.act, memories<L>.low, memories<L>.residual, memories<L>.logits,
                             memories<L>.operand, memories<L>.queues, out.data());
    put(stream.empty() ? 1 : 0);
    for (const hwgen::Acc word : out) {
        put(word);
    }
    if (residual) {
        store<L>(memories<L>.residual, 0, job.dst_tokens, job.out_channels);
    } else if (job.target == hwgen::Target::LOGITS) {
        store<L>(memories<L>.logits, 0, job.dst_tokens, job.out_channels);
    } else if (job.target == hwgen::Target::OPERAND) {
        store<L>(memories<L>.operand, job.dst, job.dst_tokens, job.out_channels);
    } else if (!output) {
        store<L>(memories<L>.act, job.dst, job.dst_tokens, job.out_channels);
    }
}

template <unsigned L>
hwgen::AttentionJob attention_job()
{
    hwgen::AttentionJob job{};
    job.tokens = next_size();
    job.queries = next_size();
    job.key_rows = job.tokens;
    job.query_rows = job.queries;
    job.heads = next_size();
    job.head_dim = next_size();
    job.value_dim = next_size();
    job.score = next_factor();
    job.out = next_factor();
    job.frac = next_size();
    job.limit = next_size();
    job.biased = next_size() != 0;
    const unsigned channels = job.heads * job.head_dim;
    const unsigned values = job.heads * job.value_dim;
    job.q = 1;
    job.k = job.q + hwgen::words_of(channels, L) * job.queries;
    job.v = job.k + hwgen::words_of(channels, L) * job.tokens;
    job.dst = job.v + hwgen::words_of(values, L) * job.tokens;
    load<L>(memories<L>.act, job.q, job.queries, channels);
    load<L>(memories<L>.act, job.k, job.tokens, channels);
    load<L>(memories<L>.act, job.v, job.tokens, values);
    if (job.biased) {
        job.operand = 5;
        job.bias_queries = job.queries;
        job.bias_keys = job.tokens;
        load<L>(memories<L>.operand, job.operand, job.queries, job.heads * job.tokens);
    }
    return job;
}

template <unsigned L>
void attention()
{
    const hwgen::AttentionJob job = attention_job<L>();
    hwgen::attention<Config<L>>(job, memories<L>.act, memories<L>.low, memories<L>.operand);
    store<L>(memories<L>.act, job.dst, job.queries, job.heads * job.value_dim);
}

template <unsigned L>
void fused_attention()
{
    const hwgen::AttentionJob job = attention_job<L>();
    hwgen::fused_attention<Config<L>>(job, memories<L>.act);
    store<L>(memories<L>.act, job.dst, job.tokens, job.heads * job.head_dim);
}

/// Logits -> the tickets of every expert: count, then token and score of each.
template <unsigned L>
void router()
{
    const hwgen::RouterJob job{next_size(), next_size(), next_size(), next() != 0};
    load<L>(memories<L>.logits, 0, job.tokens, job.experts);
    hwgen::Queues<Config<L>> &queues = memories<L>.queues;
    hwgen::route<Config<L>>(job, memories<L>.logits, queues);
    for (unsigned e = 0; e < job.experts; ++e) {
        put(queues.count[e]);
        for (unsigned i = 0; i < queues.count[e]; ++i) {
            put(queues.tickets[e][i].token);
            put(queues.tickets[e][i].score);
        }
    }
}

/// Words of the input -> the activation memory; a constant -> the residual stream.
template <unsigned L>
void patch_embed()
{
    const unsigned tokens = next_size();
    const unsigned channels = next_size();
    const unsigned count = tokens * hwgen::words_of(channels, L);
    hls::stream<hwgen::Word<L>> stream("input");
    load_stream<L>(stream);
    std::vector<hwgen::Word<L>> words;
    for (unsigned i = 0; i < count; ++i) {
        words.push_back(stream.read());
    }
    hwgen::load_patches<Config<L>>(words.data(), {1, count, count}, memories<L>.act, 5);
    hwgen::load_residual<Config<L>>(stream, {1, count, count}, false, 0, memories<L>.residual);
    store<L>(memories<L>.act, 5, tokens, channels);
    store<L>(memories<L>.residual, 0, tokens, channels);
}

struct Test {
    const char *name;
    void (*function)();
};

const Test TESTS[] = {
    {"requantize", requantize},
    {"activation", activation},
    {"exponentials", exponentials},
    {"reciprocal", reciprocal},
    {"rsqrt", rsqrt},
    {"online_softmax", online_softmax},
    {"layer_norm8", layer_norm<8>},
    {"layer_norm16", layer_norm<16>},
    {"linear8", linear<8>},
    {"linear16", linear<16>},
    {"attention8", attention<8>},
    {"attention16", attention<16>},
    {"fused8", fused_attention<8>},
    {"fused16", fused_attention<16>},
    {"router8", router<8>},
    {"router16", router<16>},
    {"patches8", patch_embed<8>},
    {"patches16", patch_embed<16>},
};

}  // namespace

int main(int argc, char **argv)
{
    std::int64_t value = 0;
    while (std::fread(&value, sizeof value, 1, stdin) == 1) {
        input.push_back(value);
    }
    for (const Test &test : TESTS) {
        if (argc == 2 && std::strcmp(argv[1], test.name) == 0) {
            test.function();
            return 0;
        }
    }
    std::fprintf(stderr, "error: which kernel?\n");
    return 2;
}
