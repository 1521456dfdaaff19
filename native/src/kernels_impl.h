// The kernels, written once in terms of 16 lanes; each kernels_*.cpp includes its lanes, then this.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "understudy/kernels.h"

namespace understudy {
namespace {

// ---- activations ----------------------------------------------------------------------------------------------

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

// ---- quantized weights ----------------------------------------------------------------------------------------
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

// ---- float weights: fp32 multiply-adds in the order of the inputs, even and odd ones apart ----------------------------

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

// ---- elementwise ----------------------------------------------------------------------------------------------

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

// ---- attention -------------------------------------------------------------------------------------------------

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

constexpr Kernels table(const char* name) {
    return {name, quantize_32, quantize_256, matmul, matmul_float, layer_norm, add, relu2, attend<Bytes>, attend<Halves>,
            store_8bit, store_16bit};
}

}  // namespace
}  // namespace understudy
