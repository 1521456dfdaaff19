#include "understudy/packed.h"

#include <cstring>
#include <stdexcept>

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

void put_q4_k(uint8_t* block, int64_t row, Row source) {
    std::memcpy(block + 2048 + 2 * row, source, 2);
    std::memcpy(block + 2080 + 2 * row, source + 2, 2);
    Row packed = source + 4, nibbles = source + 16;
    uint8_t *a = block + 2112, *b = a + 64, *c = b + 64;
    for (int64_t g = 0; g < 8; ++g) {
        int scale = g < 4 ? packed[g] & 63 : (packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4;
        int minimum = g < 4 ? packed[g + 4] & 63 : packed[g + 4] >> 4 | (packed[g] >> 6) << 4;
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
    put_nibbles(block, row, 256, [&](int64_t i) {
        uint8_t byte = nibbles[i / 64 * 32 + i % 32];
        return i / 32 % 2 ? byte >> 4 : byte & 15;
    });
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

void check_source(Kind kind, int64_t rows, int64_t cols, size_t bytes) {
    BlockShape shape = block_shape(kind);
    int64_t unit = kind == Kind::Q4_0 || kind == Kind::Q8_0 ? 32 : shape.inputs;
    if (rows < 1 || cols < 1 || cols % unit) throw std::invalid_argument("a matrix's rows do not fill their blocks");
    if (static_cast<int64_t>(bytes) != rows * (cols * shape.source_bytes / shape.inputs))
        throw std::invalid_argument("a matrix has another size than its shape says");
}

size_t packed_bytes(Kind kind, int64_t rows, int64_t cols) {
    BlockShape shape = block_shape(kind);
    int64_t blocks = (cols + shape.inputs - 1) / shape.inputs;
    return static_cast<size_t>((rows + kPanelRows - 1) / kPanelRows * blocks * shape.panel_bytes);
}

void pack_panels(Kind kind, int64_t rows, int64_t cols, const uint8_t* source, int64_t begin, int64_t end, uint8_t* out) {
    BlockShape shape = block_shape(kind);
    int64_t blocks = (cols + shape.inputs - 1) / shape.inputs;
    int64_t row_bytes = cols * shape.source_bytes / shape.inputs;
    for (int64_t p = begin; p < end; ++p) {
        uint8_t* panel = out + p * blocks * shape.panel_bytes;
        std::memset(panel, 0, static_cast<size_t>(blocks * shape.panel_bytes));
        for (int64_t r = 0; r < kPanelRows && p * kPanelRows + r < rows; ++r) {
            Row row = source + (p * kPanelRows + r) * row_bytes;
            if (is_float(kind)) {
                put_float(panel, r, row, cols, shape.source_bytes);
                continue;
            }
            for (int64_t b = 0; b < blocks; ++b) {
                uint8_t* block = panel + b * shape.panel_bytes;
                Row from = row + b * shape.source_bytes;
                int64_t groups = cols - 64 * b < 64 ? 1 : 2;
                if (kind == Kind::Q4_0) put_q4_0(block, r, from, groups);
                if (kind == Kind::Q8_0) put_q8_0(block, r, from, groups);
                if (kind == Kind::Q4_K) put_q4_k(block, r, from);
                if (kind == Kind::Q6_K) put_q6_k(block, r, from);
            }
        }
    }
}

}  // namespace understudy
