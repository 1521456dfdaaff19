// Attention over the blocks of the KV cache, and writing into them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "elementwise_impl.h"
#include "understudy/kernels.h"

namespace understudy {
namespace {

// Where a row's output goes.
inline float* out_of(const AttentionTask& t, int64_t row) { return t.out + row / t.group * t.out_stride + row % t.group * t.head_dim; }

// ---- 16 bits: fp32 throughout ----

inline F16v cached(const uint8_t* p, int64_t i) { return f_half(p + 2 * i); }

template <int R>
void score_rows(const AttentionTask& t, int64_t row, int64_t num_blocks) {
    const float* q = t.q + row * t.head_dim;
    for (int64_t b = 0; b < num_blocks; ++b) {
        const uint8_t* head = t.pool + t.table[b] * t.block_bytes + t.head_offset;
        F16v low[R], high[R];
        for (int r = 0; r < R; ++r) low[r] = high[r] = f_set(0);
        for (int64_t h = 0; h < t.head_dim; ++h) {
            F16v a = cached(head, kBlockTokens * h), c = cached(head, kBlockTokens * h + 16);
            for (int r = 0; r < R; ++r) {
                F16v x = f_set(q[r * t.head_dim + h]);
                low[r] = f_fma(a, x, low[r]);
                high[r] = f_fma(c, x, high[r]);
            }
        }
        for (int r = 0; r < R; ++r) {
            float* to = t.scores + (row + r) * t.scores_stride + kBlockTokens * b;
            f_store(to, low[r]);
            f_store(to + 16, high[r]);
        }
    }
}

// Scores of one row to weights, those beyond `seen` to zero; returns what makes their sum one.
inline float softmax(float* scores, int64_t seen, int64_t padded) {
    for (int64_t i = seen; i < padded; ++i) scores[i] = -INFINITY;
    F16v peak = f_set(-INFINITY), sum = f_set(0);
    for (int64_t i = 0; i < padded; i += 16) peak = f_max(peak, f_load(scores + i));
    F16v top = f_set(f_peak(peak));
    for (int64_t i = 0; i < padded; i += 16) {
        F16v weight = exp_of(f_sub(f_load(scores + i), top));
        f_store(scores + i, weight);
        if (i + 16 <= seen) sum = f_add(sum, weight);
    }
    float rest = 0;
    for (int64_t i = seen / 16 * 16; i < seen; ++i) rest += scores[i];
    for (int64_t i = seen; i < padded; ++i) scores[i] = 0;
    return 1.0f / (f_sum(sum) + rest);
}

// R rows of W vectors of the head's values from h on; a value is read once for all rows.
template <int R, int W>
void mix_part(const AttentionTask& t, int64_t row, int64_t num_seen, int64_t h, const float* factors) {
    F16v acc[R][W];
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) acc[r][w] = f_set(0);
    const float* weights = t.scores + row * t.scores_stride;
    for (int64_t first = 0; first < num_seen; first += kBlockTokens) {
        const uint8_t* values = t.pool + t.table[first / kBlockTokens] * t.block_bytes + t.head_offset + 2 * kBlockTokens * t.head_dim;
        int64_t count = std::min(kBlockTokens, num_seen - first);
        for (int64_t s = 0; s < count; ++s)
            for (int w = 0; w < W; ++w) {
                F16v value = cached(values, s * t.head_dim + h + 16 * w);
                for (int r = 0; r < R; ++r) acc[r][w] = f_fma(value, f_set(weights[r * t.scores_stride + first + s]), acc[r][w]);
            }
    }
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) f_store(out_of(t, row + r) + h + 16 * w, f_mul(acc[r][w], f_set(factors[r])));
}

// As many vectors at a time as registers hold and the head has.
template <int R, int W>
void mix_from(const AttentionTask& t, int64_t row, int64_t num_seen, int64_t h, const float* factors) {
    for (; h + 16 * W <= t.head_dim; h += 16 * W) mix_part<R, W>(t, row, num_seen, h, factors);
    if constexpr (W > 1) mix_from<R, W / 2>(t, row, num_seen, h, factors);
}

template <int R>
void mix_rows(const AttentionTask& t, int64_t row, int64_t num_seen, const float* factors) {
    constexpr int W = kAccumulators / R >= 8 ? 8 : kAccumulators / R >= 4 ? 4 : kAccumulators / R >= 2 ? 2 : 1;
    mix_from<R, W>(t, row, num_seen, 0, factors);
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

void attend_16bit(const AttentionTask& t) {
    int64_t most = t.first_seen + (t.num_rows - 1) / t.group;
    int64_t num_blocks = (most + kBlockTokens - 1) / kBlockTokens;
    in_bunches(t.num_rows, [&](auto rows, int64_t row) { score_rows<decltype(rows)::value>(t, row, num_blocks); });
    in_bunches(t.num_rows, [&](auto rows, int64_t row) {
        constexpr int R = decltype(rows)::value;
        float factors[R];
        for (int r = 0; r < R; ++r)
            factors[r] = softmax(t.scores + (row + r) * t.scores_stride, t.first_seen + (row + r) / t.group, num_blocks * kBlockTokens);
        mix_rows<R>(t, row, t.first_seen + (row + R - 1) / t.group, factors);
    });
}

// ---- 8 bits: exact integer products of the cached levels with 15-bit queries and weights, as two planes of 7 bits each ----

constexpr float kMost15 = 127 * 128;

// The head's stretch of block b; asks for the bytes of the block after the next while this one is worked on.
struct HeadBlock {
    const uint8_t *at, *next;
    HeadBlock(const AttentionTask& t, int64_t b, int64_t num_blocks)
        : at(t.pool + t.table[b] * t.block_bytes + t.head_offset),
          next(t.pool + t.table[std::min(b + 2, num_blocks - 1)] * t.block_bytes + t.head_offset) {}
    U64v load(int64_t offset) const {
        __builtin_prefetch(next + offset);
        return u_load(at + offset);
    }
    const float* scales(int64_t head_dim) const { return reinterpret_cast<const float*>(at + 2 * kBlockTokens * head_dim); }
};

// One query row as planes: q = scale * (128 * high + low). Returns the scale; `sum` is that of 128 * high + low.
inline float split_query(const float* q, int64_t head_dim, int8_t* high, int8_t* low, int32_t& sum) {
    F16v peak = f_set(0), zero = f_set(0);
    for (int64_t i = 0; i < head_dim; i += 16) peak = f_max(peak, f_max(f_load(q + i), f_sub(zero, f_load(q + i))));
    float most = f_peak(peak), inverse = most > 0 ? kMost15 / most : 0.0f;
    I16v total = i_set(0);
    for (int64_t i = 0; i < head_dim; i += 16) {
        I16v level = i_round(f_mul(f_load(q + i), f_set(inverse)));
        I16v top = i_right<7>(i_add(level, i_set(64)));
        i_store_bytes(high + i, top);
        i_store_bytes(low + i, i_add(level, i_left<7>(i_mul(top, i_set(-1)))));
        total = i_add(total, level);
    }
    sum = i_sum(total);
    return most / kMost15;
}

// planes: (rows, 2, head_dim), scales and sums a row.
template <int R>
void score_rows_8bit(const AttentionTask& t, int64_t row, int64_t num_blocks, const int8_t* planes, const float* scales, const int32_t* sums) {
    int64_t size = t.head_dim;
    for (int64_t b = 0; b < num_blocks; ++b) {
        HeadBlock block(t, b, num_blocks);
        I16v high[R][2], low[R][2];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 2; ++v) {
                high[r][v] = i_set(0);
                low[r][v] = i_set(-128 * sums[r]);
            }
        for (int64_t k = 0; k < size / 4; ++k) {
            U64v keys[2] = {block.load(128 * k), block.load(128 * k + 64)};
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < 2; ++v) {
                    high[r][v] = dot_wide(high[r][v], keys[v], planes + 2 * r * size + 4 * k);
                    low[r][v] = dot_wide(low[r][v], keys[v], planes + (2 * r + 1) * size + 4 * k);
                }
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 2; ++v) {
                F16v score = f_mul(f_from(i_add(i_left<7>(high[r][v]), low[r][v])), f_set(scales[r]));
                f_store(t.scores + (row + r) * t.scores_stride + kBlockTokens * b + 16 * v, f_mul(score, f_load(block.scales(size) + 16 * v)));
            }
    }
}

// A block's 32 weights times the values' scales, as planes in the place of the 128 bytes that they took.
struct WeightBlock {
    int8_t high[kBlockTokens], low[kBlockTokens];
    float scale;
    int32_t sum;
    int32_t unused[14];
};
static_assert(sizeof(WeightBlock) == kBlockTokens * sizeof(float));

inline void split_weights(const AttentionTask& t, float* weights, int64_t num_blocks, float factor) {
    for (int64_t b = 0; b < num_blocks; ++b) {
        const float* scales = HeadBlock(t, b, num_blocks).scales(t.head_dim) + kBlockTokens;
        F16v w[2];
        // what lies behind the last token is multiplied by a weight of zero, and must not be a NaN
        for (int v = 0; v < 2; ++v) w[v] = f_mul(f_load(weights + kBlockTokens * b + 16 * v), f_max(f_load(scales + 16 * v), f_set(0)));
        float most = f_peak(f_max(w[0], w[1]));
        float inverse = most > 1e-30f ? kMost15 / most : 0.0f;
        auto* to = reinterpret_cast<WeightBlock*>(weights + kBlockTokens * b);
        I16v total = i_set(0);
        for (int v = 0; v < 2; ++v) {
            I16v level = i_round(f_mul(w[v], f_set(inverse))), top = i_right<7>(level);
            i_store_bytes(to->high + 16 * v, top);
            i_store_bytes(to->low + 16 * v, i_add(level, i_left<7>(i_mul(top, i_set(-1)))));
            total = i_add(total, level);
        }
        to->scale = most * (factor / kMost15);
        to->sum = i_sum(total);
    }
}

template <int R, int W>
void mix_part_8bit(const AttentionTask& t, int64_t row, int64_t num_blocks, int64_t h) {
    float* out[R];
    for (int r = 0; r < R; ++r) out[r] = out_of(t, row + r) + h;
    for (int64_t b = 0; b < num_blocks; ++b) {
        HeadBlock block(t, b, num_blocks);
        const WeightBlock* weights[R];
        I16v high[R][W], low[R][W];
        for (int r = 0; r < R; ++r) {
            weights[r] = reinterpret_cast<const WeightBlock*>(t.scores + (row + r) * t.scores_stride) + b;
            for (int w = 0; w < W; ++w) {
                high[r][w] = i_set(0);
                low[r][w] = i_set(-128 * weights[r]->sum);
            }
        }
        for (int64_t k = 0; k < kBlockTokens / 4; ++k)
            for (int w = 0; w < W; ++w) {
                U64v values = block.load(kBlockTokens * t.head_dim + 4 * (k * t.head_dim + h) + 64 * w);
                for (int r = 0; r < R; ++r) {
                    high[r][w] = dot_wide(high[r][w], values, weights[r]->high + 4 * k);
                    low[r][w] = dot_wide(low[r][w], values, weights[r]->low + 4 * k);
                }
            }
        for (int r = 0; r < R; ++r)
            for (int w = 0; w < W; ++w) {
                float* to = out[r] + 16 * w;
                F16v part = f_from(i_add(i_left<7>(high[r][w]), low[r][w]));
                f_store(to, f_fma(part, f_set(weights[r]->scale), b ? f_load(to) : f_set(0)));
            }
    }
}

template <int R>
void mix_rows_8bit(const AttentionTask& t, int64_t row, int64_t num_blocks) {
    constexpr int W = kAccumulators / R >= 12 ? 4 : kAccumulators / R >= 4 ? 2 : 1;
    int64_t h = 0;
    for (; h + 16 * W <= t.head_dim; h += 16 * W) mix_part_8bit<R, W>(t, row, num_blocks, h);
    for (; h < t.head_dim; h += 16) mix_part_8bit<R, 1>(t, row, num_blocks, h);
}

void attend_8bit(const AttentionTask& t) {
    int64_t most = t.first_seen + (t.num_rows - 1) / t.group;
    int64_t num_blocks = (most + kBlockTokens - 1) / kBlockTokens;
    in_bunches(t.num_rows, [&](auto rows, int64_t row) {
        constexpr int R = decltype(rows)::value;
        float scales[R];
        int32_t sums[R];
        for (int r = 0; r < R; ++r) {
            int8_t* planes = t.planes + 2 * r * t.head_dim;
            scales[r] = split_query(t.q + (row + r) * t.head_dim, t.head_dim, planes, planes + t.head_dim, sums[r]);
        }
        score_rows_8bit<R>(t, row, num_blocks, t.planes, scales, sums);
    });
    for (int64_t row = 0; row < t.num_rows; ++row) {
        float* scores = t.scores + row * t.scores_stride;
        float factor = softmax(scores, t.first_seen + row / t.group, num_blocks * kBlockTokens);
        split_weights(t, scores, num_blocks, factor);
    }
    in_bunches(t.num_rows, [&](auto rows, int64_t row) { mix_rows_8bit<decltype(rows)::value>(t, row, num_blocks); });
}

void store_8bit(const float* key, const float* value, int64_t head_dim, int64_t token, uint8_t* block) {
    uint8_t *keys = block + 4 * token, *values = block + kBlockTokens * head_dim + 4 * (token / 4) * head_dim + token % 4;
    float* scales = reinterpret_cast<float*>(block + 2 * kBlockTokens * head_dim);
    auto levels = [&](const float* x, float* scale, auto put) {
        F16v peaks = f_set(0), zero = f_set(0);
        for (int64_t i = 0; i < head_dim; i += 16) peaks = f_max(peaks, f_max(f_load(x + i), f_sub(zero, f_load(x + i))));
        float peak = f_peak(peaks);
        *scale = peak / 127.0f;
        F16v inverse = f_set(peak > 0 ? 127.0f / peak : 0.0f);
        for (int64_t i = 0; i < head_dim; i += 16) {
            int8_t sixteen[16];
            i_store_unsigned(sixteen, i_add(i_round(f_mul(f_load(x + i), inverse)), i_set(128)));
            put(i, sixteen);
        }
    };
    levels(key, scales + token, [&](int64_t i, const int8_t* sixteen) {
        for (int64_t k = 0; k < 4; ++k) std::memcpy(keys + kBlockTokens * (i + 4 * k), sixteen + 4 * k, 4);
    });
    levels(value, scales + kBlockTokens + token, [&](int64_t i, const int8_t* sixteen) {
        for (int64_t k = 0; k < 16; ++k) values[4 * (i + k)] = static_cast<uint8_t>(sixteen[k]);
    });
}

void store_16bit(const float* key, const float* value, int64_t head_dim, int64_t token, uint8_t* block) {
    uint16_t* keys = reinterpret_cast<uint16_t*>(block);
    uint16_t* values = keys + kBlockTokens * head_dim;
    for (int64_t i = 0; i < head_dim; i += 16) {
        uint16_t sixteen[16];
        f_store_half(sixteen, f_load(key + i));
        for (int64_t k = 0; k < 16; ++k) keys[kBlockTokens * (i + k) + token] = sixteen[k];
        f_store_half(values + head_dim * token + i, f_load(value + i));
    }
}

}  // namespace
}  // namespace understudy
