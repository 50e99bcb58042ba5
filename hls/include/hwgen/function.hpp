// Activation functions: straight lines between knots, and one on each side beyond them. FUNCTIONS, the tables of the functions
// a network uses, is generated from hwgen/numerics.py.
#ifndef HWGEN_FUNCTION_HPP
#define HWGEN_FUNCTION_HPP

#include "hwgen/requantize.hpp"
#include "hwgen_tables.hpp"

namespace hwgen {

/// Number formats of the tables.
struct ActivationConfig {
    static constexpr unsigned PRE_FRAC = 8;   ///< fraction bits of x
    static constexpr unsigned STEP_BITS = 3;  ///< units of x per table step
    static constexpr int KNOTS = sizeof(FUNCTIONS[0].slope) / sizeof(FUNCTIONS[0].slope[0]);
};

/// f(x), x in unit 2**-8 -> unit 2**-16, 24 bits signed, rounded half down.
template <class Config>
inline ap_int<24> activation(Res x, unsigned function)
{
#pragma HLS INLINE
    const Function &f = FUNCTIONS[function];
    const int place = (x >> Config::STEP_BITS) + Config::KNOTS / 2;
    const bool beyond = place < 0 || place >= Config::KNOTS;
    const unsigned index = beyond ? 0 : static_cast<unsigned>(place);
    const auto &end = f.ends[x < 0 ? 0 : 1];
    const int rest = (x & ((1 << Config::STEP_BITS) - 1)) << (Config::PRE_FRAC - Config::STEP_BITS);
    const std::int64_t start = beyond ? end[1] : f.value[index];
    const std::int64_t step = beyond ? static_cast<std::int64_t>(end[0]) * x : static_cast<std::int64_t>(f.slope[index]) * rest;
    return ((start << Config::PRE_FRAC) + step + ((1 << (Config::PRE_FRAC - 1)) - 1)) >> Config::PRE_FRAC;
}

}  // namespace hwgen

#endif
