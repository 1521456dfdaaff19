// Products with float weights: fp32 multiply-adds in the order of the inputs, even and odd ones apart.
#pragma once
#include <algorithm>
#include <utility>

#include "matmul_impl.h"
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

// Rows of x that share what is read of a panel: their sums stay in registers, and each multiply-add reads its input itself.
constexpr int kFloatRows = std::min(8, (kAccumulators - 1) / 2);

template <class Format, int R>
inline __attribute__((always_inline)) void float_tile(const uint8_t* panel, int64_t cols, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
    F16v even[R], odd[R];
    for (int r = 0; r < R; ++r) even[r] = odd[r] = f_set(0);
    int64_t i = 0;
    for (; i + 2 <= cols; i += 2) {
        F16v a = Format::load(panel + i * Format::bytes), b = Format::load(panel + (i + 1) * Format::bytes);
        for (int r = 0; r < R; ++r) {
            even[r] = f_fma(a, f_set(x[r * x_stride + i]), even[r]);
            odd[r] = f_fma(b, f_set(x[r * x_stride + i + 1]), odd[r]);
        }
    }
    if (i < cols) {
        F16v a = Format::load(panel + i * Format::bytes);
        for (int r = 0; r < R; ++r) even[r] = f_fma(a, f_set(x[r * x_stride + i]), even[r]);
    }
    for (int r = 0; r < R; ++r) f_store(y + r * y_stride, f_add(even[r], odd[r]));
}

template <class Format>
void float_rows(const PackedMatrix& w, const float* x, int64_t x_stride, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride) {
    for (int64_t p = begin; p < end; ++p) {
        const uint8_t* panel = w.data + p * w.blocks * Format::bytes;
        float* to = y + p * kPanelRows;
        int64_t m = 0;
        for (; m + kFloatRows <= num_rows; m += kFloatRows)
            float_tile<Format, kFloatRows>(panel, w.cols, x + m * x_stride, x_stride, to + m * y_stride, y_stride);
        unrolled(std::make_integer_sequence<int, kFloatRows>{}, [&](auto rest) {
            if constexpr (rest > 0)
                if (num_rows - m == rest)
                    float_tile<Format, rest>(panel, w.cols, x + m * x_stride, x_stride, to + m * y_stride, y_stride);
        });
    }
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
