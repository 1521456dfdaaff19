// The forward pass of Nemotron over a batch of sequences, in one call: all threads walk the layers together.
#pragma once
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "understudy/buffer.h"
#include "understudy/kernels.h"
#include "understudy/thread_team.h"

namespace understudy {

struct ModelShape {
    int64_t num_layers, hidden, mlp, vocab, num_heads, num_kv_heads, head_dim, rotary_dim;
    float rope_theta, norm_eps;
};

// Keys and values of all sequences, in blocks of kBlockTokens tokens that the caller hands out; a block holds those of every
// layer, side by side, so that a sequence takes little more than its bytes. Memory is reserved at once and taken as blocks
// are first written.
class KvPool {
public:
    KvPool(const ModelShape& shape, int64_t num_blocks, bool is_8bit);

    uint8_t* layer(int64_t index) const { return memory_.data() + static_cast<size_t>(index * block_bytes_); }
    int64_t num_blocks() const { return num_blocks_; }
    int64_t block_bytes() const { return block_bytes_; }  // of one layer
    int64_t block_stride() const { return num_layers_ * block_bytes_; }  // from a layer's block to its next
    int64_t head_bytes() const { return head_bytes_; }
    int64_t num_layers() const { return num_layers_; }
    bool is_8bit() const { return is_8bit_; }
    uint8_t* block(int64_t index) const { return memory_.data() + index * block_stride(); }  // of every layer, side by side
    // Copies a block of every layer, for a sequence that goes its own way in the middle of it.
    void copy_block(int64_t from, int64_t to);

private:
    int64_t num_layers_, num_blocks_, head_bytes_, block_bytes_;
    bool is_8bit_;
    Buffer memory_;
};

// One sequence's part of a step.
struct Stretch {
    int64_t past;            // tokens cached before
    int64_t num_tokens;      // new ones
    int64_t num_logits;      // wanted for the last so many
    const int32_t* table;    // blocks for all past + num_tokens tokens
};

enum class Slot : int { Q, K, V, O, Up, Down };
constexpr int kNumSlots = 6;

class Model {
public:
    // kernels: a name of `available_kernels`, or "" for the best. Throws std::invalid_argument.
    Model(const ModelShape& shape, int num_threads, const std::string& kernels);
    // Another with the same weights, which both hold, and its own threads and adapter. Throws where they are not complete.
    Model(const Model& base, int num_threads);

    // Weights are copied and re-laid by all threads; `source` is GGML's blocks. Throws where the shape does not fit.
    void set_matrix(int64_t layer, Slot slot, Kind kind, int64_t rows, int64_t cols, std::span<const uint8_t> source);
    void set_head(Kind kind, int64_t rows, int64_t cols, std::span<const uint8_t> source);
    // which: 0 before attention, 1 before the MLP; layer == num_layers: the last norm. The gain has its 1 added.
    void set_norm(int64_t layer, int which, std::span<const float> gain, std::span<const float> bias);

    // LoRA beside a matrix, y = W x + B (A x): A (rank, cols) and B (rows, rank), scaled; layer == num_layers: the head's.
    // Before the first pass. Throws where the shape does not fit.
    void set_adapter(int64_t layer, Slot slot, int64_t rank, std::span<const float> a, std::span<const float> b);

    // Whether every matrix and norm was set.
    bool is_complete() const;

    // What comes out of a step: logits, or what the head would read, the last norm's output.
    enum class Output { kLogits, kHidden };
    // x: (M, hidden) embeddings of all stretches' tokens, overwritten. out: (sum of num_logits, vocab or hidden).
    // The caller has checked lengths, tables, the pool's shape and `is_complete`. One call at a time: others wait.
    void forward(KvPool& pool, std::span<const Stretch> stretches, float* x, float* out, Output kind = Output::kLogits);

    // Whether one to 19 rows leave out the lines of zero neurons; results are the same either way.
    void set_skip_zeros(bool skips) { skips_zeros_ = skips; }
    // Squared ReLUs counted since the last call with true: for each layer how many, how many of them zero.
    struct Census { int64_t total, zeros; };
    void set_census(bool counts);
    std::vector<Census> census() const { return census_; }

    // Of weights that are its own: an adapter's alone, where it has another's.
    size_t weight_bytes() const;
    const char* kernels() const { return kernels_->name; }
    const ModelShape& shape() const { return shape_; }
    int num_threads() const { return team_.size(); }

private:
    struct Matrix {
        PackedMatrix packed;
        Buffer memory;
    };
    struct Norm {
        std::vector<float> gain, bias;
    };
    struct Layer {
        std::array<Matrix, kNumSlots> matrices;
        std::array<Norm, 2> norms;
    };
    struct Weights {
        std::vector<Layer> layers;
        Norm last_norm;
        Matrix head;
    };
    struct Adapter {
        Matrix a, b;
    };
    // Activations of a step that enter matrices: floats, and levels where a matrix wants them.
    struct Input {
        int64_t size = 0;
        float* floats = nullptr;
        QuantizedRows quantized;
        bool wants_levels = false, is_unsigned = false;
    };
    struct Token {
        int64_t stretch, position;
    };
    struct Task { int64_t stretch, kv_head, first, count, to; };  // attention of some tokens, and the row of its result

    std::pair<int64_t, int64_t> shape_of(Slot slot) const;
    const Adapter* adapter(int64_t layer, Slot slot) const;
    template <class Done>
    void adapt(const Adapter& adapter, const float* x, int64_t x_stride, int64_t num_rows, int member, Done done);
    void fill(Matrix& to, Kind kind, int64_t rows, int64_t cols, std::span<const uint8_t> source, bool is_neuron_major);
    void prepare(std::span<const Stretch> stretches, Output kind);
    Input input_for(std::initializer_list<const Matrix*> matrices, float* floats, int64_t size, int64_t num_rows, Buffer& memory);
    std::pair<int64_t, int64_t> share(int64_t count, int member) const;
    void quantize(const Input& input, int64_t num_rows, int member);
    template <class Done>
    void multiply(const Matrix& matrix, const Input& input, int64_t num_rows, int member, float* y, int64_t stride, std::atomic<int64_t>& next, Done done);
    std::atomic<int64_t>& next_part(Slot slot) { return next_parts_[static_cast<size_t>(slot)]; }
    void walk(int member, KvPool& pool, std::span<const Stretch> stretches, float* x, float* out, Output kind);
    void add_tasks(std::span<const Stretch> stretches, bool only_wanted, std::vector<Task>& to) const;
    bool leaves_rows() const { return !counts_ && logit_rows_.size() < tokens_.size(); }  // in the last layer
    int64_t attention_floats(int64_t group) const;
    void attention(int member, KvPool& pool, std::span<const Stretch> stretches, int64_t layer, const std::vector<Task>& tasks);
    void keep_wanted(float* x) const;
    void rotate_and_store(int member, KvPool& pool, std::span<const Stretch> stretches, int64_t layer);
    void count(Census& census, const float* activations, int64_t from, int64_t to, int64_t stride);
    void norm_rows(const Norm& norm, const float* x, int64_t num_rows, int member, float* y);

    ModelShape shape_;
    const Kernels* kernels_;
    ThreadTeam team_;
    std::mutex mutex_;
    std::shared_ptr<Weights> weights_;
    bool is_sharing_ = false;
    std::vector<Adapter> adapters_;  // kNumSlots a layer, and the head's; empty where there are none
    std::vector<float> frequencies_;

    // Of the step under way.
    std::vector<Token> tokens_;
    std::vector<float> angles_;  // (M, rotary_dim): cosines, sines
    std::vector<int64_t> logit_rows_;
    std::vector<Task> tasks_, last_tasks_;  // of the last layer, where few tokens go on
    std::atomic<int64_t> next_task_{0};
    std::array<std::atomic<int64_t>, kNumSlots + 1> next_parts_{};  // of each matrix of a layer, and the head
    std::vector<ActiveLines> active_;
    bool skips_zeros_ = true, counts_ = false;
    std::vector<Census> census_;
    Buffer normed_, qkv_, mixed_, hidden_, output_, levels_, lines_, scores_, scratch_, picked_, low_, added_;
    int64_t qkv_stride_ = 0, scores_stride_ = 0, task_tokens_ = 1;
};

}  // namespace understudy
