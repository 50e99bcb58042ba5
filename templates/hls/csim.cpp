// C simulation bench: runs frames through hwgen_top and writes its output words; with --trace also every value.
//
//     csim --weights weights.bin --input input.bin --output output.bin --frames 3 --tasks 0,1
//          [--expect words.bin] [--trace trace.bin] [--lengths 5,12]
//
// Frame f runs for task f modulo the list, and so with the lengths: tokens of its sequence, of an engine that takes fewer. It prints a line per
// frame and at the end one line of JSON. Exit code 1: an output word is not what --expect holds; 2: bad input.
// The trace: per step and frame two uint32, step and bytes, then the words of the value the step wrote, as in memory.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>

#include "hwgen/weight_file.hpp"
#include "hwgen_program.hpp"
#include "hwgen_top.hpp"

namespace {

std::FILE *trace_file = nullptr;
std::uint16_t length = 0;  // of the frame that runs

[[noreturn]] void fail(const std::string &message)
{
    std::fprintf(stderr, "error: %s\n", message.c_str());
    std::exit(2);
}

void dump(unsigned step, const void *data, std::size_t bytes)
{
    const std::uint32_t head[2] = {step, static_cast<std::uint32_t>(bytes)};
    if (std::fwrite(head, sizeof head, 1, trace_file) != 1 || std::fwrite(data, 1, bytes, trace_file) != bytes) {
        fail("the trace cannot be written");
    }
}

/// Writes `words` of the activation memory, the low halves of words of 16 bits behind the high ones.
void dump_value(unsigned step, const hwgen::Memories<Config> &m, unsigned address, std::size_t words, bool wide)
{
    const std::size_t bytes = words * sizeof m.act[0];
    std::vector<hwgen::Act> data(bytes * (wide ? 2 : 1));
    std::memcpy(data.data(), m.act[address], bytes);
    if (wide) {
        std::memcpy(data.data() + bytes, m.low[address], bytes);
    }
    dump(step, data.data(), data.size());
}

/// Writes the residual memory from word `stream` on.
void dump_stream(unsigned step, const hwgen::Memories<Config> &m, unsigned stream)
{
    dump(step, m.residual[stream], sizeof m.residual - stream * sizeof m.residual[0]);
}

/// Writes the value a step produced; an output is in the output file.
void observe(unsigned index, const hwgen::Memories<Config> &m)
{
    const hwgen::Step s = hwgen::shortened(PROGRAM[index], length);
    const std::size_t in_words = hwgen::words_of(s.in_channels, Config::LANES);
    const std::size_t out_words = hwgen::words_of(s.out_channels, Config::LANES);
    switch (s.kind) {
    case hwgen::Kind::PATCHES:
    case hwgen::Kind::CONSTANT:
    case hwgen::Kind::LAYER_NORM:
    case hwgen::Kind::RESCALE:
        dump_value(index, m, s.dst, in_words * s.tokens, s.wide_result);
        break;
    case hwgen::Kind::ATTENTION:
        dump_value(index, m, s.dst, std::size_t{hwgen::words_of(1U * s.count * s.value_size, Config::LANES)} * s.dst_tokens, s.wide_result);
        break;
    case hwgen::Kind::RESIDUAL_INIT:
    case hwgen::Kind::RESIDUAL_ADD:
    case hwgen::Kind::TOKENS:
    case hwgen::Kind::EXPERTS:
        dump_stream(index, m, s.stream);
        break;
    case hwgen::Kind::SCALE:
        if (s.target == hwgen::Target::ACT) {
            dump_value(index, m, s.dst, out_words * s.dst_tokens, false);
        } else {
            dump_stream(index, m, s.stream);
        }
        break;
    case hwgen::Kind::OPERANDS:
        dump(index, m.operand[s.dst], in_words * s.tokens * sizeof m.operand[0]);
        break;
    case hwgen::Kind::ATTENDED:
        dump(index, m.residual[s.stream], hwgen::words_of(s.tokens - s.limit, Config::LANES) * sizeof m.residual[0]);
        break;
    case hwgen::Kind::PICK:
        dump(index, m.kept, std::size_t{hwgen::words_of(s.size, Config::LANES)} * Config::LANES * sizeof m.kept[0]);
        break;
    case hwgen::Kind::ROUTE:
    case hwgen::Kind::CHOOSE:
        dump(index, m.logits, out_words * s.tokens * sizeof m.logits[0]);
        break;
    case hwgen::Kind::LINEAR:
        if (s.target == hwgen::Target::RESIDUAL) {
            dump_stream(index, m, s.stream);
        } else if (s.target == hwgen::Target::OPERAND) {
            dump(index, m.operand[s.dst], out_words * s.rows * sizeof m.operand[0]);
        } else if (s.target != hwgen::Target::OUTPUT) {
            dump_value(index, m, s.dst, out_words * s.tokens, s.wide_result);
        }
        break;
    }
}

std::vector<BusWord> to_words(const std::vector<unsigned char> &bytes)
{
    std::vector<BusWord> words(bytes.size() / Config::LANES);
    for (std::size_t i = 0; i < words.size(); ++i) {
        for (unsigned lane = 0; lane < Config::LANES; ++lane) {
            const int low = static_cast<int>(8 * lane);
            words[i].range(low + 7, low) = bytes[i * Config::LANES + lane];
        }
    }
    return words;
}

std::vector<int> numbers(const std::string &text)
{
    std::vector<int> result;
    const char *place = text.c_str();
    while (*place != '\0') {
        char *end = nullptr;
        result.push_back(static_cast<int>(std::strtol(place, &end, 0)));
        if (end == place) {
            fail("'" + text + "' is no list of numbers");
        }
        place = *end == ',' ? end + 1 : end;
    }
    return result;
}

/// Ends the program when the output words are not those of the file.
void check(const std::vector<hwgen::Acc> &output, const std::string &path)
{
    std::vector<unsigned char> bytes;
    if (!hwgen::read_file(path, bytes) || bytes.size() != output.size() * sizeof output[0]) {
        fail(path + ": does not hold " + std::to_string(output.size()) + " words");
    }
    for (std::size_t i = 0; i < output.size(); ++i) {
        const auto expected = static_cast<hwgen::Acc>(hwgen::little_endian(&bytes[4 * i], 4));
        if (output[i] != expected) {
            std::fprintf(stderr, "error: output word %zu is %d, expected is %d\n", i, output[i], expected);
            std::exit(1);
        }
    }
}

}  // namespace

int main(int argc, char **argv)
{
    std::map<std::string, std::string> options;
    for (int i = 1; i + 1 < argc; i += 2) {
        options[argv[i]] = argv[i + 1];
    }
    for (const char *name : {"--weights", "--input", "--output", "--frames", "--tasks"}) {
        if (options.count(name) == 0) {
            fail(std::string("the option ") + name + " is missing");
        }
    }
    std::vector<unsigned char> bytes;
    const std::string problem = hwgen::read_weights(
        options["--weights"], {Config::LANES, std::uint64_t{WEIGHT_WORDS} * Config::LANES, WEIGHT_DIGEST}, bytes);
    if (!problem.empty()) {
        fail(problem);
    }
    const std::vector<BusWord> weights = to_words(bytes);
    const auto frames = static_cast<std::size_t>(numbers(options["--frames"]).front());
    const std::vector<int> tasks = numbers(options["--tasks"]);
    for (const int task : tasks) {
        if (task < 0 || task >= static_cast<int>(NUM_TASKS)) {
            fail("there is no task " + std::to_string(task));
        }
    }
    std::vector<std::uint16_t> lengths;
    for (const int number : numbers(options.count("--lengths") != 0 ? options["--lengths"] : "0")) {
        lengths.push_back(static_cast<std::uint16_t>(number));
    }
    const std::size_t frame_bytes = std::size_t{INPUT_WORDS} * Config::LANES;
    if (!hwgen::read_file(options["--input"], bytes) || bytes.size() != frames * frame_bytes) {
        fail(options["--input"] + ": holds " + std::to_string(bytes.size()) + " bytes, " + std::to_string(frames) +
             " frames need " + std::to_string(frames * frame_bytes));
    }
    const std::vector<BusWord> input = to_words(bytes);
    if (options.count("--trace") != 0) {
        trace_file = std::fopen(options["--trace"].c_str(), "wb");
        if (trace_file == nullptr) {
            fail(options["--trace"] + ": cannot be written");
        }
        hwgen::Observer<Config>::function = observe;
    }
    std::vector<hwgen::Acc> output(frames * OUTPUT_WORDS, 0);
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t f = 0; f < frames; ++f) {
#ifdef HWGEN_LENGTHS
        length = lengths[f % lengths.size()];
        hwgen_top(weights.data(), tasks[f % tasks.size()], &input[f * INPUT_WORDS], &output[f * OUTPUT_WORDS], length);
#else
        hwgen_top(weights.data(), tasks[f % tasks.size()], &input[f * INPUT_WORDS], &output[f * OUTPUT_WORDS]);
#endif
        std::printf("frame %zu\n", f + 1);
        (void)std::fflush(stdout);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::FILE *file = std::fopen(options["--output"].c_str(), "wb");
    if (file == nullptr || std::fwrite(output.data(), sizeof output[0], output.size(), file) != output.size() ||
        std::fclose(file) != 0) {
        fail(options["--output"] + ": cannot be written");
    }
    if (trace_file != nullptr && std::fclose(trace_file) != 0) {
        fail("the trace cannot be written");
    }
    if (options.count("--expect") != 0) {
        check(output, options["--expect"]);
    }
    std::printf("{\"frames\": %zu, \"seconds\": %.6f}\n", frames, seconds.count());
    return 0;
}
