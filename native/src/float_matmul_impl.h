// Products with float weights: fp32 multiply-adds in the order of the inputs, even and odd ones apart.
#pragma once
#include <type_traits>

#include "understudy/kernels.h"

namespace understudy {
namespace {

struct Half {
    static constexpr int64_t bytes = 32;
    static inline F16v load(const uint8_t* p) { return f_half(p); }
};
struct Brain {
    static constexpr int64_t bytes = 32;
    static inline F16v load(const uint8_t* p) { return f_bf16(p); }
};
struct Single {
    static constexpr int64_t bytes = 64;
    static inline F16v load(const uint8_t* p) { return f_load(reinterpret_cast<const float*>(p)); }
};

template <class Format, int P, int R>
inline __attribute__((always_inline)) void float_tile(const uint8_t* panel, int64_t panel_bytes, int64_t cols, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
    F16v even[R][P], odd[R][P];
    for (int r = 0; r < R; ++r)
        for (int z = 0; z < P; ++z) even[r][z] = odd[r][z] = f_set(0);
    int64_t i = 0;
    for (; i + 2 <= cols; i += 2)
        for (int z = 0; z < P; ++z) {
            const uint8_t* at = panel + z * panel_bytes + i * Format::bytes;
            F16v a = Format::load(at), b = Format::load(at + Format::bytes);
            for (int r = 0; r < R; ++r) {
                even[r][z] = f_fma(a, f_set(x[r * x_stride + i]), even[r][z]);
                odd[r][z] = f_fma(b, f_set(x[r * x_stride + i + 1]), odd[r][z]);
            }
        }
    if (i < cols)
        for (int z = 0; z < P; ++z) {
            F16v a = Format::load(panel + z * panel_bytes + i * Format::bytes);
            for (int r = 0; r < R; ++r) even[r][z] = f_fma(a, f_set(x[r * x_stride + i]), even[r][z]);
        }
    for (int r = 0; r < R; ++r)
        for (int z = 0; z < P; ++z) f_store(y + r * y_stride + z * kPanelRows, f_add(even[r][z], odd[r][z]));
}

template <class Format>
void float_rows(const PackedMatrix& w, const float* x, int64_t x_stride, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride) {
    int64_t panel_bytes = w.blocks * Format::bytes;
    int64_t p = begin;
    auto rows = [&](auto panels) {
        constexpr int P = decltype(panels)::value;
        constexpr int R = P == 4 ? 2 : 4;
        const uint8_t* panel = w.data + p * panel_bytes;
        float* to = y + p * kPanelRows;
        int64_t m = 0;
        for (; m + R <= num_rows; m += R)
            float_tile<Format, P, R>(panel, panel_bytes, w.cols, x + m * x_stride, x_stride, to + m * y_stride, y_stride);
        for (; m < num_rows; ++m)
            float_tile<Format, P, 1>(panel, panel_bytes, w.cols, x + m * x_stride, x_stride, to + m * y_stride, y_stride);
        p += P;
    };
    while (p + 4 <= end) rows(std::integral_constant<int, 4>{});
    while (p < end) rows(std::integral_constant<int, 1>{});
}

void matmul_float(const PackedMatrix& w, const float* x, int64_t x_stride, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride) {
    switch (w.kind) {
        case Kind::F16: return float_rows<Half>(w, x, x_stride, num_rows, begin, end, y, y_stride);
        case Kind::BF16: return float_rows<Brain>(w, x, x_stride, num_rows, begin, end, y, y_stride);
        case Kind::F32: return float_rows<Single>(w, x, x_stride, num_rows, begin, end, y, y_stride);
        default: return;
    }
}

}  // namespace
}  // namespace understudy
