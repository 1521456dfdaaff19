// Products with a neuron-major matrix (packed.h), whose inputs are squared ReLUs: lines of zero inputs are not read. A row is
// the same bit for bit with all lines read, since zeros add nothing to the exact integer sums. Sums as in matmul_impl.h.
#pragma once
#include "matmul_impl.h"

namespace understudy {
namespace {

constexpr int64_t kAheadLines = 64;  // asked for before they are used, some hundreds of cycles earlier

// Formats: block = 256 inputs of a tile, unit = 32 of them, vector = 16 of the tile's 128 rows.
struct Q4_0Lines {
    static constexpr Kind kind = Kind::Q4_0;
    static constexpr bool is_neuron_major = true, is_wide = false, has_minimum = false;
    static constexpr int group = 32, zero_bits = 3;
    static constexpr int64_t line_bytes = 64, head_bytes = 256;
    static inline const uint8_t* lines(const uint8_t* block, int64_t unit) { return block + 2304 * unit + 256; }
    static inline const uint8_t* head(const uint8_t* block, int64_t unit) { return block + 2304 * unit; }
    static inline F16v scale(const uint8_t* block, int64_t unit, int64_t vector) { return f_half(block + 2304 * unit + 32 * vector); }
    static inline F16v minimum(const uint8_t*, int64_t, int64_t) { return f_set(0); }
    // 64 rows of a line: half 0 or 1 of the tile.
    template <int Half> static inline U64v level(const uint8_t* line) {
        U64v w = u_load(line);
        return Half ? u_right<4>(w) : u_and(w, 15);
    }
};
struct Q8_0Lines {
    static constexpr Kind kind = Kind::Q8_0;
    static constexpr bool is_neuron_major = true, is_wide = true, has_minimum = false;
    static constexpr int group = 32, zero_bits = 0;
    static constexpr int64_t line_bytes = 128, head_bytes = 256;
    static inline const uint8_t* lines(const uint8_t* block, int64_t unit) { return block + 4352 * unit + 256; }
    static inline const uint8_t* head(const uint8_t* block, int64_t unit) { return block + 4352 * unit; }
    static inline F16v scale(const uint8_t* block, int64_t unit, int64_t vector) { return f_half(block + 4352 * unit + 32 * vector); }
    static inline F16v minimum(const uint8_t*, int64_t, int64_t) { return f_set(0); }
    template <int Half> static inline U64v level(const uint8_t* line) { return u_load(line + 64 * Half); }
};
struct Q4_KLines {
    static constexpr Kind kind = Kind::Q4_K;
    static constexpr bool is_neuron_major = true, is_wide = false, has_minimum = true;
    static constexpr int group = 32, zero_bits = 0;
    static constexpr int64_t line_bytes = 64, head_bytes = 128;
    static inline const uint8_t* lines(const uint8_t* block, int64_t unit) { return block + 2560 + 2048 * unit; }
    static inline const uint8_t* head(const uint8_t* block, int64_t unit) { return block + 512 + 128 * unit; }
    static inline F16v scale(const uint8_t* block, int64_t unit, int64_t vector) {
        return f_mul(f_from(i_bytes(block + 512 + 128 * unit + 16 * vector)), f_half(block + 32 * vector));
    }
    static inline F16v minimum(const uint8_t* block, int64_t unit, int64_t vector) {
        return f_mul(f_from(i_bytes(block + 1536 + 128 * unit + 16 * vector)), f_half(block + 256 + 32 * vector));
    }
    template <int Half> static inline U64v level(const uint8_t* line) { return Q4_0Lines::level<Half>(line); }
};
struct IQ4_XSLines {
    static constexpr Kind kind = Kind::IQ4_XS;
    static constexpr bool is_neuron_major = true, is_wide = true, has_minimum = false;
    static constexpr int group = 32, zero_bits = 0;
    static constexpr int64_t line_bytes = 64, head_bytes = 128;
    static inline const uint8_t* lines(const uint8_t* block, int64_t unit) { return block + 1280 + 2048 * unit; }
    static inline const uint8_t* head(const uint8_t* block, int64_t unit) { return block + 256 + 128 * unit; }
    static inline F16v scale(const uint8_t* block, int64_t unit, int64_t vector) {
        return f_mul(f_from(i_signed(block + 256 + 128 * unit + 16 * vector)), f_half(block + 32 * vector));
    }
    static inline F16v minimum(const uint8_t*, int64_t, int64_t) { return f_set(0); }
    template <int Half> static inline U64v level(const uint8_t* line) { return u_lookup(kIq4Levels, Q4_0Lines::level<Half>(line)); }
};

// Asks for the lines of the units to come, so many lines ahead of those that are used.
template <class Format> class LinesAhead {
public:
    LinesAhead(const uint8_t* tile, int64_t num_tiles, int64_t units, const ActiveLines& active)
        : tile_(tile), num_tiles_(num_tiles), units_(units), active_(active) {}
    void use(int64_t quads) {
        wanted_ += 4 * quads;
        while (asked_ < wanted_ && num_tiles_) ask();
    }

private:
    void ask() {
        constexpr int64_t block_bytes = line_block_bytes(Format::kind);
        const uint8_t* block = tile_ + unit_ / 8 * block_bytes;
        int64_t quads = active_.quads[unit_];
        if (quads) {
            const uint8_t *head = Format::head(block, unit_ % 8), *lines = Format::lines(block, unit_ % 8);
            for (int64_t i = 0; i < Format::head_bytes; i += 64) __builtin_prefetch(head + i, 0, 0);
            if constexpr (Format::has_minimum)
                for (int64_t i = 0; i < Format::head_bytes; i += 64) __builtin_prefetch(head + 1024 + i, 0, 0);
            for (int64_t i = 0; i < 4 * quads; ++i) {
                const uint8_t* line = lines + active_.order[32 * unit_ + i] * Format::line_bytes;
                __builtin_prefetch(line, 0, 0);
                if constexpr (Format::line_bytes > 64) __builtin_prefetch(line + 64, 0, 0);
            }
        }
        asked_ += 4 * quads;
        if (++unit_ == units_) {
            unit_ = 0;
            --num_tiles_;
            tile_ += units_ / 8 * block_bytes;
        }
    }

    const uint8_t* tile_;
    int64_t num_tiles_, units_, unit_ = 0, asked_ = 0, wanted_ = kAheadLines;
    const ActiveLines& active_;
};

// Half a tile of one unit, added to the rows' parts.
template <class Format, int M, int Half>
inline void add_unit(const uint8_t* block, int64_t unit, int64_t number, const ActiveLines& active, int64_t stride, const int32_t (&sums)[M],
                     float (&parts)[M][8][16]) {
    const uint8_t* lines = Format::lines(block, unit);
    const uint8_t *order = active.order + 32 * number, *levels = active.levels + 32 * number;
    I16v sum[M][4];
    for (int m = 0; m < M; ++m)
        for (int j = 0; j < 4; ++j) sum[m][j] = zero_sum<Format>(sums[m]);
    for (int64_t q = 0; q < active.quads[number]; ++q) {
        U64v w[4];
        auto line = [&](int64_t i) { return Format::template level<Half>(lines + order[4 * q + i] * Format::line_bytes); };
        u_quads(line(0), line(1), line(2), line(3), w);
        for (int m = 0; m < M; ++m)
            for (int j = 0; j < 4; ++j) sum[m][j] = product<Format>(sum[m][j], w[j], reinterpret_cast<const int8_t*>(levels + m * stride + 4 * q));
    }
    for (int j = 0; j < 4; ++j) {
        F16v scale = Format::scale(block, unit, 4 * Half + j);
        for (int m = 0; m < M; ++m) {
            float* to = parts[m][4 * Half + j];
            F16v part = add_group(f_load(to), sum[m][j], scale);
            if constexpr (Format::has_minimum) part = add_minimum(part, Format::minimum(block, unit, 4 * Half + j), sums[m]);
            f_store(to, part);
        }
    }
}

template <class Format, int M>
void lines_of_rows(const PackedMatrix& w, const QuantizedRows& x, const ActiveLines& active, int64_t first, int64_t begin, int64_t end, float* y,
                   int64_t y_stride) {
    int64_t block_bytes = line_block_bytes(w.kind);
    LinesAhead<Format> ahead(w.data + begin * w.tile_bytes(), end - begin, 8 * w.blocks, active);
    for (int64_t t = begin; t < end; ++t) {
        alignas(64) float acc[M][8][16] = {}, parts[M][8][16];
        for (int64_t b = 0; b < w.blocks; ++b) {
            const uint8_t* block = w.data + t * w.tile_bytes() + b * block_bytes;
            std::memset(parts, 0, sizeof parts);
            Levels256<Format> row[M];
            for (int m = 0; m < M; ++m) row[m] = {x, first + m, b};
            for (int64_t unit = 0; unit < 8; ++unit) {
                int64_t number = 8 * b + unit, quads = active.quads[number];
                if (!quads) continue;
                ahead.use(quads);
                int32_t sums[M];
                for (int m = 0; m < M; ++m) sums[m] = row[m].sums[unit];
                add_unit<Format, M, 0>(block, unit, number, active, x.stride, sums, parts);
                add_unit<Format, M, 1>(block, unit, number, active, x.stride, sums, parts);
            }
            for (int m = 0; m < M; ++m)
                for (int v = 0; v < 8; ++v) f_store(acc[m][v], f_fma(f_load(parts[m][v]), f_set(row[m].scale), f_load(acc[m][v])));
        }
        for (int m = 0; m < M; ++m) std::memcpy(y + (first + m) * y_stride + t * kTileRows, acc[m], sizeof acc[m]);
    }
}

// Half a tile's stretch of blocks, to sets of kTilePanels panels each.
template <class Format, int Half>
void unpack_lines(const uint8_t* block, int64_t block_bytes, int64_t blocks, const Unpacked (&sets)[4 / kTilePanels]) {
    constexpr int64_t P = kTilePanels;
    for (int64_t b = 0; b < blocks; ++b, block += block_bytes)
        for (int64_t unit = 0; unit < 8; ++unit) {
            const uint8_t* lines = Format::lines(block, unit);
            for (int64_t q = 0; q < 8; ++q) {
                U64v w[4];
                auto line = [&](int64_t i) { return Format::template level<Half>(lines + (4 * q + i) * Format::line_bytes); };
                u_quads(line(0), line(1), line(2), line(3), w);
                for (int64_t j = 0; j < 4; ++j) u_store(sets[j / P].levels + ((64 * b + 8 * unit + q) * P + j % P) * 64, w[j]);
            }
            for (int64_t j = 0; j < 4; ++j) {
                int64_t at = ((8 * b + unit) * P + j % P) * 16;
                f_store(sets[j / P].scales + at, Format::scale(block, unit, 4 * Half + j));
                if constexpr (Format::has_minimum) f_store(sets[j / P].minima + at, Format::minimum(block, unit, 4 * Half + j));
            }
        }
}

template <class Format, int Half>
void half_tile(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t tile, float* y, int64_t y_stride, uint8_t* scratch) {
    constexpr int64_t num_sets = 4 / kTilePanels, step = kChunkInputs / 256;
    Unpacked sets[num_sets];
    for (int64_t s = 0; s < num_sets; ++s) sets[s] = lay_out(scratch + s * kScratchBytes / num_sets);
    int64_t block_bytes = line_block_bytes(w.kind);
    for (int64_t b = 0; b < w.blocks; b += step) {
        int64_t count = std::min(step, w.blocks - b);
        const uint8_t* here = w.data + tile * w.tile_bytes() + b * block_bytes;
        unpack_lines<Format, Half>(here, block_bytes, count, sets);
        int64_t rest = w.blocks - b - count, next = std::min(step, rest ? rest : w.blocks) * block_bytes / kTilePanels;
        const uint8_t* behind = here + count * block_bytes - (rest || Half ? 0 : w.tile_bytes());  // the second half lies in the same lines
        for (int64_t s = 0; s < num_sets; ++s)
            all_tiles<Format>(sets[s], 256 * count, x, num_rows, 256 * b, y + tile * kTileRows + 64 * Half + 16 * kTilePanels * s, y_stride,
                              {behind, next, s + 1 < num_sets ? 0 : next});
    }
}

template <class Format>
void neurons_as(const PackedMatrix& w, const QuantizedRows& x, const ActiveLines* active, int64_t num_rows, int64_t begin, int64_t end, float* y,
                int64_t y_stride, uint8_t* scratch) {
    if (!reads_lines(num_rows)) {
        for (int64_t t = begin; t < end; ++t) {
            half_tile<Format, 0>(w, x, num_rows, t, y, y_stride, scratch);
            half_tile<Format, 1>(w, x, num_rows, t, y, y_stride, scratch);
        }
        return;
    }
    for (int64_t m = 0; m < num_rows; m += kBunchRows) {
        const ActiveLines& lines = active[m / kBunchRows];
        switch (num_rows - m) {
            case 1: lines_of_rows<Format, 1>(w, x, lines, m, begin, end, y, y_stride); break;
            case 2: lines_of_rows<Format, 2>(w, x, lines, m, begin, end, y, y_stride); break;
            case 3: lines_of_rows<Format, 3>(w, x, lines, m, begin, end, y, y_stride); break;
            default: lines_of_rows<Format, 4>(w, x, lines, m, begin, end, y, y_stride); break;
        }
    }
}

void matmul_neurons(const PackedMatrix& w, const QuantizedRows& x, const ActiveLines* active, int64_t num_rows, int64_t begin, int64_t end, float* y,
                    int64_t y_stride, uint8_t* scratch) {
    switch (w.kind) {
        case Kind::Q4_0: return neurons_as<Q4_0Lines>(w, x, active, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q8_0: return neurons_as<Q8_0Lines>(w, x, active, num_rows, begin, end, y, y_stride, scratch);
        case Kind::Q4_K: return neurons_as<Q4_KLines>(w, x, active, num_rows, begin, end, y, y_stride, scratch);
        case Kind::IQ4_XS: return neurons_as<IQ4_XSLines>(w, x, active, num_rows, begin, end, y, y_stride, scratch);
        default: return;
    }
}

}  // namespace
}  // namespace understudy
