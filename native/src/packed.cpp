#include "understudy/packed.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace understudy {
namespace {

using Row = const uint8_t*;

constexpr uint32_t kLow = 0x0F0F0F0F, kHigh = 0xF0F0F0F0;

// Four neighbouring bytes at once.
inline uint32_t word(Row at, int64_t index) {
    uint32_t value;
    std::memcpy(&value, at + 4 * index, 4);
    return value;
}
inline uint32_t low_nibbles(uint32_t a, uint32_t b) { return (a & kLow) | (b & kLow) << 4; }
inline uint32_t high_nibbles(uint32_t a, uint32_t b) { return (a >> 4 & kLow) | (b & kHigh); }

// Writes one quad of one row: 4 bytes at row r of vector v.
inline uint8_t* quad(uint8_t* block, int64_t vector, int64_t row) { return block + 64 * vector + 4 * row; }
inline void put_quad(uint8_t* block, int64_t vector, int64_t row, uint32_t value) { std::memcpy(quad(block, vector, row), &value, 4); }

// 32 inputs: bytes 0-15 hold inputs 0-15 below, 16-31 above.
void put_nibble_quads(uint8_t* block, int64_t vector, int64_t row, Row from) {
    for (int64_t j = 0; j < 2; ++j) {
        uint32_t a = word(from, 2 * j), b = word(from, 2 * j + 1);
        put_quad(block, vector + j, row, low_nibbles(a, b));
        put_quad(block, vector + 2 + j, row, high_nibbles(a, b));
    }
}

void put_q4_0(uint8_t* block, int64_t row, Row source, int64_t groups) {
    for (int64_t g = 0; g < groups; ++g) {
        Row from = source + 18 * g;
        std::memcpy(block + 512 + 32 * g + 2 * row, from, 2);
        put_nibble_quads(block, 4 * g, row, from + 2);
    }
}

void put_q8_0(uint8_t* block, int64_t row, Row source, int64_t groups) {
    for (int64_t g = 0; g < groups; ++g) {
        Row from = source + 34 * g;
        std::memcpy(block + 1024 + 32 * g + 2 * row, from, 2);
        for (int64_t i = 0; i < 32; ++i) quad(block, 8 * g + i / 4, row)[i % 4] = static_cast<uint8_t>(from[2 + i] + 128);
    }
}

// Scale and minimum of group g of a Q4_K block.
std::pair<int, int> steps_of(Row block, int64_t g) {
    Row packed = block + 4;
    if (g < 4) return {packed[g] & 63, packed[g + 4] & 63};
    return {(packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4, packed[g + 4] >> 4 | (packed[g] >> 6) << 4};
}
void put_q4_k(uint8_t* block, int64_t row, Row source) {
    std::memcpy(block + 2048 + 2 * row, source, 2);
    std::memcpy(block + 2080 + 2 * row, source + 2, 2);
    uint8_t *a = block + 2112, *b = a + 64, *c = b + 64;
    for (int64_t g = 0; g < 8; ++g) {
        auto [scale, minimum] = steps_of(source, g);
        int64_t at = 16 * (g % 4) + row;
        if (g < 4) {
            a[at] = static_cast<uint8_t>((a[at] & 0xC0) | scale);
            c[at] = static_cast<uint8_t>((c[at] & 0xC0) | minimum);
        } else {
            b[at] = static_cast<uint8_t>((b[at] & 0xC0) | scale);
            a[at] = static_cast<uint8_t>((a[at] & 0x3F) | (minimum & 3) << 6);
            b[at] = static_cast<uint8_t>((b[at] & 0x3F) | (minimum >> 2 & 3) << 6);
            c[at] = static_cast<uint8_t>((c[at] & 0x3F) | (minimum >> 4 & 3) << 6);
        }
    }
    for (int64_t k = 0; k < 4; ++k)  // 32 bytes hold groups 2 k below, 2 k + 1 above
        for (int64_t j = 0; j < 4; ++j) {
            uint32_t a = word(source + 16 + 32 * k, 2 * j), b = word(source + 16 + 32 * k, 2 * j + 1);
            put_quad(block, 8 * k + j, row, low_nibbles(a, b));
            put_quad(block, 8 * k + 4 + j, row, high_nibbles(a, b));
        }
}

// Scale + 32 of group g of an IQ4_XS block.
int iq4_scale_of(Row block, int64_t g) { return (block[4 + g / 2] >> 4 * (g % 2) & 15) | (block[2 + g / 4] >> 2 * (g % 4) & 3) << 4; }
void put_iq4_xs(uint8_t* block, int64_t row, Row source) {
    for (int64_t g = 0; g < 8; ++g) {
        int scale = iq4_scale_of(source, g);
        for (int64_t k = 0; k < 3; ++k) {
            uint8_t& at = block[2048 + 32 * k + 16 * (g % 2) + row];
            if (g / 2 == k) at = static_cast<uint8_t>(at | scale);
            if (g / 2 == 3) at = static_cast<uint8_t>(at | (scale >> 2 * k & 3) << 6);
        }
        put_nibble_quads(block, 4 * g, row, source + 8 + 16 * g);
    }
    std::memcpy(block + 2144 + 2 * row, source, 2);
}

void put_q6_k(uint8_t* block, int64_t row, Row source) {
    for (int64_t half = 0; half < 2; ++half)
        for (int64_t plane = 0; plane < 4; ++plane) {  // 32 inputs each
            Row lows = source + 64 * half + 32 * (plane % 2), highs = source + 128 + 32 * half;
            int64_t vector = 16 * half + 4 * plane;
            for (int64_t j = 0; j < 4; ++j) {
                uint32_t a = word(lows, 2 * j), b = word(lows, 2 * j + 1);
                put_quad(block, vector + j, row, plane < 2 ? low_nibbles(a, b) : high_nibbles(a, b));
            }
            for (int64_t j = 0; j < 2; ++j) {
                uint32_t bits = 0;
                for (int64_t q = 0; q < 4; ++q) bits |= (word(highs, 4 * j + q) >> 2 * plane & 0x03030303) << 2 * q;
                put_quad(block + 2048, vector / 2 + j, row, bits);
            }
        }
    for (int64_t g = 0; g < 16; ++g) block[3072 + 16 * g + row] = source[192 + g];
    std::memcpy(block + 3328 + 2 * row, source + 208, 2);
}

void put_float(uint8_t* panel, int64_t row, Row source, int64_t cols, int64_t size) {
    for (int64_t i = 0; i < cols; ++i) std::memcpy(panel + (16 * i + row) * size, source + i * size, static_cast<size_t>(size));
}

void put_blocks(const PackedMatrix& matrix, uint8_t* panel, int64_t row, Row source) {
    BlockShape shape = block_shape(matrix.kind);
    for (int64_t b = 0; b < matrix.blocks; ++b) {
        uint8_t* block = panel + b * shape.panel_bytes;
        Row from = source + b * shape.source_bytes;
        int64_t groups = matrix.cols - 64 * b < 64 ? 1 : 2;
        if (matrix.kind == Kind::Q4_0) put_q4_0(block, row, from, groups);
        if (matrix.kind == Kind::Q8_0) put_q8_0(block, row, from, groups);
        if (matrix.kind == Kind::Q4_K) put_q4_k(block, row, from);
        if (matrix.kind == Kind::Q6_K) put_q6_k(block, row, from);
        if (matrix.kind == Kind::IQ4_XS) put_iq4_xs(block, row, from);
    }
}

// 256 inputs of a neuron-major tile. Rows r and r + 64 share the bytes of a line; those behind the last are zero.
void put_lines(const PackedMatrix& matrix, uint8_t* block, int64_t b, Row source, int64_t row_bytes, int64_t num_rows) {
    bool is_wide = matrix.kind == Kind::Q8_0, is_k = matrix.kind == Kind::Q4_K, is_iq = matrix.kind == Kind::IQ4_XS;
    int64_t groups = std::min<int64_t>(8, matrix.cols / 32 - 8 * b), group_bytes = is_wide ? 34 : 18;
    for (int64_t r = 0; r < std::min<int64_t>(64, num_rows); ++r) {
        int64_t position = 16 * (r / 4 % 4) + 4 * (r / 16) + r % 4;
        bool has_second = r + 64 < num_rows;
        Row first = source + r * row_bytes + (is_k || is_iq ? block_shape(matrix.kind).source_bytes * b : 8 * group_bytes * b), second = has_second ? first + 64 * row_bytes : first;
        auto both = [&](auto put) {
            put(r, first);
            if (has_second) put(r + 64, second);
        };
        uint8_t keep = has_second ? 0xFF : 0x0F;
        auto put_nibbles = [&](uint8_t* line, Row p, Row q, int64_t step) {  // 2 * `step` lines: nibbles below, then above
            for (int64_t i = 0; i < step; ++i) {
                line[64 * i + position] = static_cast<uint8_t>(((p[i] & 15) | q[i] << 4) & keep);
                line[64 * (step + i) + position] = static_cast<uint8_t>((p[i] >> 4 | (q[i] & 0xF0)) & keep);
            }
        };
        if (is_k) {
            both([&](int64_t row, Row from) {
                std::memcpy(block + 2 * row, from, 2);
                std::memcpy(block + 256 + 2 * row, from + 2, 2);
                for (int64_t g = 0; g < 8; ++g) {
                    auto [scale, minimum] = steps_of(from, g);
                    block[512 + 128 * g + row] = static_cast<uint8_t>(scale);
                    block[1536 + 128 * g + row] = static_cast<uint8_t>(minimum);
                }
            });
            for (int64_t k = 0; k < 4; ++k) put_nibbles(block + 2560 + 4096 * k, first + 16 + 32 * k, second + 16 + 32 * k, 32);
            continue;
        }
        if (is_iq) {
            both([&](int64_t row, Row from) {
                std::memcpy(block + 2 * row, from, 2);
                for (int64_t g = 0; g < 8; ++g) block[256 + 128 * g + row] = static_cast<uint8_t>(iq4_scale_of(from, g) - 32);
            });
            for (int64_t g = 0; g < 8; ++g) put_nibbles(block + 1280 + 2048 * g, first + 8 + 16 * g, second + 8 + 16 * g, 16);
            continue;
        }
        for (int64_t g = 0; g < groups; ++g) {
            uint8_t* group = block + g * (is_wide ? 4352 : 2304);
            Row p = first + group_bytes * g, q = second + group_bytes * g;
            both([&](int64_t row, Row) { std::memcpy(group + 2 * row, row < 64 ? p : q, 2); });
            if (!is_wide) put_nibbles(group + 256, p + 2, q + 2, 16);
            else
                for (int64_t i = 0; i < 32; ++i) {
                    group[256 + 128 * i + position] = p[2 + i];
                    group[256 + 128 * i + 64 + position] = has_second ? q[2 + i] : 0;
                }
        }
    }
}

}  // namespace

BlockShape block_shape(Kind kind) {
    switch (kind) {
        case Kind::F32: return {1, 64, 4};
        case Kind::F16:
        case Kind::BF16: return {1, 32, 2};
        case Kind::Q4_0: return {64, 576, 36};
        case Kind::Q8_0: return {64, 1088, 68};
        case Kind::Q4_K: return {256, 2304, 144};
        case Kind::Q6_K: return {256, 3392, 210};
        case Kind::IQ4_XS: return {256, 2176, 136};
    }
    throw std::invalid_argument("a weight format that the native kernels do not know");
}

PackedMatrix plan_matrix(Kind kind, int64_t rows, int64_t cols, size_t source_bytes, bool is_neuron_major) {
    BlockShape shape = block_shape(kind);
    int64_t unit = kind == Kind::Q4_0 || kind == Kind::Q8_0 ? 32 : shape.inputs;
    if (rows < 1 || cols < 1 || cols % unit) throw std::invalid_argument("a matrix's rows do not fill their blocks");
    if (static_cast<int64_t>(source_bytes) != rows * (cols * shape.source_bytes / shape.inputs))
        throw std::invalid_argument("a matrix has another size than its shape says");
    if (is_neuron_major && !has_lines(kind)) throw std::invalid_argument("this weight format has no neuron-major layout");
    int64_t inputs = is_neuron_major ? 256 : shape.inputs;
    return {kind, rows, cols, (cols + inputs - 1) / inputs, nullptr, is_neuron_major};
}

void pack(const PackedMatrix& matrix, const uint8_t* source, int64_t begin, int64_t end, uint8_t* out) {
    BlockShape shape = block_shape(matrix.kind);
    int64_t row_bytes = matrix.cols * shape.source_bytes / shape.inputs;
    for (int64_t unit = begin; unit < end; ++unit) {
        if (matrix.is_neuron_major) {
            int64_t first = unit * kTileRows;
            for (int64_t b = 0; b < matrix.blocks; ++b)
                put_lines(matrix, out + unit * matrix.tile_bytes() + b * line_block_bytes(matrix.kind), b, source + first * row_bytes, row_bytes,
                          std::min(kTileRows, matrix.rows - first));
            continue;
        }
        uint8_t* panel = out + unit * matrix.panel_bytes();
        for (int64_t r = 0; r < kPanelRows && unit * kPanelRows + r < matrix.rows; ++r) {
            Row row = source + (unit * kPanelRows + r) * row_bytes;
            if (is_float(matrix.kind)) put_float(panel, r, row, matrix.cols, shape.source_bytes);
            else put_blocks(matrix, panel, r, row);
        }
    }
}

}  // namespace understudy
