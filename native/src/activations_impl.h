// Activations to 8-bit levels. Over the lanes of the simd_*.h that is included before.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "understudy/kernels.h"

namespace understudy {
namespace {

void quantize_32(const float* x, int64_t size, int64_t stride, int8_t* levels, float* scales, int32_t* sums) {
    for (int64_t g = 0; g < stride / 32; ++g) {
        alignas(64) float part[32] = {};
        int64_t count = std::clamp<int64_t>(size - 32 * g, 0, 32);
        std::memcpy(part, x + 32 * g, static_cast<size_t>(count) * sizeof(float));
        F16v a = f_load(part), b = f_load(part + 16), zero = f_set(0);
        F16v peak = f_max(f_max(a, f_sub(zero, a)), f_max(b, f_sub(zero, b)));
        float scale = f_peak(peak) / 127.0f;
        F16v inverse = f_set(scale != 0 ? 1.0f / scale : 0.0f);
        I16v p = i_round(f_mul(a, inverse)), q = i_round(f_mul(b, inverse));
        i_store_bytes(levels + 32 * g, p);
        i_store_bytes(levels + 32 * g + 16, q);
        alignas(64) int32_t lanes[16];
        i_store(lanes, i_add(p, q));
        int32_t sum = 0;
        for (int32_t lane : lanes) sum += lane;
        sums[g] = -sum;
        scales[g] = half_to_float(float_to_half(scale));
    }
}

void quantize_256(const float* x, int64_t size, int64_t stride, int8_t* levels, float* scales, int32_t* sums) {
    for (int64_t g = 0; g < stride / 256; ++g) {
        int64_t count = std::clamp<int64_t>(size - 256 * g, 0, 256);
        const float* from = x + 256 * g;
        float peak = 0, at_peak = 0;
        for (int64_t i = 0; i < count; ++i)
            if (std::fabs(from[i]) > peak) peak = std::fabs(from[i]), at_peak = from[i];
        float inverse = peak > 0 ? -127.0f / at_peak : 0.0f;
        alignas(64) float part[256] = {};
        std::memcpy(part, from, static_cast<size_t>(count) * sizeof(float));
        for (int64_t i = 0; i < 16; ++i) {
            I16v level = i_round(f_mul(f_load(part + 16 * i), f_set(inverse)));
            i_store_bytes(levels + 256 * g + 16 * i, level);
            alignas(64) int32_t lanes[16];
            i_store(lanes, level);
            int32_t sum = 0;
            for (int32_t lane : lanes) sum += lane;
            sums[kSumsIn256 * g + i] = -sum;
        }
        for (int64_t i = 0; i < 8; ++i)
            sums[kSumsIn256 * g + 16 + i] = sums[kSumsIn256 * g + 2 * i] + sums[kSumsIn256 * g + 2 * i + 1];
        scales[g] = peak > 0 ? 1.0f / inverse : 0.0f;
    }
}

}  // namespace
}  // namespace understudy
