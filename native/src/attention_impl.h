// Attention over the blocks of the KV cache, and writing into them.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "elementwise_impl.h"
#include "understudy/kernels.h"

namespace understudy {
namespace {

struct Bytes {  // 8 bits
    static constexpr bool is_8bit = true;
    static inline F16v load(const uint8_t* p, int64_t i) { return f_bytes(reinterpret_cast<const int8_t*>(p) + i); }
    static inline int64_t values_at(int64_t h) { return kBlockTokens * h; }
    static inline const float* scales(const uint8_t* head, int64_t h) { return reinterpret_cast<const float*>(head + 2 * kBlockTokens * h); }
};
struct Halves {  // 16 bits
    static constexpr bool is_8bit = false;
    static inline F16v load(const uint8_t* p, int64_t i) { return f_half(p + 2 * i); }
    static inline int64_t values_at(int64_t h) { return 2 * kBlockTokens * h; }
};

template <class Cache, int R>
void score_rows(const AttentionTask& t, int64_t row, int64_t num_blocks) {
    const float* q = t.q + row * t.head_dim;
    for (int64_t b = 0; b < num_blocks; ++b) {
        const uint8_t* head = t.pool + t.table[b] * t.block_bytes + t.head_offset;
        F16v low[R], high[R];
        for (int r = 0; r < R; ++r) low[r] = high[r] = f_set(0);
        for (int64_t h = 0; h < t.head_dim; ++h) {
            F16v a = Cache::load(head, kBlockTokens * h), c = Cache::load(head, kBlockTokens * h + 16);
            for (int r = 0; r < R; ++r) {
                F16v x = f_set(q[r * t.head_dim + h]);
                low[r] = f_fma(a, x, low[r]);
                high[r] = f_fma(c, x, high[r]);
            }
        }
        for (int r = 0; r < R; ++r) {
            float* to = t.scores + (row + r) * t.scores_stride + kBlockTokens * b;
            if constexpr (Cache::is_8bit) {
                const float* scale = Cache::scales(head, t.head_dim);
                low[r] = f_mul(low[r], f_load(scale));
                high[r] = f_mul(high[r], f_load(scale + 16));
            }
            f_store(to, low[r]);
            f_store(to + 16, high[r]);
        }
    }
}

// Scores of one row to weights that sum to one; those beyond `seen` become zero.
inline void softmax(float* scores, int64_t seen, int64_t padded) {
    for (int64_t i = seen; i < padded; ++i) scores[i] = -INFINITY;
    F16v peak = f_set(-INFINITY), sum = f_set(0);
    for (int64_t i = 0; i < padded; i += 16) peak = f_max(peak, f_load(scores + i));
    F16v top = f_set(f_peak(peak));
    for (int64_t i = 0; i < padded; i += 16) f_store(scores + i, exp_of(f_sub(f_load(scores + i), top)));
    for (int64_t i = seen; i < padded; ++i) scores[i] = 0;
    for (int64_t i = 0; i < padded; i += 16) sum = f_add(sum, f_load(scores + i));
    F16v inverse = f_set(1.0f / f_sum(sum));
    for (int64_t i = 0; i < padded; i += 16) f_store(scores + i, f_mul(f_load(scores + i), inverse));
}

// R rows of W vectors of the head's values from h on; a value is read once for all rows.
template <class Cache, int R, int W>
void mix_part(const AttentionTask& t, int64_t row, int64_t num_seen, int64_t h) {
    F16v acc[R][W];
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) acc[r][w] = f_set(0);
    const float* weights = t.scores + row * t.scores_stride;
    for (int64_t first = 0; first < num_seen; first += kBlockTokens) {
        const uint8_t* values = t.pool + t.table[first / kBlockTokens] * t.block_bytes + t.head_offset + Cache::values_at(t.head_dim);
        int64_t count = std::min(kBlockTokens, num_seen - first);
        for (int64_t s = 0; s < count; ++s)
            for (int w = 0; w < W; ++w) {
                F16v value = Cache::load(values, s * t.head_dim + h + 16 * w);
                for (int r = 0; r < R; ++r) acc[r][w] = f_fma(value, f_set(weights[r * t.scores_stride + first + s]), acc[r][w]);
            }
    }
    for (int r = 0; r < R; ++r) {
        float* to = t.out + (row + r) / t.group * t.out_stride + (row + r) % t.group * t.head_dim + h;
        for (int w = 0; w < W; ++w) f_store(to + 16 * w, acc[r][w]);
    }
}

template <class Cache, int R>
void mix_rows(const AttentionTask& t, int64_t row, int64_t num_seen) {
    constexpr int W = kAccumulators / R >= 8 ? 8 : kAccumulators / R >= 4 ? 4 : kAccumulators / R >= 2 ? 2 : 1;
    int64_t h = 0;
    for (; h + 16 * W <= t.head_dim; h += 16 * W) mix_part<Cache, R, W>(t, row, num_seen, h);
    for (; h < t.head_dim; h += 16) mix_part<Cache, R, 1>(t, row, num_seen, h);
}

// Rows in bunches that share what is read: six, or what is left.
template <class Work> inline void in_bunches(int64_t num_rows, Work work) {
    int64_t row = 0;
    for (; row + 6 <= num_rows; row += 6) work(std::integral_constant<int, 6>{}, row);
    for (; row + 4 <= num_rows; row += 4) work(std::integral_constant<int, 4>{}, row);
    for (; row + 3 <= num_rows; row += 3) work(std::integral_constant<int, 3>{}, row);
    for (; row + 2 <= num_rows; row += 2) work(std::integral_constant<int, 2>{}, row);
    for (; row < num_rows; ++row) work(std::integral_constant<int, 1>{}, row);
}

// Weights of the values times the values' scales.
inline void scale_weights(const AttentionTask& t, float* weights, int64_t seen) {
    for (int64_t first = 0; first < seen; first += kBlockTokens) {
        const float* scales = Bytes::scales(t.pool + t.table[first / kBlockTokens] * t.block_bytes + t.head_offset, t.head_dim) + kBlockTokens;
        int64_t count = std::min(kBlockTokens, seen - first), s = 0;
        for (; s + 16 <= count; s += 16) f_store(weights + first + s, f_mul(f_load(weights + first + s), f_load(scales + s)));
        for (; s < count; ++s) weights[first + s] *= scales[s];
    }
}

template <class Cache> void attend(const AttentionTask& t) {
    int64_t most = t.first_seen + (t.num_rows - 1) / t.group;
    int64_t num_blocks = (most + kBlockTokens - 1) / kBlockTokens;
    in_bunches(t.num_rows, [&](auto rows, int64_t row) { score_rows<Cache, decltype(rows)::value>(t, row, num_blocks); });
    for (int64_t row = 0; row < t.num_rows; ++row) {
        float* scores = t.scores + row * t.scores_stride;
        int64_t seen = t.first_seen + row / t.group;
        softmax(scores, seen, num_blocks * kBlockTokens);
        if constexpr (Cache::is_8bit) scale_weights(t, scores, seen);
    }
    in_bunches(t.num_rows, [&](auto rows, int64_t row) {
        constexpr int R = decltype(rows)::value;
        mix_rows<Cache, R>(t, row, t.first_seen + (row + R - 1) / t.group);
    });
}

void store_8bit(const float* key, const float* value, int64_t head_dim, int64_t token, uint8_t* block) {
    int8_t* keys = reinterpret_cast<int8_t*>(block);
    int8_t* values = keys + kBlockTokens * head_dim;
    float* scales = reinterpret_cast<float*>(block + 2 * kBlockTokens * head_dim);
    auto levels = [&](const float* x, float* scale, auto put) {
        float peak = 0;
        for (int64_t i = 0; i < head_dim; ++i) peak = std::max(peak, std::fabs(x[i]));
        *scale = peak / 127.0f;
        float inverse = peak > 0 ? 127.0f / peak : 0.0f;
        for (int64_t i = 0; i < head_dim; ++i) put(i, static_cast<int8_t>(std::nearbyint(x[i] * inverse)));
    };
    levels(key, scales + token, [&](int64_t i, int8_t level) { keys[kBlockTokens * i + token] = level; });
    levels(value, scales + kBlockTokens + token, [&](int64_t i, int8_t level) { values[head_dim * token + i] = level; });
}

void store_16bit(const float* key, const float* value, int64_t head_dim, int64_t token, uint8_t* block) {
    uint16_t* keys = reinterpret_cast<uint16_t*>(block);
    uint16_t* values = keys + kBlockTokens * head_dim;
    for (int64_t i = 0; i < head_dim; ++i) {
        keys[kBlockTokens * i + token] = float_to_half(key[i]);
        values[head_dim * token + i] = float_to_half(value[i]);
    }
}

}  // namespace
}  // namespace understudy
