// Norm, sum, squared ReLU and exp. Over the lanes of the simd_*.h that is included before.
#pragma once
#include <cmath>

#include "understudy/kernels.h"

namespace understudy {
namespace {

template <class Body, class Tail> inline void sweep(int64_t size, Body body, Tail tail) {
    int64_t i = 0;
    for (; i + 16 <= size; i += 16) body(i);
    for (; i < size; ++i) tail(i);
}

void layer_norm(const float* x, const float* gain, const float* bias, float eps, int64_t size, float* y) {
    F16v sum = f_set(0);
    float rest = 0;
    sweep(size, [&](int64_t i) { sum = f_add(sum, f_load(x + i)); }, [&](int64_t i) { rest += x[i]; });
    float mean = (f_sum(sum) + rest) / static_cast<float>(size);
    F16v centre = f_set(mean), square = f_set(0);
    rest = 0;
    sweep(size, [&](int64_t i) { F16v d = f_sub(f_load(x + i), centre); square = f_fma(d, d, square); },
          [&](int64_t i) { rest += (x[i] - mean) * (x[i] - mean); });
    float inverse = 1.0f / std::sqrt((f_sum(square) + rest) / static_cast<float>(size) + eps);
    F16v factor = f_set(inverse);
    sweep(size,
          [&](int64_t i) {
              F16v d = f_mul(f_sub(f_load(x + i), centre), f_mul(f_load(gain + i), factor));
              f_store(y + i, f_add(d, f_load(bias + i)));
          },
          [&](int64_t i) { y[i] = (x[i] - mean) * (gain[i] * inverse) + bias[i]; });
}

void add(const float* x, int64_t size, float* y) {
    sweep(size, [&](int64_t i) { f_store(y + i, f_add(f_load(y + i), f_load(x + i))); }, [&](int64_t i) { y[i] += x[i]; });
}

void relu2(float* x, int64_t size) {
    sweep(size, [&](int64_t i) { F16v v = f_max(f_load(x + i), f_set(0)); f_store(x + i, f_mul(v, v)); },
          [&](int64_t i) { float v = x[i] > 0 ? x[i] : 0; x[i] = v * v; });
}

// e^x for x <= 0 (2 ulp; 0 below -87): 2^n times a polynomial of the rest.
inline F16v exp_of(F16v x) {
    x = f_max(x, f_set(-87.0f));
    I16v n = i_round(f_mul(x, f_set(1.44269504f)));
    F16v whole = f_from(n);
    F16v r = f_fnma(whole, f_set(0.693145752f), x);
    r = f_fnma(whole, f_set(1.42860677e-6f), r);
    F16v p = f_set(1.98756915e-4f);
    for (float c : {1.39819994e-3f, 8.33345205e-3f, 4.16657962e-2f, 1.66666655e-1f, 0.5f}) p = f_fma(p, r, f_set(c));
    p = f_add(f_fma(p, f_mul(r, r), r), f_set(1));
    return f_mul(p, f_bits(i_mul(i_add(n, i_set(127)), i_set(1 << 23))));
}

}  // namespace
}  // namespace understudy
