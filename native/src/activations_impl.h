// Activations to 8-bit levels. Over the lanes of the simd_*.h that is included before.
#pragma once
#include <algorithm>
#include <cstring>

#include "understudy/kernels.h"

namespace understudy {
namespace {

template <int Most> void quantize_to(const float* x, int64_t size, int64_t stride, int8_t* levels, float* scales, int32_t* sums) {
    for (int64_t g = 0; g < stride / 256; ++g) {
        alignas(64) float padded[256];
        const float* from = x + 256 * g;
        if (int64_t count = std::clamp<int64_t>(size - 256 * g, 0, 256); count < 256) {
            std::memset(padded, 0, sizeof padded);
            std::memcpy(padded, from, static_cast<size_t>(count) * sizeof(float));
            from = padded;
        }
        F16v peak = f_set(0), zero = f_set(0);
        for (int64_t i = 0; i < 256; i += 16) peak = f_max(peak, f_max(f_load(from + i), f_sub(zero, f_load(from + i))));
        float most = f_peak(peak);
        F16v inverse = f_set(most > 0 ? static_cast<float>(Most) / most : 0.0f);
        int32_t* to = sums + kSumsIn256 * g;
        for (int64_t i = 0; i < 16; ++i) {
            I16v level = i_round(f_mul(f_load(from + 16 * i), inverse));
            if constexpr (Most > 127) i_store_unsigned(levels + 256 * g + 16 * i, level);
            else i_store_bytes(levels + 256 * g + 16 * i, level);
            to[i] = -i_sum(level);
        }
        for (int64_t i = 0; i < 8; ++i) to[16 + i] = to[2 * i] + to[2 * i + 1];
        scales[g] = most / static_cast<float>(Most);
    }
}

}  // namespace
}  // namespace understudy
