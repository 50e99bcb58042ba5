// Activation functions: straight lines between knots, and one on each side beyond them. FUNCTIONS, the tables of the functions
// a network uses, is generated from hwgen/numerics.py.
#ifndef HWGEN_FUNCTION_HPP
#define HWGEN_FUNCTION_HPP

#include "hwgen/requantize.hpp"
#include "hwgen_tables.hpp"

namespace hwgen {

/// Number formats of the tables.
struct ActivationConfig {
    static constexpr unsigned FINE_FRAC = 12;  ///< fraction bits of x between knots
    static constexpr unsigned KNOT_FRAC = 5;   ///< knots are 2**-5 apart
    static constexpr unsigned END_FRAC = 8;    ///< fraction bits of x beyond them
    static constexpr int KNOTS = sizeof(FUNCTIONS[0].slope) / sizeof(FUNCTIONS[0].slope[0]);
};

/// f(x), x in unit 2**-frac, frac 7 .. 12 -> unit 2**-16, 25 bits signed, rounded half down.
template <class Config>
inline ap_int<25> activation(Res x, unsigned function, unsigned frac)
{
#pragma HLS INLINE
    constexpr unsigned STEP = Config::FINE_FRAC - Config::KNOT_FRAC;
    const Function &f = FUNCTIONS[function];
    const int fine = x * (1 << (Config::FINE_FRAC - frac));
    const int place = (fine >> STEP) + Config::KNOTS / 2;
    const bool beyond = place < 0 || place >= Config::KNOTS;
    const unsigned index = beyond ? 0 : static_cast<unsigned>(place);
    const auto &end = f.ends[x < 0 ? 0 : 1];
    const std::int64_t start = beyond ? end[1] : f.value[index];
    const std::int64_t slope = beyond ? end[0] : f.slope[index];
    const std::int64_t rest = beyond ? fine >> (Config::FINE_FRAC - Config::END_FRAC) : fine & ((1 << STEP) - 1);
    const unsigned unit = beyond ? Config::END_FRAC : STEP;
    return (start * (1 << unit) + slope * rest + ((1 << (unit - 1)) - 1)) >> unit;
}

}  // namespace hwgen

#endif
