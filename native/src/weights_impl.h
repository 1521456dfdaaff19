// The highest logit, and logits to weights: e^x in doubles. Plain loops that the compiler turns into lanes, with the same roundings in every twin.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>

namespace understudy {
namespace {

// e^x for x <= 0 (1 ulp; 0 below -708): 2^n times a series of the rest, |rest| <= ln 2 / 2.
inline double exp_double(double x) {
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves a whole number in the last bits
    constexpr double kSeries[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                  1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0,       1.0};
    double bounded = x > -708.0 ? x : -708.0;
    double rounded = bounded * 1.4426950408889634 + kRound;
    double whole = rounded - kRound;
    double rest = bounded - whole * 6.93147180369123816490e-01 - whole * 1.90821492927058770002e-10;
    double sum = 1.0 / 6227020800.0;
    for (double c : kSeries) sum = sum * rest + c;
    double power = std::bit_cast<double>((std::bit_cast<int64_t>(rounded) + 1023) << 52);
    return x > -708.0 ? sum * power : 0.0;
}

// The highest; NaN where one is NaN or +inf.
template <class T> T highest(const T* x, int64_t size) {
    constexpr int64_t kLanes = 32;
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    T best[kLanes], odd[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) best[j] = -kInfinity, odd[j] = 0;
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes)
        for (int64_t j = 0; j < kLanes; ++j) {
            best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
            odd[j] = x[i + j] < kInfinity ? odd[j] : T(1);
        }
    for (; i < size; ++i) {
        best[0] = x[i] > best[0] ? x[i] : best[0];
        odd[0] = x[i] < kInfinity ? odd[0] : T(1);
    }
    for (int64_t j = 1; j < kLanes; ++j) {
        best[0] = best[j] > best[0] ? best[j] : best[0];
        odd[0] += odd[j];
    }
    return odd[0] > 0 ? std::numeric_limits<T>::quiet_NaN() : best[0];
}

template <class T> void weights(const T* x, int64_t size, double highest, double temperature, double* out) {
    for (int64_t i = 0; i < size; ++i) out[i] = exp_double((static_cast<double>(x[i]) - highest) / temperature);
}

}  // namespace
}  // namespace understudy
