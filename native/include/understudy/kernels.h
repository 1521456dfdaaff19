// The kernels of one instruction set. Every function has twins that are chosen at run time (`best_kernels`).
// Letters: M tokens, D values of a row. No kernel allocates, throws or checks: the callers in model.cpp do.
#pragma once
#include <cstdint>
#include <string>

#include "understudy/packed.h"

namespace understudy {

// Activations as 8-bit levels in groups of 256, padded with zeros: scale = max|x| / 127 (fp32), error <= scale / 2.
// Squared ReLUs are never negative, and their range is wide: as unsigned levels, scale = max / 255.
constexpr int64_t kSumsIn256 = 24;
struct QuantizedRows {
    int64_t stride = 0;        // levels of a row, a multiple of 256
    int8_t* levels = nullptr;  // (M, stride)
    float* scales = nullptr;   // (M, stride / 256)
    int32_t* sums = nullptr;   // negated sums of each 256 levels, first 16 by 16, then 8 by 32: (M, stride / 256, 24)
};

// Which inputs of up to kBunchRows rows are not zero in all of them, for each 32 inputs ("unit").
constexpr int64_t kBunchRows = 4;
struct ActiveLines {
    uint8_t* quads = nullptr;   // (units): how many fours of lines are read
    uint8_t* order = nullptr;   // (units, 32): which lines; the last four filled up with line 0
    uint8_t* levels = nullptr;  // (kBunchRows, units * 32): the rows' levels in that order, filled up with zeros
};
inline int64_t active_bytes(int64_t stride) { return stride / 32 + stride + kBunchRows * stride; }

// Tokens in a block of the KV cache. In a block each KV head has, one after the other:
//   8 bits: levels + 128; keys as quads of a token's values [H / 4][32][4], values as quads of neighbouring tokens [32 / 4][H][4],
//          scales of the keys fp32 [32], of the values fp32 [32]
//  16 bits: keys as fp16 [H][32], values as fp16 [32][H]
constexpr int64_t kBlockTokens = 32;
inline int64_t head_block_bytes(int64_t head_dim, bool is_8bit) {
    return is_8bit ? 2 * kBlockTokens * head_dim + 8 * kBlockTokens : 4 * kBlockTokens * head_dim;
}

// Memory for the panel that the batched kernel unpacks, one a thread.
constexpr int64_t kChunkInputs = 3072;
constexpr int64_t kScratchBytes = kChunkInputs * (64 + 2 * 16);

constexpr int64_t kPlaneRows = 6;  // query rows that share what is read

struct AttentionTask {
    const float* q;
    int64_t num_rows, group, head_dim, first_seen;
    const uint8_t* pool;     // of one layer
    const int32_t* table;    // block of the sequence's tokens 32 i .. 32 i + 31
    int64_t block_bytes;     // from one block to the next
    int64_t head_offset;     // of this KV head inside a block
    float* scores;
    int64_t scores_stride;
    int8_t* planes;          // scratch of kPlaneRows * 2 * head_dim bytes
    float* out;
    int64_t out_stride;      // from one token's output to the next; the `group` heads of a token lie side by side
};

struct Kernels {
    const char* name;

    // x (D) to levels, scales and sums of one row; `stride` >= D.
    void (*quantize)(const float* x, int64_t size, int64_t stride, int8_t* levels, float* scales, int32_t* sums);
    // The same for x >= 0, to unsigned levels.
    void (*quantize_unsigned)(const float* x, int64_t size, int64_t stride, int8_t* levels, float* scales, int32_t* sums);

    // y[m, 16 p + r] = row (16 p + r) of W times x[m], for panels [begin, end). y has room for whole panels: its stride
    // is >= 16 * W.panels(). Every y is the same bit for bit whatever M is: a fixed order of exact integer sums and
    // fp32 multiply-adds.
    void (*matmul)(const PackedMatrix& w, const QuantizedRows& x, int64_t num_rows, int64_t begin, int64_t end, float* y,
                   int64_t y_stride, uint8_t* scratch);
    // The same for a neuron-major W, tiles [begin, end) and unsigned levels; y has room for whole tiles.
    //   active: one for each kBunchRows rows, made by `find_active`; only where `reads_lines(num_rows)`.
    void (*matmul_neurons)(const PackedMatrix& w, const QuantizedRows& x, const ActiveLines* active, int64_t num_rows, int64_t begin,
                           int64_t end, float* y, int64_t y_stride, uint8_t* scratch);
    void (*matmul_float)(const PackedMatrix& w, const float* x, int64_t x_stride, int64_t num_rows, int64_t begin,
                         int64_t end, float* y, int64_t y_stride);

    // (x - mean) / sqrt(variance + eps) * gain + bias; gain has its 1 added.
    void (*layer_norm)(const float* x, const float* gain, const float* bias, float eps, int64_t size, float* y);
    void (*add)(const float* x, int64_t size, float* y);     // y += x
    void (*relu2)(float* x, int64_t size);                   // x = max(x, 0)^2

    // Attention of `num_rows` query rows over one KV head; rows are tokens times `group` query heads, and row i sees
    // the first `first_seen + i / group` cached tokens. Exact softmax in two passes; a row's result does not depend on
    // the other rows.
    //   q: (rows, H), scaled by H^-0.5. pool, table: the cache's blocks, as above. out: (rows, H).
    //   scores: (rows, scores_stride) scratch, scores_stride >= tokens seen, a multiple of kBlockTokens.
    void (*attend_8bit)(const AttentionTask& task);
    void (*attend_16bit)(const AttentionTask& task);
    // One token's keys and values of one head into its block, H values each.
    void (*store_8bit)(const float* key, const float* value, int64_t head_dim, int64_t token, uint8_t* block);
    void (*store_16bit)(const float* key, const float* value, int64_t head_dim, int64_t token, uint8_t* block);
    // The peak of this instruction set, for `measure_limits`: so many 8-bit operations were done in so many rounds.
    int64_t (*multiply_idly)(int64_t rounds, int32_t* sink);
    // `count` values x to blocks of a format (GGML's number, one of Q4_0 Q8_0 Q4_K Q6_K IQ4_XS), found by a search for the
    // least sum of w (x - decoded)^2; see encode_impl.h. Same bytes from every twin.
    //   count: a multiple of the format's block. w: >= 0, above 0 in every block. out: the blocks.
    void (*encode)(int kind, const float* x, const float* w, int64_t count, uint8_t* out);
    // The highest of size >= 0 logits, -inf of none; NaN where one is NaN or +inf.
    float (*highest)(const float* x, int64_t size);
    double (*highest_of_doubles)(const double* x, int64_t size);
    // e^((x - highest) / temperature), x <= highest. Same bits from every twin.
    void (*weights)(const float* x, int64_t size, double highest, double temperature, double* out);
    void (*weights_of_doubles)(const double* x, int64_t size, double highest, double temperature, double* out);
};

// Whether so many rows are multiplied line by line, zeros left out, rather than unpacked.
constexpr int64_t kManyRows = 20;  // from here on unpacking pays (measured)
inline bool reads_lines(int64_t num_rows) { return num_rows < kManyRows; }

// Fills `to` for units [begin, end) of rows [first, first + count) of x; all lines where `skips_zeros` is false.
void find_active(const QuantizedRows& x, int64_t first, int64_t count, bool skips_zeros, int64_t begin, int64_t end, const ActiveLines& to);

const Kernels& scalar_kernels();
#if defined(__x86_64__) || defined(_M_X64)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

// The kernels that this CPU can run, best first; the last are the scalar ones. Returns how many.
int available_kernels(const Kernels** out, int capacity);

// By name, "" for the best. Throws std::invalid_argument where this CPU has none of that name.
const Kernels& find_kernels(const std::string& name);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);

}  // namespace understudy
