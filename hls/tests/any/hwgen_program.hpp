// Steps of the network in the file that HWGEN_NETWORK names.
#ifndef HWGEN_PROGRAM_HPP
#define HWGEN_PROGRAM_HPP

#include "hwgen_config.hpp"

extern hwgen::Step PROGRAM[256];
extern unsigned NUM_STEPS;

#endif
