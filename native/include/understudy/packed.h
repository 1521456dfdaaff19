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
//   IQ4_XS 256 inputs: 32 vectors as Q4_0 | 8 x 16 scales of 6 bits | 16 fp16 d                              2176 bytes
//        The scales are half vectors A, B, C: of groups 0-1 = A & 63, 2-3 = B & 63, 4-5 = C & 63,
//        6-7 = A >> 6 | (B >> 6) << 2 | (C >> 6) << 4; byte 16 (g % 2) + r is group g of row r.
//   F16, BF16, F32: one input: 16 values                                                                   32, 64 bytes
//
// "Neuron-major", for the MLP's second matrix, whose inputs are mostly zero: tiles of 128 output rows, in them stretches of
// 256 inputs, in them one line for each input, so that the lines of zero inputs need not be read. Byte p of 64 is for row
// 16 (p / 4 % 4) + 4 (p / 16) + p % 4: four lines interleaved by bytes, then by pairs, are quads of 16 rows in order.
//   Q4_0  8 times (128 fp16 scales | 32 lines of 64 bytes, low nibbles = rows 0-63, high nibbles = rows 64-127)  18432 bytes
//   Q8_0  8 times (128 fp16 scales | 32 lines of 128 signed bytes, rows 0-63, then 64-127)                       34816 bytes
//   Q4_K  128 fp16 d, 128 fp16 dmin | 8 x 128 scales, 8 x 128 minima, bytes | 256 lines as Q4_0                  18944 bytes
//   IQ4_XS  128 fp16 d | 8 x 128 scales, signed bytes | 256 lines as Q4_0                                        17664 bytes
#pragma once
#include <cstddef>
#include <cstdint>

namespace understudy {

enum class Kind : int { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, IQ4_XS = 23, BF16 = 30 };  // GGML's numbers

constexpr int64_t kPanelRows = 16;
constexpr int64_t kTileRows = 128;

// Inputs in one block of a panel, bytes of it, and bytes of one row's stretch of the same inputs in the source.
struct BlockShape {
    int64_t inputs;
    int64_t panel_bytes;
    int64_t source_bytes;
};

// Throws std::invalid_argument for a kind that is not in the table.
BlockShape block_shape(Kind kind);

inline bool is_float(Kind kind) { return kind == Kind::F32 || kind == Kind::F16 || kind == Kind::BF16; }

// Whether a format has a neuron-major layout.
inline bool has_lines(Kind kind) { return kind == Kind::Q4_0 || kind == Kind::Q8_0 || kind == Kind::Q4_K || kind == Kind::IQ4_XS; }
// Bytes of 256 inputs of a neuron-major tile.
constexpr int64_t line_block_bytes(Kind kind) {
    return kind == Kind::Q4_K ? 18944 : kind == Kind::IQ4_XS ? 17664 : kind == Kind::Q8_0 ? 34816 : 18432;
}

// One matrix, y = W x, W of shape (rows, cols), in panels or neuron-major.
struct PackedMatrix {
    Kind kind = Kind::F32;
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t blocks = 0;        // of a panel or tile, the last one padded with zeros
    const uint8_t* data = nullptr;
    bool is_neuron_major = false;

    int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
    int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
    int64_t panel_bytes() const { return blocks * block_shape(kind).panel_bytes; }
    int64_t tile_bytes() const { return blocks * line_block_bytes(kind); }
    size_t bytes() const { return static_cast<size_t>(is_neuron_major ? tiles() * tile_bytes() : panels() * panel_bytes()); }
};

// A matrix without its data. Throws std::invalid_argument where a source of so many bytes is no (rows, cols) matrix in
// whole blocks, or the kind has no neuron-major layout.
PackedMatrix plan_matrix(Kind kind, int64_t rows, int64_t cols, size_t source_bytes, bool is_neuron_major);

// Re-lays panels or tiles [begin, end) out of a GGML matrix; rows behind the last are zeros.
//   source: rows * cols values in GGML's blocks, cols a multiple of the source's block.
//   out: start of the whole packed matrix, all zeros.
void pack(const PackedMatrix& matrix, const uint8_t* source, int64_t begin, int64_t end, uint8_t* out);

}  // namespace understudy
