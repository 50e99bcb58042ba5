// Native test bench of a generated accelerator: drives the AXI4-Lite registers, models the memory behind the AXI4 master,
// counts cycles per instruction. Compiled with the Verilated model; needs nothing else. `./bench --help` lists the options.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "Vhwgen_top.h"
#include "verilated.h"
#include "hwgen.h"
#if VM_TRACE
#include "verilated_fst_c.h"
#endif

namespace {

using Bytes = std::vector<uint8_t>;

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "bench: %s\n", message.c_str());
    std::exit(2);
}

struct Options {
    std::map<std::string, std::string> values{
        {"program", "program.bin"}, {"weights", "weights.bin"}, {"input", ""}, {"output", "output.bin"}, {"events", ""}, {"waves", ""},
        {"frames", "1"}, {"tasks", "0"}, {"lengths", ""}, {"unchecked", "0"}, {"latency", "200"},
        {"bytes-per-cycle", "64"}, {"stall", "0"}, {"seed", "0"}, {"max-cycles", "2000000000"}, {"runs", "1"}};
    Options(int argc, char** argv) {
        for (int i = 1; i < argc; ++i) {
            const std::string key = argv[i];
            if (key == "--help") {
                for (const auto& [name, value] : values) std::printf("--%s  (%s)\n", name.c_str(), value.c_str());
                std::exit(0);
            }
            if (key.rfind("--", 0) != 0 || !values.count(key.substr(2)) || i + 1 == argc) fail("unknown option or missing value: " + key);
            values[key.substr(2)] = argv[++i];
        }
    }
    const std::string& text(const char* key) const { return values.at(key); }
    uint64_t number(const char* key) const { return std::strtoull(text(key).c_str(), nullptr, 0); }
    double real(const char* key) const { return std::strtod(text(key).c_str(), nullptr); }
};

Bytes read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail("cannot read " + path);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// ---- one port, whatever C++ type Verilator gives it
template <std::size_t N> void set_port(VlWide<N>& port, const uint8_t* data, std::size_t bytes) {
    std::memset(port.data(), 0, N * 4);
    std::memcpy(port.data(), data, bytes);
}
template <typename T> void set_port(T& port, const uint8_t* data, std::size_t bytes) {
    port = 0;
    std::memcpy(&port, data, bytes);
}
template <std::size_t N> void get_port(const VlWide<N>& port, uint8_t* data, std::size_t bytes) { std::memcpy(data, port.data(), bytes); }
template <typename T> void get_port(const T& port, uint8_t* data, std::size_t bytes) { std::memcpy(data, &port, bytes); }

struct Region {
    uint64_t base;
    Bytes bytes;
    uint8_t* at(uint64_t address, std::size_t size) {
        return address >= base && address + size <= base + bytes.size() ? bytes.data() + (address - base) : nullptr;
    }
};

struct Burst { uint64_t address, ready; unsigned beats; };

struct Event { uint32_t frame, pc; uint64_t start, retire; uint32_t issue, wait_tile, wait_hazard, wait_output; };

class Bench {
public:
    Bench(const Options& options, int argc, char** argv) : options_(options) {
        context_.commandArgs(argc, argv);
        top_ = std::make_unique<Vhwgen_top>(&context_);
        beat_ = 1u << top_->m_axi_arsize;
        latency_ = options.number("latency");
        rate_ = options.real("bytes-per-cycle");
        stall_ = static_cast<uint32_t>(options.real("stall") * 4294967295.0);
        random_ = options.number("seed") * 0x9E3779B97F4A7C15ull + 1;
#if VM_TRACE
        if (!options.text("waves").empty()) {
            context_.traceEverOn(true);
            waves_ = std::make_unique<VerilatedFstC>();
            top_->trace(waves_.get(), 99);
            waves_->open(options.text("waves").c_str());
        }
#endif
        top_->clk = 0;
        top_->rst = 1;
        top_->eval();
        beat_ = 1u << top_->m_axi_arsize;
        for (int i = 0; i < 4; ++i) tick();
        top_->rst = 0;
        tick();
    }
    ~Bench() {
#if VM_TRACE
        if (waves_) waves_->close();
#endif
        top_->final();
    }

    void write(uint32_t address, uint32_t value) {
        top_->s_axil_awvalid = top_->s_axil_wvalid = top_->s_axil_bready = 1;
        top_->s_axil_awaddr = address;
        top_->s_axil_wdata = value;
        top_->s_axil_wstrb = 15;
        for (bool taken = false; !taken;) {
            top_->eval();
            taken = top_->s_axil_awready && top_->s_axil_wready;
            tick();
        }
        top_->s_axil_awvalid = top_->s_axil_wvalid = 0;
        while (!top_->s_axil_bvalid) tick();
        const unsigned response = top_->s_axil_bresp;
        tick();
        if (response) fail("register write refused");
    }
    uint32_t read(uint32_t address) {
        top_->s_axil_arvalid = top_->s_axil_rready = 1;
        top_->s_axil_araddr = address;
        for (bool taken = false; !taken;) {
            top_->eval();
            taken = top_->s_axil_arready;
            tick();
        }
        top_->s_axil_arvalid = 0;
        while (!top_->s_axil_rvalid) tick();
        const uint32_t value = top_->s_axil_rdata;
        tick();
        return value;
    }
    static int until_interrupt(void* self) {            // for hwgen_wait; 0 when the run takes too long
        Bench& bench = *static_cast<Bench*>(self);
        while (!bench.top_->irq && bench.cycle_ < bench.limit_) bench.tick();
        return bench.cycle_ < bench.limit_;
    }
    static uint32_t read_register(void* self, uint32_t address) { return static_cast<Bench*>(self)->read(address); }
    static void write_register(void* self, uint32_t address, uint32_t value) { static_cast<Bench*>(self)->write(address, value); }

    int run() {
        const Bytes program = read_file(options_.text("program"));
        const uint32_t frames = static_cast<uint32_t>(options_.number("frames"));
        weights_ = {0x100000000ull, read_file(options_.text("weights"))};
        const std::size_t weight_bytes = weights_.bytes.size();
        input_ = {0x200000000ull, options_.text("input").empty() ? Bytes() : read_file(options_.text("input"))};
        output_ = {0x300000000ull, Bytes(std::size_t{HWGEN_OUTPUT_BYTES} * frames, 0xA5)};
        for (Region* region : {&weights_, &input_}) region->bytes.resize((region->bytes.size() / 4096 + 1) * 4096);
        hwgen_device device{read_register, write_register, this};          // the driver that ships with the build
        const hwgen_buffers buffers{input_.base, weights_.base, output_.base};
        if (options_.number("unchecked"))                                  // tests of the bench itself: a damaged program or weight image
            hwgen_write_program(&device, program.data(), program.size());
        else if (const uint32_t code = hwgen_load(&device, program.data(), program.size(), weights_.bytes.data(), weight_bytes))
            fail(hwgen_error(code));
#ifdef HWGEN_TOKENS
        std::vector<uint32_t> lengths;
        for (const char* place = options_.text("lengths").c_str(); *place;) {
            char* end = nullptr;
            lengths.push_back(static_cast<uint32_t>(std::strtoul(place, &end, 0)));
            place = *end == ',' ? end + 1 : end;
        }
        if (lengths.empty()) lengths.push_back(HWGEN_TOKENS);
        if (const uint32_t code = hwgen_set_lengths(&device, lengths.data(), static_cast<uint32_t>(lengths.size()))) fail(hwgen_error(code));
#endif
        uint64_t cycles = 0;
        uint32_t status = 0;
        const auto begin = std::chrono::steady_clock::now();
        for (uint64_t n = 0; n < options_.number("runs"); ++n) {      // a second start needs no reset
            std::fill(output_.bytes.begin(), output_.bytes.end(), 0xA5);
            events_.clear();
            retired_ = frame_ = 0;
            if (const uint32_t code = hwgen_start(&device, &buffers, frames, static_cast<uint32_t>(options_.number("tasks"))))
                fail(hwgen_error(code));
            limit_ = cycle_ + options_.number("max-cycles");
            if (hwgen_wait(&device, ~0ull, until_interrupt, this)) {
                std::fprintf(stderr, "bench: not done after %llu cycles: frame %u, %zu instructions started, %zu retired, waiting for"
                             " tile %u, hazard %u, output %u cycles\n",
                             static_cast<unsigned long long>(options_.number("max-cycles")), frame_, events_.size(), retired_,
                             waits_[0], waits_[1], waits_[2]);
                return 1;
            }
            status = hwgen_finish(&device, &cycles);
        }
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        std::ofstream(options_.text("output"), std::ios::binary)
            .write(reinterpret_cast<const char*>(output_.bytes.data()), static_cast<std::streamsize>(output_.bytes.size()));
        if (!options_.text("events").empty())
            std::ofstream(options_.text("events"), std::ios::binary)
                .write(reinterpret_cast<const char*>(events_.data()), static_cast<std::streamsize>(events_.size() * sizeof(Event)));
        std::printf("{\"cycles\": %llu, \"status\": %u, \"frames_done\": %u, \"seconds\": %.6f, \"read_bytes\": %llu, \"first_cycle\": %llu}\n",
                    static_cast<unsigned long long>(cycles), status, read(HWGEN_REG_FRAMES_DONE), seconds,
                    static_cast<unsigned long long>(read_bytes_), static_cast<unsigned long long>(first_cycle_));
        return 0;
    }

private:
    bool stalled() {                                    // xorshift64: one decision per call
        if (!stall_) return false;
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        return static_cast<uint32_t>(random_ >> 32) < stall_;
    }

    void tick() {                                       // one clock cycle
        drive_memory();
        record();
        top_->clk = 1;
        top_->eval();
        dump();
        top_->clk = 0;
        top_->eval();
        dump();
        ++cycle_;
    }

    // Outputs of the last edge are settled; decide this cycle's inputs, and take the handshakes that they complete.
    void drive_memory() {
        budget_ = budget_ + rate_ > 4.0 * beat_ + rate_ ? 4.0 * beat_ + rate_ : budget_ + rate_;
        top_->m_axi_arready = reads_.size() < 64 && !stalled();
        if (top_->m_axi_arvalid && top_->m_axi_arready)
            reads_.push_back({top_->m_axi_araddr, cycle_ + latency_ + 1, top_->m_axi_arlen + 1u});
        top_->m_axi_rvalid = 0;
        if (!reads_.empty() && reads_.front().ready <= cycle_ && budget_ >= beat_ && !stalled()) {
            Burst& burst = reads_.front();
            const uint8_t* data = find(burst.address, beat_);
            top_->m_axi_rvalid = 1;
            top_->m_axi_rresp = data ? 0 : 2;
            top_->m_axi_rlast = burst.beats == 1;
            if (data) set_port(top_->m_axi_rdata, data, beat_);
            budget_ -= beat_;
            read_bytes_ += beat_;
            burst.address += beat_;
            if (--burst.beats == 0) reads_.pop_front();
        }
        top_->m_axi_awready = writes_.size() < 16 && !stalled();
        if (top_->m_axi_awvalid && top_->m_axi_awready) writes_.push_back({top_->m_axi_awaddr, 0, top_->m_axi_awlen + 1u});
        top_->m_axi_wready = !writes_.empty() && !stalled();
        if (top_->m_axi_wvalid && top_->m_axi_wready) {
            Burst& burst = writes_.front();
            uint8_t* data = output_.at(burst.address, beat_);
            if (data) get_port(top_->m_axi_wdata, data, beat_);
            bad_write_ |= !data;
            burst.address += beat_;
            if (--burst.beats == 0) {
                responses_.push_back(cycle_ + latency_ / 2 + 1);
                writes_.pop_front();
            }
        }
        top_->m_axi_bvalid = 0;
        if (!responses_.empty() && responses_.front() <= cycle_ && !stalled()) {
            top_->m_axi_bvalid = 1;
            top_->m_axi_bresp = bad_write_ ? 2 : 0;
            responses_.pop_front();
        }
    }

    const uint8_t* find(uint64_t address, std::size_t size) {
        for (Region* region : {&weights_, &input_, &output_})
            if (uint8_t* data = region->at(address, size)) return data;
        return nullptr;
    }

    void record() {                                     // trace ports -> events
        waits_[0] += top_->trace_wait_tile;
        waits_[1] += top_->trace_wait_hazard;
        waits_[2] += top_->trace_wait_output;
        if (top_->trace_retire && retired_ < events_.size()) events_[retired_++].retire = cycle_;
        if (top_->trace_frame) {
            std::printf("frame %u\n", ++frame_);
            std::fflush(stdout);
        }
        if (top_->trace_start) {
            if (events_.empty()) first_cycle_ = cycle_;
            events_.push_back({frame_, top_->trace_pc, cycle_, 0, 0, 0, 0, 0});
        }
        if ((top_->trace_issue || top_->trace_start) && !events_.empty()) {
            Event& event = events_.back();
            event.issue += top_->trace_issue;
            event.wait_tile += waits_[0];
            event.wait_hazard += waits_[1];
            event.wait_output += waits_[2];
            waits_[0] = waits_[1] = waits_[2] = 0;
        }
    }

    void dump() {
#if VM_TRACE
        if (waves_) waves_->dump(time_++);
#endif
    }

    const Options& options_;
    VerilatedContext context_;
    std::unique_ptr<Vhwgen_top> top_;
    Region weights_{}, input_{}, output_{};
    std::deque<Burst> reads_, writes_;
    std::deque<uint64_t> responses_;
    std::vector<Event> events_;
    std::size_t retired_ = 0;
    uint64_t cycle_ = 0, limit_ = 0, latency_ = 0, random_ = 1, read_bytes_ = 0, first_cycle_ = 0;
    uint32_t stall_ = 0, frame_ = 0, waits_[3] = {0, 0, 0};
    std::size_t beat_ = 1;
    double rate_ = 64, budget_ = 0;
    bool bad_write_ = false;
#if VM_TRACE
    std::unique_ptr<VerilatedFstC> waves_;
    uint64_t time_ = 0;
#endif
};

}  // namespace

int main(int argc, char** argv) {
    const Options options(argc, argv);
    return Bench(options, argc, argv).run();
}
