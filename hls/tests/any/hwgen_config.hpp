// An engine large enough for many small networks, for tests: the same top function and bench, the network read from a file.
#ifndef HWGEN_CONFIG_HPP
#define HWGEN_CONFIG_HPP

#include "hwgen/engine.hpp"

struct Config : hwgen::EngineConfig {
    static constexpr unsigned LANES = 16;
    static constexpr unsigned QUERIES = 4;
    static constexpr unsigned MAX_TOKENS = 64;
    static constexpr unsigned HEAD_WORDS = 5;
    static constexpr bool CAUSAL = true;
    static constexpr bool LENGTHS = true;
    static constexpr bool BIASED = true;
    static constexpr bool SCORES = true;
    static constexpr bool PICKS = true;
    static constexpr bool ROTATES = true;
    static constexpr unsigned LIST_SIZE = 1024;
    static constexpr bool MIXES = true;
    static constexpr unsigned MAX_EXPERTS = 16;
    static constexpr unsigned MAX_TOP_K = 4;
    static constexpr unsigned ACT_WORDS = 4096;
    static constexpr unsigned LOW_WORDS = ACT_WORDS;
    static constexpr unsigned RESIDUAL_WORDS = 512;
    static constexpr unsigned LOGIT_WORDS = 64;
    static constexpr unsigned OPERAND_WORDS = 512;
};

using BusWord = hwgen::Word<Config::LANES>;

extern unsigned NUM_TASKS;
extern unsigned INPUT_WORDS;
extern unsigned OUTPUT_WORDS;
extern unsigned WEIGHT_WORDS;
extern unsigned WEIGHT_DIGEST;

#endif
