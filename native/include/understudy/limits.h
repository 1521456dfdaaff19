// What the machine can do at best, measured: the floor under any engine's times.
#pragma once
#include <cstdint>
#include <string>

namespace understudy {

struct Limits {
    double bytes_per_s;      // reading main memory from end to end, all threads at once
    double int8_ops_per_s;   // products of 8-bit numbers and their sums, operands in registers
};

// Medians of five passes; takes about a second. bytes: memory read in a pass, far more than the caches hold.
Limits measure_limits(int num_threads, const std::string& kernels, int64_t bytes);

}  // namespace understudy
