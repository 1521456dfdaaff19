// Weights as the kernels read them: panels of 16 output rows, interleaved so that one 64-byte vector holds 4 neighbouring
// inputs of each of the 16 rows ("a quad"). Quad i covers inputs 4i .. 4i+3. Everything is 64-byte aligned and streamed
// in the order of use. Sources are GGML's blocks, row by row; the values are exactly the file's.
//
//   Q4_0  64 inputs: 8 vectors, low nibbles = quad 2j, high nibbles = quad 2j+1 | 2 x 16 fp16 scales          576 bytes
//   Q8_0  64 inputs: 16 vectors of (level + 128) | 2 x 16 fp16 scales                                        1088 bytes
//   Q4_K 256 inputs: 32 vectors as Q4_0 | 16 fp16 d, 16 fp16 dmin | 8 x 16 scales and minima of 6 bits        2304 bytes
//        The last 192 bytes are vectors A, B, C: scales of groups 0-3 = A & 63, of groups 4-7 = B & 63, minima of groups
//        0-3 = C & 63, of groups 4-7 = A >> 6 | (B >> 6) << 2 | (C >> 6) << 4; byte 16 g + r is group g of row r.
//   Q6_K 256 inputs: 32 vectors of low nibbles as Q4_0 | 16 vectors of the upper 2 bits, quad 4j+i at bit 2i |
//        16 x 16 int8 scales | 16 fp16 d, padding                                                            3392 bytes
//   F16, BF16, F32: one input: 16 values                                                                   32, 64 bytes
#pragma once
#include <cstddef>
#include <cstdint>

namespace understudy {

enum class Kind : int { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30 };  // GGML's numbers

constexpr int64_t kPanelRows = 16;

// Inputs in one block of a panel, bytes of it, and bytes of one row's stretch of the same inputs in the source.
struct BlockShape {
    int64_t inputs;
    int64_t panel_bytes;
    int64_t source_bytes;
};

// Throws std::invalid_argument for a kind that is not in the table.
BlockShape block_shape(Kind kind);

inline bool is_float(Kind kind) { return kind == Kind::F32 || kind == Kind::F16 || kind == Kind::BF16; }

// One matrix, y = W x, W of shape (rows, cols).
struct PackedMatrix {
    Kind kind = Kind::F32;
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t blocks = 0;        // of a panel, the last one padded with zeros
    const uint8_t* data = nullptr;  // panels() * panel_bytes

    int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
    int64_t panel_bytes() const { return blocks * block_shape(kind).panel_bytes; }
};

// Throws std::invalid_argument where a source of so many bytes is no (rows, cols) matrix in whole blocks.
void check_source(Kind kind, int64_t rows, int64_t cols, size_t bytes);

// Bytes of a packed matrix.
size_t packed_bytes(Kind kind, int64_t rows, int64_t cols);

// Re-lays panels [begin, end) out of a GGML matrix; rows behind the last are zeros.
//   source: rows * cols values in GGML's blocks, cols a multiple of the source's block.
//   out: start of the whole packed matrix.
void pack_panels(Kind kind, int64_t rows, int64_t cols, const uint8_t* source, int64_t begin, int64_t end, uint8_t* out);

}  // namespace understudy
