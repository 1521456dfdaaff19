#include "understudy/packed.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace understudy {
namespace {

using Row = const uint8_t*;

// Writes one quad of one row: 4 bytes at row r of vector v.
inline uint8_t* quad(uint8_t* block, int64_t vector, int64_t row) { return block + 64 * vector + 4 * row; }

// 64 values of 4 bits, of which `value(i)` is the i-th, as 8 vectors of nibbles.
template <class Value>
void put_nibbles(uint8_t* block, int64_t row, int64_t inputs, Value value) {
    for (int64_t j = 0; j < inputs / 8; ++j)
        for (int64_t i = 0; i < 4; ++i)
            quad(block, j, row)[i] = static_cast<uint8_t>(value(8 * j + i) | value(8 * j + 4 + i) << 4);
}

void put_q4_0(uint8_t* block, int64_t row, Row source, int64_t groups) {
    for (int64_t g = 0; g < groups; ++g) {
        Row from = source + 18 * g;
        std::memcpy(block + 512 + 32 * g + 2 * row, from, 2);
        put_nibbles(block + 256 * g, row, 32, [&](int64_t i) { return i < 16 ? from[2 + i] & 15 : from[2 + i - 16] >> 4; });
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
int q4_k_level(Row block, int64_t i) {
    uint8_t byte = block[16 + i / 64 * 32 + i % 32];
    return i / 32 % 2 ? byte >> 4 : byte & 15;
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
    put_nibbles(block, row, 256, [&](int64_t i) { return q4_k_level(source, i); });
}

void put_q6_k(uint8_t* block, int64_t row, Row source) {
    auto level = [&](int64_t i) {
        int64_t half = i / 128, within = i % 128, plane = within / 32, lane = within % 32;
        uint8_t low = source[64 * half + 32 * (plane % 2) + lane];
        uint8_t high = source[128 + 32 * half + lane];
        return (plane < 2 ? low & 15 : low >> 4) | (high >> 2 * plane & 3) << 4;
    };
    put_nibbles(block, row, 256, [&](int64_t i) { return level(i) & 15; });
    for (int64_t i = 0; i < 256; ++i) {
        uint8_t* at = quad(block + 2048, i / 16, row) + i % 4;
        int shift = static_cast<int>(i / 4 % 4) * 2;
        *at = static_cast<uint8_t>((*at & ~(3 << shift)) | (level(i) >> 4) << shift);
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
    }
}

// One row of a neuron-major tile: a byte or nibble of every line.
void put_lines(const PackedMatrix& matrix, uint8_t* tile, int64_t row, Row source) {
    int64_t in_half = row % 64, position = 16 * (in_half / 4 % 4) + 4 * (in_half / 16) + in_half % 4;
    int shift = row < 64 ? 0 : 4;
    auto put_nibble = [&](uint8_t* line, int value) { line[position] = static_cast<uint8_t>(line[position] | value << shift); };
    for (int64_t b = 0; b < matrix.blocks; ++b) {
        uint8_t* block = tile + b * line_block_bytes(matrix.kind);
        if (matrix.kind == Kind::Q4_K) {
            Row from = source + 144 * b;
            std::memcpy(block + 2 * row, from, 2);
            std::memcpy(block + 256 + 2 * row, from + 2, 2);
            for (int64_t g = 0; g < 8; ++g) {
                auto [scale, minimum] = steps_of(from, g);
                block[512 + 128 * g + row] = static_cast<uint8_t>(scale);
                block[1536 + 128 * g + row] = static_cast<uint8_t>(minimum);
            }
            for (int64_t i = 0; i < 256; ++i) put_nibble(block + 2560 + 64 * i, q4_k_level(from, i));
            continue;
        }
        bool is_wide = matrix.kind == Kind::Q8_0;
        for (int64_t g = 8 * b; g < std::min(8 * b + 8, matrix.cols / 32); ++g) {
            Row from = source + (is_wide ? 34 : 18) * g;
            uint8_t* group = block + (g - 8 * b) * (is_wide ? 4352 : 2304);
            std::memcpy(group + 2 * row, from, 2);
            for (int64_t i = 0; i < 32; ++i) {
                uint8_t* line = group + 256 + (is_wide ? 128 : 64) * i;
                if (is_wide) line[(row < 64 ? 0 : 64) + position] = from[2 + i];
                else put_nibble(line, i < 16 ? from[2 + i] & 15 : from[2 + i - 16] >> 4);
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
    int64_t unit_bytes = matrix.is_neuron_major ? matrix.tile_bytes() : matrix.panel_bytes();
    int64_t unit_rows = matrix.is_neuron_major ? kTileRows : kPanelRows;
    for (int64_t unit = begin; unit < end; ++unit) {
        uint8_t* to = out + unit * unit_bytes;
        std::memset(to, 0, static_cast<size_t>(unit_bytes));
        for (int64_t r = 0; r < unit_rows && unit * unit_rows + r < matrix.rows; ++r) {
            Row row = source + (unit * unit_rows + r) * row_bytes;
            if (matrix.is_neuron_major) put_lines(matrix, to, r, row);
            else if (is_float(matrix.kind)) put_float(to, r, row, matrix.cols, shape.source_bytes);
            else put_blocks(matrix, to, r, row);
        }
    }
}

}  // namespace understudy
