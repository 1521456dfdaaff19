// Products with quantized weights. Over the lanes of the simd_*.h that is included before.
//
// For a row of W and a token: of each group of 16 or 32 inputs an exact integer sum; over 256 inputs
//   part = sum of fma(group's sum, group's scale) and, where the format has minima, fma(minimum, negated sum of levels),
// in the order of the groups; then y = fma(part, the token's scale of the 256, y). Both ways below do just this.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "formats_impl.h"

namespace understudy {
namespace {

// work(0), work(1), ... with numbers that the compiler knows.
template <int... I, class Work> inline __attribute__((always_inline)) void unrolled(std::integer_sequence<int, I...>, Work work) {
    (work(std::integral_constant<int, I>{}), ...);
}

template <class Format> inline I16v product(I16v acc, U64v w, const int8_t* x) {
    if constexpr (Format::is_neuron_major) return Format::is_wide ? dot_unsigned_wide(acc, w, x) : dot_unsigned(acc, w, x);
    else if constexpr (std::is_same_v<Format, IQ4_XS>) return dot_table(acc, w, x);
    else return Format::is_wide ? dot_wide(acc, w, x) : dot(acc, w, x);
}

// What turns sums over unsigned levels into sums over signed ones.
template <class Format> inline I16v zero_sum(int32_t negated_sum) {
    if constexpr (Format::zero_bits == 0) return i_set(0);
    else return i_left<Format::zero_bits>(i_set(negated_sum));
}

// What one row takes from 256 of its levels: negated sums of its groups, their scale.
template <class Format> struct Levels256 {
    const int8_t* levels;
    const int32_t* sums;
    float scale;
    Levels256() = default;
    Levels256(const QuantizedRows& x, int64_t row, int64_t at) {
        int64_t number = row * (x.stride / 256) + at;
        levels = x.levels + 256 * number;
        sums = x.sums + kSumsIn256 * number + (Format::group == 16 ? 0 : 16);
        scale = x.scales[number];
    }
};

inline F16v add_group(F16v part, I16v sum, F16v scale) { return f_fma(f_from(sum), scale, part); }
inline F16v add_minimum(F16v part, F16v minimum, int32_t negated_sum) { return f_fma(minimum, f_from(i_set(negated_sum)), part); }

// Asks for the weights that come up some hundred cycles later; they are read once, so they need not stay.
inline void look_ahead(const uint8_t* at) { __builtin_prefetch(at + 4096, 0, 0); }

// ---- few rows: a panel straight from its packed form, M tokens at a time; the way of decoding ----

template <class Format, int M>
void one_panel(const uint8_t* panel, int64_t blocks, const QuantizedRows& x, int64_t first, float* y, int64_t y_stride) {
    constexpr int64_t in_256 = 256 / Format::inputs;
    constexpr int groups = Format::inputs / Format::group, pairs = Format::group / 8;
    F16v acc[M];
    for (int m = 0; m < M; ++m) acc[m] = f_set(0);
    for (int64_t b = 0; b < blocks; b += in_256) {
        Levels256<Format> row[M];
        F16v part[M];
        for (int m = 0; m < M; ++m) {
            row[m] = {x, first + m, b / in_256};
            part[m] = f_set(0);
        }
        for (int64_t c = 0; c < std::min(in_256, blocks - b); ++c) {
            const uint8_t* block = panel + (b + c) * Format::bytes;
            auto scales = Format::scales(block);
            unrolled(std::make_integer_sequence<int, groups>{}, [&](auto number) __attribute__((always_inline)) {
                constexpr int g = number;
                int64_t at = c * groups + g;
                I16v sum[M];
                for (int m = 0; m < M; ++m) sum[m] = zero_sum<Format>(row[m].sums[at]);
                for (int j = 0; j < pairs; ++j) {
                    U64v p, q;
                    const uint8_t* weights = block + Format::pair_bytes * (g * pairs + j);
                    look_ahead(weights);
                    if constexpr (Format::pair_bytes > 64) look_ahead(weights + 64);
                    Format::quads(block, g * pairs + j, p, q);
                    for (int m = 0; m < M; ++m) {
                        const int8_t* level = row[m].levels + Format::group * at + 8 * j;
                        sum[m] = product<Format>(product<Format>(sum[m], p, level), q, level + 4);
                    }
                }
                F16v scale = Format::template scale<g>(scales);
                for (int m = 0; m < M; ++m) part[m] = add_group(part[m], sum[m], scale);
                if constexpr (Format::has_minimum) {
                    F16v minimum = Format::template minimum<g>(scales);
                    for (int m = 0; m < M; ++m) part[m] = add_minimum(part[m], minimum, row[m].sums[at]);
                }
            });
        }
        for (int m = 0; m < M; ++m) acc[m] = f_fma(part[m], f_set(row[m].scale), acc[m]);
    }
    for (int m = 0; m < M; ++m) f_store(y + (first + m) * y_stride, acc[m]);
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

// ---- many rows: kTilePanels panels are unpacked once for a stretch of inputs, then every token tile runs over them ----

// What a tile of tokens multiplies: levels as bytes, scales ready for use.
struct Unpacked {
    uint8_t* levels;    // [inputs / 4][panels][64]
    float* scales;      // [inputs / group][panels][16]
    float* minima;      // the same, where the format has them
};

inline Unpacked lay_out(uint8_t* scratch) {
    constexpr int64_t n = kChunkInputs, p = kTilePanels;
    auto* scales = reinterpret_cast<float*>(scratch + n * 16 * p);
    return {scratch, scales, scales + n * p};
}

template <class Format>
void unpack(const uint8_t* panel, int64_t panel_bytes, int64_t blocks, const Unpacked& to) {
    constexpr int64_t P = kTilePanels;
    constexpr int groups = Format::inputs / Format::group;
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
            auto scales = Format::scales(block);
            unrolled(std::make_integer_sequence<int, groups>{}, [&](auto number) __attribute__((always_inline)) {
                constexpr int g = number;
                int64_t at = ((b * groups + g) * P + z) * 16;
                f_store(to.scales + at, Format::template scale<g>(scales));
                if constexpr (Format::has_minimum) f_store(to.minima + at, Format::template minimum<g>(scales));
            });
        }
}

// R tokens times kTilePanels panels of `inputs` inputs from `input` on, added to y.
template <class Format, int R>
void tile(const Unpacked& u, int64_t inputs, const QuantizedRows& x, int64_t first, int64_t input, float* y, int64_t y_stride) {
    constexpr int P = kTilePanels;
    constexpr int64_t quads = Format::group / 4;
    alignas(64) float acc[R][P][16];  // between the first 256 and the last, as y's rows would fight over a few sets of the cache
    for (int64_t at = 0; at < inputs; at += 256) {
        Levels256<Format> row[R];
        F16v part[R][P];
        for (int r = 0; r < R; ++r) {
            row[r] = {x, first + r, (input + at) / 256};
            for (int z = 0; z < P; ++z) part[r][z] = f_set(0);
        }
        const int8_t* from = row[0].levels;
        int64_t groups = std::min<int64_t>(256, inputs - at) / Format::group;
        for (int64_t g = 0; g < groups; ++g) {
            int64_t group = at / Format::group + g;
            I16v sum[R][P];
            for (int r = 0; r < R; ++r)
                for (int z = 0; z < P; ++z) sum[r][z] = zero_sum<Format>(row[r].sums[g]);
            const uint8_t* levels = u.levels + group * quads * P * 64;
            for (int64_t k = 0; k < quads; ++k) {
                U64v w[P];
                for (int z = 0; z < P; ++z) w[z] = u_load(levels + (k * P + z) * 64);
                for (int r = 0; r < R; ++r)
                    for (int z = 0; z < P; ++z) sum[r][z] = product<Format>(sum[r][z], w[z], from + r * x.stride + Format::group * g + 4 * k);
            }
            for (int z = 0; z < P; ++z) {
                F16v scale = f_load(u.scales + (group * P + z) * 16);
                for (int r = 0; r < R; ++r) part[r][z] = add_group(part[r][z], sum[r][z], scale);
                if constexpr (Format::has_minimum) {
                    F16v minimum = f_load(u.minima + (group * P + z) * 16);
                    for (int r = 0; r < R; ++r) part[r][z] = add_minimum(part[r][z], minimum, row[r].sums[g]);
                }
            }
        }
        for (int r = 0; r < R; ++r)
            for (int z = 0; z < P; ++z) {
                float* to = y + r * y_stride + 16 * z;
                F16v before = at ? f_load(acc[r][z]) : input ? f_load(to) : f_set(0);
                f_store(at + 256 < inputs ? acc[r][z] : to, f_fma(part[r][z], f_set(row[r].scale), before));
            }
    }
}

// The packed weights that are unpacked next, kTilePanels stretches of them: the last tiles before ask for them.
struct Ahead {
    const uint8_t* at;
    int64_t step, bytes;
};
constexpr int64_t kAheadTiles = 8;

inline void ask_for(const Ahead& ahead, int64_t tile, int64_t num_tiles) {
    int64_t lasts = std::min(kAheadTiles, num_tiles), part = (ahead.bytes + lasts - 1) / lasts, begin = (tile - (num_tiles - lasts)) * part;
    if (begin < 0) return;
    for (int64_t i = begin; i < std::min(begin + part, ahead.bytes); i += 64)
        for (int64_t z = 0; z < kTilePanels; ++z) __builtin_prefetch(ahead.at + z * ahead.step + i, 0, 2);
}

template <class Format>
void all_tiles(const Unpacked& u, int64_t inputs, const QuantizedRows& x, int64_t num_rows, int64_t input, float* y, int64_t y_stride, const Ahead& ahead) {
    int64_t m = 0;
    for (; m + kTileTokens <= num_rows; m += kTileTokens) {
        ask_for(ahead, m / kTileTokens, num_rows / kTileTokens);
        tile<Format, kTileTokens>(u, inputs, x, m, input, y + m * y_stride, y_stride);
    }
    unrolled(std::make_integer_sequence<int, kTileTokens>{}, [&](auto rest) {
        if constexpr (rest > 0)
            if (num_rows - m == rest) tile<Format, rest>(u, inputs, x, m, input, y + m * y_stride, y_stride);
    });
}

template <class Format>
void many_rows(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride, uint8_t* scratch) {
    Unpacked u = lay_out(scratch);
    int64_t panel_bytes = w.blocks * Format::bytes, step = kChunkInputs / Format::inputs;
    int64_t p = begin;
    for (; p + kTilePanels <= end; p += kTilePanels)
        for (int64_t b = 0; b < w.blocks; b += step) {
            int64_t count = std::min(step, w.blocks - b);
            const uint8_t* here = w.data + p * panel_bytes + b * Format::bytes;
            unpack<Format>(here, panel_bytes, count, u);
            int64_t rest = w.blocks - b - count;  // of these panels; behind them come the next ones
            Ahead ahead{here + count * Format::bytes + (rest ? 0 : (kTilePanels - 1) * panel_bytes), panel_bytes,
                        std::min(step, rest ? rest : w.blocks) * Format::bytes};
            all_tiles<Format>(u, count * Format::inputs, x, num_rows, b * Format::inputs, y + p * kPanelRows, y_stride, ahead);
        }
    if (p < end) few_rows<Format>(w, x, num_rows, p, end, y, y_stride);
}

template <class Format>
inline void matmul_as(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride, uint8_t* scratch) {
    if (reads_lines(num_rows)) few_rows<Format>(w, x, num_rows, begin, end, y, y_stride);
    else many_rows<Format>(w, x, num_rows, begin, end, y, y_stride, scratch);
}

void matmul(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y, int64_t y_stride, uint8_t* scratch) {
    switch (w.kind) {
        case Kind::Q4_0: return matmul_as<Q4_0>(w, x, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q8_0: return matmul_as<Q8_0>(w, x, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q4_K: return matmul_as<Q4_K>(w, x, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q6_K: return matmul_as<Q6_K>(w, x, num_rows, begin, end, y, y_stride, scratch);
        case Kind::IQ4_XS: return matmul_as<IQ4_XS>(w, x, num_rows, begin, end, y, y_stride, scratch);
        default: return;
    }
}

// Nothing but products, for the machine's own peak: returns 8-bit multiplications and additions done.
int64_t multiply_idly(int64_t rounds, int32_t* sink) {
    constexpr int chains = 12;
    using All = std::make_integer_sequence<int, chains>;
    const int8_t x[4] = {1, 2, 3, 4};
    const uint8_t w[64] = {1, 2, 3};
    I16v sum[chains];
    for (int k = 0; k < chains; ++k) sum[k] = i_set(k);
    U64v weights = u_load(w);
    // Unrolled by hand: sums that are indexed by a variable go through memory at each product.
    for (int64_t i = 0; i < rounds; ++i) unrolled(All{}, [&](auto k) __attribute__((always_inline)) { sum[k] = dot(sum[k], weights, x); });
    for (int k = 0; k < chains; ++k) *sink += i_sum(sum[k]);
    return rounds * chains * 64 * 2;
}

}  // namespace
}  // namespace understudy
