// Products with quantized weights. Over the lanes of the simd_*.h that is included before.
#pragma once
#include <algorithm>
#include <cstring>
#include <utility>

#include "understudy/kernels.h"

namespace understudy {
namespace {

// Two families. "Scaled groups" (Q4_0, Q8_0): 32 inputs, an integer sum, then fp32. "K-quants" (Q4_K, Q6_K): integer sums of
// groups times integer scales, added up over 256 inputs, then fp32. A format tells how to read a vector of weights.

struct Q4_0 {
    static constexpr int64_t inputs = 64, bytes = 576, scales_at = 512, pair_bytes = 64;
    static constexpr int zero_bits = 3;  // the level that means zero is 1 << 3
    static constexpr bool is_wide = false;
    // Quads 2 j and 2 j + 1 of a block.
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) {
        U64v w = u_load(block + 64 * j);
        a = u_and(w, 15);
        b = u_right<4>(w);
    }
};

struct Q8_0 {
    static constexpr int64_t inputs = 64, bytes = 1088, scales_at = 1024, pair_bytes = 128;
    static constexpr int zero_bits = 7;
    static constexpr bool is_wide = true;
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) {
        a = u_load(block + 128 * j);
        b = u_load(block + 128 * j + 64);
    }
};

struct Q4_K {
    static constexpr int64_t inputs = 256, bytes = 2304, group = 32;
    static constexpr int zero_bits = 0;  // none
    static constexpr bool has_minimum = true;
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) { Q4_0::quads(block, j, a, b); }
    static inline F16v scale(const uint8_t* block) { return f_half(block + 2048); }
    static inline F16v minimum(const uint8_t* block) { return f_half(block + 2080); }
    // Integer scales and minima of 16 rows, group g in lane g % 4 of vector g / 4.
    struct Scales { U64v scales[2], minima[2]; };
    static inline Scales scales(const uint8_t* block) {
        U64v a = u_load(block + 2112), b = u_load(block + 2176), c = u_load(block + 2240);
        U64v high = u_or(u_right<6>(a), u_or(u_left<2>(u_right<6>(b)), u_left<4>(u_right<6>(c))));
        return {{u_and(a, 63), u_and(b, 63)}, {u_and(c, 63), high}};
    }
    template <int G> static inline I16v step(const Scales& s) { return i_lane<G % 4>(s.scales[G / 4]); }
    template <int G> static inline I16v low(const Scales& s) { return i_lane<G % 4>(s.minima[G / 4]); }
};

struct Q6_K {
    static constexpr int64_t inputs = 256, bytes = 3392, group = 16;
    static constexpr int zero_bits = 5;
    static constexpr bool has_minimum = false;
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) {
        U64v low = u_load(block + 64 * j), high = u_load(block + 2048 + 64 * (j / 2));
        if (j % 2) high = u_right<4>(high);
        a = u_or(u_and(low, 15), u_left<4>(u_and(high, 3)));
        b = u_or(u_right<4>(low), u_left<4>(u_and(u_right<2>(high), 3)));
    }
    static inline F16v scale(const uint8_t* block) { return f_half(block + 3328); }
    static inline F16v minimum(const uint8_t*) { return f_set(0); }
    struct Scales { const uint8_t* at; };
    static inline Scales scales(const uint8_t* block) { return {block + 3072}; }
    template <int G> static inline I16v step(const Scales& s) { return i_signed(s.at + 16 * G); }
    template <int G> static inline I16v low(const Scales&) { return i_set(0); }
};

// work(0), work(1), ... with numbers that the compiler knows.
template <int... I, class Work> inline __attribute__((always_inline)) void unrolled(std::integer_sequence<int, I...>, Work work) {
    (work(std::integral_constant<int, I>{}), ...);
}

template <class Format> inline I16v product(I16v acc, U64v w, const int8_t* x) {
    if constexpr (Format::is_wide) return dot_wide(acc, w, x);
    else return dot(acc, w, x);
}

// What turns sums over unsigned levels into sums over signed ones.
template <class Format> inline I16v zero_sum(const int32_t& negated_sum) { return i_left<Format::zero_bits>(i_set(negated_sum)); }

inline F16v add_group(F16v y, I16v sum, float x_scale, F16v w_scale) {
    return f_fma(f_mul(f_from(sum), f_set(x_scale)), w_scale, y);
}
inline F16v add_block(F16v y, I16v sum, I16v minima, float x_scale, F16v scale, F16v minimum, bool has_minimum) {
    y = f_fma(f_mul(f_from(sum), f_set(x_scale)), scale, y);
    return has_minimum ? f_fma(f_mul(f_from(minima), f_set(x_scale)), minimum, y) : y;
}

// Asks for the weights that come up some hundred cycles later; they are read once, so they need not stay.
inline void look_ahead(const uint8_t* at) { __builtin_prefetch(at + 4096, 0, 0); }

// A panel straight from its packed form, M tokens at a time: the way of decoding.
template <class Format, int M>
void panel_groups(const uint8_t* panel, int64_t blocks, const QuantizedRows& x, int64_t first, float* y, int64_t y_stride) {
    F16v acc[M];
    for (int m = 0; m < M; ++m) acc[m] = f_set(0);
    int64_t groups = x.stride / 32;
    for (int64_t b = 0; b < blocks; ++b) {
        const uint8_t* block = panel + b * Format::bytes;
        for (int64_t g = 0; g < 2; ++g) {
            int64_t at = 2 * b + g;
            I16v sum[M];
            for (int m = 0; m < M; ++m) sum[m] = zero_sum<Format>(x.sums[(first + m) * groups + at]);
            for (int64_t j = 0; j < 4; ++j) {
                U64v p, q;
                look_ahead(block + Format::pair_bytes * (4 * g + j));
                if constexpr (Format::pair_bytes > 64) look_ahead(block + Format::pair_bytes * (4 * g + j) + 64);
                Format::quads(block, 4 * g + j, p, q);
                for (int m = 0; m < M; ++m) {
                    const int8_t* level = x.levels + (first + m) * x.stride + 32 * at + 8 * j;
                    sum[m] = product<Format>(product<Format>(sum[m], p, level), q, level + 4);
                }
            }
            F16v scale = f_half(block + Format::scales_at + 32 * g);
            for (int m = 0; m < M; ++m) acc[m] = add_group(acc[m], sum[m], x.scales[(first + m) * groups + at], scale);
        }
    }
    for (int m = 0; m < M; ++m) f_store(y + (first + m) * y_stride, acc[m]);
}

template <class Format, int M>
void panel_k(const uint8_t* panel, int64_t blocks, const QuantizedRows& x, int64_t first, float* y, int64_t y_stride) {
    F16v acc[M];
    for (int m = 0; m < M; ++m) acc[m] = f_set(0);
    for (int64_t b = 0; b < blocks; ++b) {
        const uint8_t* block = panel + b * Format::bytes;
        auto scales = Format::scales(block);
        I16v sum[M], low[M];
        for (int m = 0; m < M; ++m) sum[m] = low[m] = i_set(0);
        unrolled(std::make_integer_sequence<int, 256 / Format::group>{}, [&](auto number) __attribute__((always_inline)) {
            constexpr int g = number;
            I16v part[M];
            for (int m = 0; m < M; ++m) {
                const int32_t* sums = x.sums + ((first + m) * (x.stride / 256) + b) * kSumsIn256;
                part[m] = Format::zero_bits ? zero_sum<Format>(sums[g]) : i_set(0);
                if constexpr (Format::has_minimum)
                    low[m] = i_add(low[m], i_mul(Format::template low<g>(scales), i_set(sums[16 + g])));
            }
            for (int j = 0; j < Format::group / 8; ++j) {
                U64v p, q;
                constexpr int first_pair = g * (Format::group / 8);
                look_ahead(block + 64 * (first_pair + j));
                Format::quads(block, first_pair + j, p, q);
                for (int m = 0; m < M; ++m) {
                    const int8_t* level = x.levels + (first + m) * x.stride + 256 * b + Format::group * g + 8 * j;
                    part[m] = dot(dot(part[m], p, level), q, level + 4);
                }
            }
            I16v step = Format::template step<g>(scales);
            for (int m = 0; m < M; ++m) sum[m] = i_add(sum[m], i_mul(part[m], step));
        });
        F16v scale = Format::scale(block), minimum = Format::minimum(block);
        for (int m = 0; m < M; ++m)
            acc[m] = add_block(acc[m], sum[m], low[m], x.scales[(first + m) * (x.stride / 256) + b], scale, minimum,
                               Format::has_minimum);
    }
    for (int m = 0; m < M; ++m) f_store(y + (first + m) * y_stride, acc[m]);
}

template <class Format, int M>
inline void one_panel(const uint8_t* panel, int64_t blocks, const QuantizedRows& x, int64_t first, float* y, int64_t y_stride) {
    if constexpr (Format::inputs == 64) panel_groups<Format, M>(panel, blocks, x, first, y, y_stride);
    else panel_k<Format, M>(panel, blocks, x, first, y, y_stride);
}

template <class Format>
void few_rows(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride) {
    for (int64_t p = begin; p < end; ++p) {
        const uint8_t* panel = w.data + p * w.blocks * Format::bytes;
        float* to = y + p * kPanelRows;
        int64_t m = 0;
        for (; m + 4 <= num_rows; m += 4) one_panel<Format, 4>(panel, w.blocks, x, m, to, y_stride);
        switch (num_rows - m) {
            case 3: one_panel<Format, 3>(panel, w.blocks, x, m, to, y_stride); break;
            case 2: one_panel<Format, 2>(panel, w.blocks, x, m, to, y_stride); break;
            case 1: one_panel<Format, 1>(panel, w.blocks, x, m, to, y_stride); break;
            default: break;
        }
    }
}

constexpr int64_t kManyRows = 20;  // from here on unpacking pays (measured)

// ---- many rows: kTilePanels panels are unpacked once for a stretch of inputs, then every token tile runs over them ----

// What a tile of tokens multiplies: levels as bytes, scales ready for use.
struct Unpacked {
    uint8_t* levels;    // [inputs / 4][panels][64]
    float* scales;      // groups: [inputs / 32][panels][16]; K: [inputs / 256][panels][16]
    float* minima;      // K: [inputs / 256][panels][16]
    int32_t* steps;     // K: [inputs / group][panels][16]
    int32_t* lows;      // K with minima: [inputs / 32][panels][16]
};

inline Unpacked lay_out(uint8_t* scratch) {
    Unpacked u;
    constexpr int64_t n = kChunkInputs, p = kTilePanels;
    u.levels = scratch;
    u.scales = reinterpret_cast<float*>(scratch + n * 16 * p);
    u.minima = u.scales + n / 32 * 16 * p;
    u.steps = reinterpret_cast<int32_t*>(u.minima + n / 256 * 16 * p);
    u.lows = u.steps + n / 16 * 16 * p;
    return u;
}

template <class Format>
void unpack(const uint8_t* panel, int64_t panel_bytes, int64_t blocks, const Unpacked& to) {
    constexpr int64_t P = kTilePanels;
    for (int64_t z = 0; z < P; ++z)
        for (int64_t b = 0; b < blocks; ++b) {
            const uint8_t* block = panel + z * panel_bytes + b * Format::bytes;
            uint8_t* levels = to.levels + (b * (Format::inputs / 4) * P + z) * 64;
            for (int64_t j = 0; j < Format::inputs / 8; ++j) {
                U64v p, q;
                Format::quads(block, j, p, q);
                u_store(levels + 2 * j * P * 64, p);
                u_store(levels + (2 * j + 1) * P * 64, q);
            }
            if constexpr (Format::inputs == 64) {
                for (int64_t g = 0; g < 2; ++g)
                    f_store(to.scales + ((2 * b + g) * P + z) * 16, f_half(block + Format::scales_at + 32 * g));
            } else {
                auto scales = Format::scales(block);
                f_store(to.scales + (b * P + z) * 16, Format::scale(block));
                f_store(to.minima + (b * P + z) * 16, Format::minimum(block));
                constexpr int G = 256 / Format::group;
                unrolled(std::make_integer_sequence<int, G>{}, [&](auto number) __attribute__((always_inline)) {
                    constexpr int g = number;
                    i_store(to.steps + ((b * G + g) * P + z) * 16, Format::template step<g>(scales));
                    if constexpr (Format::has_minimum) i_store(to.lows + ((b * G + g) * P + z) * 16, Format::template low<g>(scales));
                });
            }
        }
}

// R tokens times kTilePanels panels, added to y. `y` is (R, kTilePanels * 16) in a buffer of the caller.
template <class Format, int R>
inline __attribute__((always_inline)) void tile_groups(const Unpacked& u, int64_t blocks, const QuantizedRows& x, int64_t first, int64_t input, float* y) {
    constexpr int P = kTilePanels;
    int64_t groups = x.stride / 32;
    for (int64_t g = 0; g < 2 * blocks; ++g) {
        int64_t at = input / 32 + g;
        I16v sum[R][P];
        for (int r = 0; r < R; ++r)
            for (int z = 0; z < P; ++z) sum[r][z] = zero_sum<Format>(x.sums[(first + r) * groups + at]);
        const uint8_t* levels = u.levels + g * 8 * P * 64;
        const int8_t* from = x.levels + first * x.stride + 32 * at;
        for (int64_t k = 0; k < 8; ++k) {
            U64v w[P];
            for (int z = 0; z < P; ++z) w[z] = u_load(levels + (k * P + z) * 64);
            for (int r = 0; r < R; ++r)
                for (int z = 0; z < P; ++z) sum[r][z] = product<Format>(sum[r][z], w[z], from + r * x.stride + 4 * k);
        }
        for (int r = 0; r < R; ++r)
            for (int z = 0; z < P; ++z) {
                float* to = y + (r * P + z) * 16;
                f_store(to, add_group(f_load(to), sum[r][z], x.scales[(first + r) * groups + at], f_load(u.scales + (g * P + z) * 16)));
            }
    }
}

template <class Format, int R>
inline __attribute__((always_inline)) void tile_k(const Unpacked& u, int64_t blocks, const QuantizedRows& x, int64_t first, int64_t input, float* y) {
    constexpr int P = kTilePanels;
    constexpr int64_t G = 256 / Format::group;
    alignas(64) int32_t totals[R][P][16], lows[R][P][16];
    for (int64_t b = 0; b < blocks; ++b) {
        int64_t at = input / 256 + b;
        for (int64_t g = 0; g < G; ++g) {
            I16v sum[R][P];
            for (int r = 0; r < R; ++r) {
                const int32_t* sums = x.sums + ((first + r) * (x.stride / 256) + at) * kSumsIn256;
                for (int z = 0; z < P; ++z) sum[r][z] = Format::zero_bits ? zero_sum<Format>(sums[g]) : i_set(0);
            }
            const uint8_t* levels = u.levels + (b * G + g) * (Format::group / 4) * P * 64;
            const int8_t* from = x.levels + first * x.stride + 256 * at + Format::group * g;
            for (int64_t k = 0; k < Format::group / 4; ++k) {
                U64v w[P];
                for (int z = 0; z < P; ++z) w[z] = u_load(levels + (k * P + z) * 64);
                for (int r = 0; r < R; ++r)
                    for (int z = 0; z < P; ++z) sum[r][z] = dot(sum[r][z], w[z], from + r * x.stride + 4 * k);
            }
            for (int z = 0; z < P; ++z) {
                I16v step = i_load(u.steps + ((b * G + g) * P + z) * 16);
                for (int r = 0; r < R; ++r) {
                    I16v total = i_mul(sum[r][z], step);
                    i_store(totals[r][z], g ? i_add(total, i_load(totals[r][z])) : total);
                }
            }
        }
        if constexpr (Format::has_minimum)
            for (int r = 0; r < R; ++r) {
                const int32_t* sums = x.sums + ((first + r) * (x.stride / 256) + at) * kSumsIn256;
                for (int z = 0; z < P; ++z) {
                    I16v low = i_set(0);
                    for (int64_t g = 0; g < G; ++g)
                        low = i_add(low, i_mul(i_load(u.lows + ((b * G + g) * P + z) * 16), i_set(sums[16 + g])));
                    i_store(lows[r][z], low);
                }
            }
        for (int r = 0; r < R; ++r)
            for (int z = 0; z < P; ++z) {
                float* to = y + (r * P + z) * 16;
                f_store(to, add_block(f_load(to), i_load(totals[r][z]), Format::has_minimum ? i_load(lows[r][z]) : i_set(0),
                                      x.scales[(first + r) * (x.stride / 256) + at], f_load(u.scales + (b * P + z) * 16),
                                      f_load(u.minima + (b * P + z) * 16), Format::has_minimum));
            }
    }
}

template <class Format, int R>
void tile(const Unpacked& u, int64_t blocks, const QuantizedRows& x, int64_t first, int64_t input, float* y, int64_t y_stride) {
    constexpr int64_t width = kTilePanels * kPanelRows;
    alignas(64) float part[R * width];
    for (int r = 0; r < R; ++r) {
        if (input) std::memcpy(part + r * width, y + r * y_stride, width * sizeof(float));
        else std::memset(part + r * width, 0, width * sizeof(float));
    }
    if constexpr (Format::inputs == 64) tile_groups<Format, R>(u, blocks, x, first, input, part);
    else tile_k<Format, R>(u, blocks, x, first, input, part);
    for (int r = 0; r < R; ++r) std::memcpy(y + r * y_stride, part + r * width, width * sizeof(float));
}

template <class Format>
void many_rows(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride, uint8_t* scratch) {
    Unpacked u = lay_out(scratch);
    int64_t panel_bytes = w.blocks * Format::bytes, step = kChunkInputs / Format::inputs;
    int64_t p = begin;
    for (; p + kTilePanels <= end; p += kTilePanels)
        for (int64_t b = 0; b < w.blocks; b += step) {
            int64_t count = std::min(step, w.blocks - b);
            unpack<Format>(w.data + p * panel_bytes + b * Format::bytes, panel_bytes, count, u);
            int64_t m = 0;
            float* to = y + p * kPanelRows;
            for (; m + kTileTokens <= num_rows; m += kTileTokens)
                tile<Format, kTileTokens>(u, count, x, m, b * Format::inputs, to + m * y_stride, y_stride);
            for (; m < num_rows; ++m) tile<Format, 1>(u, count, x, m, b * Format::inputs, to + m * y_stride, y_stride);
        }
    if (p < end) few_rows<Format>(w, x, num_rows, p, end, y, y_stride);
}

template <class Format>
inline void matmul_as(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride, uint8_t* scratch) {
    if (num_rows < kManyRows) few_rows<Format>(w, x, num_rows, begin, end, y, y_stride);
    else many_rows<Format>(w, x, num_rows, begin, end, y, y_stride, scratch);
}

void matmul(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride, uint8_t* scratch) {
    switch (w.kind) {
        case Kind::Q4_0: return matmul_as<Q4_0>(w, x, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q8_0: return matmul_as<Q8_0>(w, x, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q4_K: return matmul_as<Q4_K>(w, x, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q6_K: return matmul_as<Q6_K>(w, x, num_rows, begin, end, y, y_stride, scratch);
        default: return;
    }
}

}  // namespace
}  // namespace understudy
