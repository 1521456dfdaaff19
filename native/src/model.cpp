#include "understudy/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace understudy {
namespace {

int64_t up_to(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

KvPool::KvPool(const ModelShape& shape, int64_t num_blocks, bool is_8bit)
    : num_layers_(shape.num_layers),
      num_blocks_(num_blocks),
      head_bytes_(head_block_bytes(shape.head_dim, is_8bit)),
      block_bytes_(shape.num_kv_heads * head_bytes_),
      is_8bit_(is_8bit),
      memory_(static_cast<size_t>(num_layers_ * num_blocks_ * block_bytes_)) {}

void KvPool::copy_block(int64_t from, int64_t to) {
    std::memcpy(block(to), block(from), static_cast<size_t>(block_stride()));
}

Model::Model(const ModelShape& shape, int num_threads, const std::string& kernels)
    : shape_(shape), kernels_(&find_kernels(kernels)), team_(num_threads), weights_(std::make_shared<Weights>()) {
    weights_->layers.resize(static_cast<size_t>(shape.num_layers));
    if (shape.head_dim % 16 || shape.head_dim < 16) throw std::invalid_argument("head_dim must be a multiple of 16");
    if (shape.num_heads % shape.num_kv_heads) throw std::invalid_argument("num_heads must be a multiple of num_kv_heads");
    for (int64_t i = 0; i < shape.rotary_dim / 2; ++i)
        frequencies_.push_back(1.0f / std::pow(shape.rope_theta, static_cast<float>(2 * i) / static_cast<float>(shape.rotary_dim)));
    qkv_stride_ = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
}

Model::Model(const Model& base, int num_threads) : Model(base.shape_, num_threads, base.kernels_->name) {
    if (!base.is_complete()) throw std::invalid_argument("a matrix or norm of the model was not set");
    weights_ = base.weights_;
    is_sharing_ = true;
    skips_zeros_ = base.skips_zeros_;
}

void Model::fill(Matrix& to, Kind kind, int64_t rows, int64_t cols, std::span<const uint8_t> source, bool is_neuron_major) {
    to.packed = plan_matrix(kind, rows, cols, source.size(), is_neuron_major);
    to.memory = Buffer(to.packed.bytes());
    int64_t units = is_neuron_major ? to.packed.tiles() : to.packed.panels();
    team_.run([&](int member) {
        auto [begin, end] = share(units, member);
        pack(to.packed, source.data(), begin, end, to.memory.data());
    });
    to.packed.data = to.memory.data();
}

std::pair<int64_t, int64_t> Model::shape_of(Slot slot) const {
    int64_t heads = shape_.num_heads * shape_.head_dim, kv = shape_.num_kv_heads * shape_.head_dim;
    const std::array<std::pair<int64_t, int64_t>, kNumSlots> shapes = {{{heads, shape_.hidden}, {kv, shape_.hidden}, {kv, shape_.hidden},
                                                                       {shape_.hidden, heads}, {shape_.mlp, shape_.hidden}, {shape_.hidden, shape_.mlp}}};
    return shapes.at(static_cast<size_t>(slot));
}

void Model::set_matrix(int64_t layer, Slot slot, Kind kind, int64_t rows, int64_t cols, std::span<const uint8_t> source) {
    if (layer < 0 || layer >= shape_.num_layers || shape_of(slot) != std::pair(rows, cols) || is_sharing_)
        throw std::invalid_argument("a matrix does not fit the model's shape");
    fill(weights_->layers[static_cast<size_t>(layer)].matrices[static_cast<size_t>(slot)], kind, rows, cols, source, slot == Slot::Down && has_lines(kind));
}

void Model::set_head(Kind kind, int64_t rows, int64_t cols, std::span<const uint8_t> source) {
    if (rows != shape_.vocab || cols != shape_.hidden || is_sharing_) throw std::invalid_argument("the head does not fit the model's shape");
    fill(weights_->head, kind, rows, cols, source, false);
}

void Model::set_norm(int64_t layer, int which, std::span<const float> gain, std::span<const float> bias) {
    auto size = static_cast<size_t>(shape_.hidden);
    if (layer < 0 || layer > shape_.num_layers || which < 0 || which > 1 || is_sharing_ || gain.size() != size || bias.size() != size)
        throw std::invalid_argument("a norm does not fit the model's shape");
    Norm& to = layer == shape_.num_layers ? weights_->last_norm : weights_->layers[static_cast<size_t>(layer)].norms[static_cast<size_t>(which)];
    to.gain.assign(gain.begin(), gain.end());
    to.bias.assign(bias.begin(), bias.end());
}

void Model::set_adapter(int64_t layer, Slot slot, int64_t rank, std::span<const float> a, std::span<const float> b) {
    bool is_head = layer == shape_.num_layers;
    auto [rows, cols] = is_head ? std::pair(shape_.vocab, shape_.hidden) : shape_of(slot);
    if (layer < 0 || layer > shape_.num_layers || rank < 1 || std::ssize(a) != rank * cols || std::ssize(b) != rows * rank)
        throw std::invalid_argument("an adapter does not fit the model's shape");
    adapters_.resize(static_cast<size_t>(shape_.num_layers * kNumSlots + 1));
    Adapter& to = adapters_[static_cast<size_t>(layer * kNumSlots + (is_head ? 0 : static_cast<int64_t>(slot)))];
    auto bytes = [](std::span<const float> x) { return std::span(reinterpret_cast<const uint8_t*>(x.data()), x.size_bytes()); };
    fill(to.a, Kind::F32, rank, cols, bytes(a), false);
    fill(to.b, Kind::F32, rows, rank, bytes(b), false);
}

const Model::Adapter* Model::adapter(int64_t layer, Slot slot) const {
    if (adapters_.empty()) return nullptr;
    const Adapter& found = adapters_[static_cast<size_t>(layer * kNumSlots + static_cast<int64_t>(slot))];
    return found.a.packed.data ? &found : nullptr;
}

bool Model::is_complete() const {
    bool complete = weights_->head.packed.data && !weights_->last_norm.gain.empty();
    for (const Layer& layer : weights_->layers) {
        for (const Matrix& matrix : layer.matrices) complete = complete && matrix.packed.data;
        for (const Norm& norm : layer.norms) complete = complete && !norm.gain.empty();
    }
    return complete;
}

size_t Model::weight_bytes() const {
    size_t total = 0;
    for (const Adapter& adapter : adapters_) total += adapter.a.memory.bytes() + adapter.b.memory.bytes();
    if (is_sharing_) return total;
    total += weights_->head.memory.bytes();
    for (const Layer& layer : weights_->layers)
        for (const Matrix& matrix : layer.matrices) total += matrix.memory.bytes();
    return total;
}

std::pair<int64_t, int64_t> Model::share(int64_t count, int member) const {
    int64_t size = team_.active();
    return {count * member / size, count * (member + 1) / size};
}

// Attention in tasks of a few neighbouring tokens: of all, or only of those whose logits are wanted.
void Model::add_tasks(std::span<const Stretch> stretches, bool only_wanted, std::vector<Task>& to) const {
    to.clear();
    int64_t first = 0, row = 0;
    for (size_t s = 0; s < stretches.size(); ++s) {
        int64_t count = only_wanted ? stretches[s].num_logits : stretches[s].num_tokens;
        first += stretches[s].num_tokens - count;
        for (int64_t t = 0; t < count; t += task_tokens_)
            for (int64_t k = 0; k < shape_.num_kv_heads; ++k)
                to.push_back({static_cast<int64_t>(s), k, first + t, std::min(task_tokens_, count - t), row + t});
        first += count;
        row += count;
    }
    // The longest first, so that no thread is left with one at the end.
    std::stable_sort(to.begin(), to.end(), [&](const Task& a, const Task& b) {
        return tokens_[static_cast<size_t>(a.first)].position * a.count > tokens_[static_cast<size_t>(b.first)].position * b.count;
    });
}

// What the step needs, worked out by the caller's thread alone.
void Model::prepare(std::span<const Stretch> stretches, Output kind) {
    tokens_.clear();
    logit_rows_.clear();
    int64_t longest = 0;
    for (size_t s = 0; s < stretches.size(); ++s) {
        const Stretch& stretch = stretches[s];
        for (int64_t t = 0; t < stretch.num_tokens; ++t) {
            if (t >= stretch.num_tokens - stretch.num_logits) logit_rows_.push_back(static_cast<int64_t>(tokens_.size()));
            tokens_.push_back({static_cast<int64_t>(s), stretch.past + t});
        }
        longest = std::max(longest, stretch.past + stretch.num_tokens);
    }
    auto num_tokens = static_cast<int64_t>(tokens_.size());
    int64_t half = shape_.rotary_dim / 2;
    angles_.resize(static_cast<size_t>(num_tokens * shape_.rotary_dim));
    for (int64_t m = 0; m < num_tokens; ++m)
        for (int64_t i = 0; i < half; ++i) {
            float angle = static_cast<float>(tokens_[static_cast<size_t>(m)].position) * frequencies_[static_cast<size_t>(i)];
            angles_[static_cast<size_t>(m * 2 * half + i)] = std::cos(angle);
            angles_[static_cast<size_t>(m * 2 * half + half + i)] = std::sin(angle);
        }
    task_tokens_ = 4;
    add_tasks(stretches, false, tasks_);
    last_tasks_.clear();
    if (leaves_rows()) add_tasks(stretches, true, last_tasks_);
    int64_t group = shape_.num_heads / shape_.num_kv_heads;
    scores_stride_ = up_to(longest, kBlockTokens);
    auto rows = static_cast<size_t>(num_tokens), floats = sizeof(float);
    normed_.reserve(rows * static_cast<size_t>(shape_.hidden) * floats);
    qkv_.reserve(rows * static_cast<size_t>(qkv_stride_) * floats);
    mixed_.reserve(rows * static_cast<size_t>(shape_.num_heads * shape_.head_dim) * floats);
    hidden_.reserve(rows * static_cast<size_t>(up_to(shape_.mlp, 16)) * floats);
    size_t num_logits = kind == Output::kLogits ? logit_rows_.size() : 0;
    output_.reserve(std::max(rows * static_cast<size_t>(up_to(shape_.hidden, kTileRows)),
                             num_logits * static_cast<size_t>(up_to(shape_.vocab, 16))) * floats);
    picked_.reserve(std::max<size_t>(1, num_logits) * static_cast<size_t>(shape_.hidden) * floats);
    int64_t widest = up_to(std::max({shape_.hidden, shape_.mlp, shape_.num_heads * shape_.head_dim}), 256);
    int64_t highest = 0;
    for (const Adapter& adapter : adapters_) highest = std::max(highest, adapter.a.packed.rows);
    if (highest) {
        low_.reserve(rows * static_cast<size_t>(up_to(highest, kPanelRows)) * floats);
        added_.reserve(std::max(rows * static_cast<size_t>(up_to(std::max({shape_.hidden, shape_.mlp, qkv_stride_}), kPanelRows)),
                                num_logits * static_cast<size_t>(up_to(shape_.vocab, kPanelRows))) * floats);
    }
    levels_.reserve(rows * static_cast<size_t>(widest + widest / 256 * 4 * (1 + kSumsIn256)) + 192);
    active_.clear();
    int64_t line_stride = up_to(shape_.mlp, 256);
    auto num_wanted = static_cast<int64_t>(logit_rows_.size());
    int64_t few = reads_lines(num_tokens) ? num_tokens : reads_lines(num_wanted) ? num_wanted : 0, bunches = (few + kBunchRows - 1) / kBunchRows;
    lines_.reserve(static_cast<size_t>(bunches * active_bytes(line_stride)));
    for (int64_t i = 0; i < bunches; ++i) {
        uint8_t* at = lines_.data() + i * active_bytes(line_stride);
        active_.push_back({at, at + line_stride / 32, at + line_stride / 32 + line_stride});
    }
    auto members = static_cast<size_t>(team_.size());
    scores_.reserve(members * static_cast<size_t>(attention_floats(group)) * floats);
    scratch_.reserve(members * static_cast<size_t>(up_to(kScratchBytes, 64)));
}

Model::Input Model::input_for(std::initializer_list<const Matrix*> matrices, float* floats, int64_t size, int64_t num_rows, Buffer& memory) {
    Input input;
    input.size = size;
    input.floats = floats;
    for (const Matrix* matrix : matrices) {
        input.wants_levels |= !is_float(matrix->packed.kind);
        input.is_unsigned |= matrix->packed.is_neuron_major;
    }
    if (!input.wants_levels) return input;
    uint8_t* at = memory.data();
    auto take = [&](int64_t bytes) { return std::exchange(at, at + up_to(bytes, 64)); };
    QuantizedRows& rows = input.quantized;
    rows.stride = up_to(size, 256);
    rows.levels = reinterpret_cast<int8_t*>(take(num_rows * rows.stride));
    rows.scales = reinterpret_cast<float*>(take(num_rows * rows.stride / 256 * 4));
    rows.sums = reinterpret_cast<int32_t*>(take(num_rows * rows.stride / 256 * kSumsIn256 * 4));
    return input;
}

// Levels of all rows, and their active lines, split over the members by bunches of rows and stretches of 256 inputs.
void Model::quantize(const Input& input, int64_t num_rows, int member) {
    const QuantizedRows& rows = input.quantized;
    auto kernel = input.is_unsigned ? kernels_->quantize_unsigned : kernels_->quantize;
    int64_t units = rows.stride / 256, bunches = (num_rows + kBunchRows - 1) / kBunchRows;
    auto [begin, end] = share(bunches * units, member);
    for (int64_t i = begin; i < end; ++i) {
        int64_t bunch = i / units, unit = i % units, first = bunch * kBunchRows, count = std::min(kBunchRows, num_rows - first);
        for (int64_t row = first; row < first + count; ++row) {
            int64_t number = row * units + unit;
            kernel(input.floats + row * input.size + 256 * unit, std::min<int64_t>(256, input.size - 256 * unit), 256, rows.levels + 256 * number,
                   rows.scales + number, rows.sums + kSumsIn256 * number);
        }
        if (input.is_unsigned && reads_lines(num_rows))
            find_active(rows, first, count, skips_zeros_, 8 * unit, 8 * unit + 8, active_[static_cast<size_t>(bunch)]);
    }
}

// This member's part of y = W x; `done` is told the columns of y as they come. Few rows wait for memory, and each member
// reads one stretch of it; many take what is next, as a member may be slower than the others for a while.
template <class Done>
void Model::multiply(const Matrix& matrix, const Input& input, int64_t num_rows, int member, float* y, int64_t stride, std::atomic<int64_t>& next, Done done) {
    const PackedMatrix& w = matrix.packed;
    uint8_t* scratch = scratch_.data() + member * up_to(kScratchBytes, 64);
    int64_t parts = w.is_neuron_major ? w.tiles() : w.panels(), part_rows = w.is_neuron_major ? kTileRows : kPanelRows;
    bool takes_next = !reads_lines(num_rows);
    int64_t grain = takes_next ? std::clamp<int64_t>(parts / (8 * team_.active()) / 2 * 2, 2, 8) : num_rows > kBunchRows ? 4 : 1;
    if (w.is_neuron_major) grain = 1;
    auto work = [&](int64_t begin, int64_t end) {
        if (begin >= end) return;
        if (w.is_neuron_major) kernels_->matmul_neurons(w, input.quantized, active_.data(), num_rows, begin, end, y, stride, scratch);
        else if (is_float(w.kind)) kernels_->matmul_float(w, input.floats, input.size, num_rows, begin, end, y, stride);
        else kernels_->matmul(w, input.quantized, num_rows, begin, end, y, stride, scratch);
        done(begin * part_rows, std::min(end * part_rows, w.rows));
    };
    int64_t units = (parts + grain - 1) / grain;
    if (!takes_next) {
        auto [first, last] = share(units, member);
        return work(first * grain, std::min(last * grain, parts));
    }
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < units;) work(i * grain, std::min((i + 1) * grain, parts));
}

// B (A x) of an adapter; `done` is told the columns of it as they come, when every member is behind what it did before.
template <class Done>
void Model::adapt(const Adapter& adapter, const float* x, int64_t x_stride, int64_t num_rows, int member, Done done) {
    const PackedMatrix &a = adapter.a.packed, &b = adapter.b.packed;
    float *low = low_.as<float>(), *added = added_.as<float>();
    int64_t low_stride = a.panels() * kPanelRows, stride = b.panels() * kPanelRows;
    auto [first, last] = share(a.panels(), member);
    if (first < last) kernels_->matmul_float(a, x, x_stride, num_rows, first, last, low, low_stride);
    team_.barrier(member);
    auto [begin, end] = share(b.panels(), member);
    if (begin == end) return;
    kernels_->matmul_float(b, low, low_stride, num_rows, begin, end, added, stride);
    done(begin * kPanelRows, std::min(end * kPanelRows, b.rows), added, stride);
}

void Model::norm_rows(const Norm& norm, const float* x, int64_t num_rows, int member, float* y) {
    auto [begin, end] = share(num_rows, member);
    for (int64_t m = begin; m < end; ++m)
        kernels_->layer_norm(x + m * shape_.hidden, norm.gain.data(), norm.bias.data(), shape_.norm_eps, shape_.hidden, y + m * shape_.hidden);
}

void Model::rotate_and_store(int member, KvPool& pool, std::span<const Stretch> stretches, int64_t layer) {
    int64_t heads = shape_.num_heads, kv = shape_.num_kv_heads, size = shape_.head_dim, half = shape_.rotary_dim / 2;
    auto num_tokens = static_cast<int64_t>(tokens_.size());
    auto [begin, end] = share(num_tokens * kv, member);
    int64_t group = heads / kv;
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (int64_t i = begin; i < end; ++i) {
        int64_t m = i / kv, k = i % kv;
        float* row = qkv_.as<float>() + m * qkv_stride_;
        const float *cosines = angles_.data() + m * 2 * half, *sines = cosines + half;
        auto turn = [&](float* head) {
            for (int64_t j = 0; j < half; ++j) {
                float a = head[j], b = head[half + j];
                head[j] = a * cosines[j] - b * sines[j];
                head[half + j] = b * cosines[j] + a * sines[j];
            }
        };
        for (int64_t n = k * group; n < (k + 1) * group; ++n) {
            turn(row + n * size);
            for (int64_t j = 0; j < size; ++j) row[n * size + j] *= scale;
        }
        float* key = row + (heads + k) * size;
        turn(key);
        const Token& token = tokens_[static_cast<size_t>(m)];
        int64_t block = stretches[static_cast<size_t>(token.stretch)].table[token.position / kBlockTokens];
        uint8_t* at = pool.layer(layer) + block * pool.block_stride() + k * pool.head_bytes();
        (pool.is_8bit() ? kernels_->store_8bit : kernels_->store_16bit)(key, row + (heads + kv + k) * size, size,
                                                                        token.position % kBlockTokens, at);
    }
}

// Scratch of one member: scores, queries, planes of queries.
int64_t Model::attention_floats(int64_t group) const {
    return task_tokens_ * group * (scores_stride_ + shape_.head_dim) + kPlaneRows * shape_.head_dim / 2;
}

void Model::attention(int member, KvPool& pool, std::span<const Stretch> stretches, int64_t layer, const std::vector<Task>& tasks) {
    int64_t group = shape_.num_heads / shape_.num_kv_heads, size = shape_.head_dim, width = shape_.num_heads * size;
    int64_t most_rows = task_tokens_ * group;
    float* scores = scores_.as<float>() + member * attention_floats(group);
    float* queries = scores + most_rows * scores_stride_;
    auto* planes = reinterpret_cast<int8_t*>(queries + most_rows * size);
    auto count = static_cast<int64_t>(tasks.size());
    for (int64_t i; (i = next_task_.fetch_add(1, std::memory_order_relaxed)) < count;) {
        const Task& task = tasks[static_cast<size_t>(i)];
        for (int64_t t = 0; t < task.count; ++t)
            std::memcpy(queries + t * group * size, qkv_.as<float>() + (task.first + t) * qkv_stride_ + task.kv_head * group * size,
                        static_cast<size_t>(group * size) * sizeof(float));
        AttentionTask work;
        work.q = queries;
        work.num_rows = task.count * group;
        work.group = group;
        work.head_dim = size;
        work.first_seen = tokens_[static_cast<size_t>(task.first)].position + 1;
        work.pool = pool.layer(layer);
        work.table = stretches[static_cast<size_t>(task.stretch)].table;
        work.block_bytes = pool.block_stride();
        work.head_offset = task.kv_head * pool.head_bytes();
        work.scores = scores;
        work.scores_stride = scores_stride_;
        work.planes = planes;
        work.out = mixed_.as<float>() + task.to * width + task.kv_head * group * size;
        work.out_stride = width;
        (pool.is_8bit() ? kernels_->attend_8bit : kernels_->attend_16bit)(work);
    }
}

// The wanted rows of the residual stream, moved together to its beginning.
void Model::keep_wanted(float* x) const {
    for (size_t j = 0; j < logit_rows_.size(); ++j)
        std::memmove(x + static_cast<int64_t>(j) * shape_.hidden, x + logit_rows_[j] * shape_.hidden, static_cast<size_t>(shape_.hidden) * sizeof(float));
}

void Model::forward(KvPool& pool, std::span<const Stretch> stretches, float* x, float* out, Output kind) {
    std::lock_guard lock(mutex_);
    prepare(stretches, kind);
    std::function<void(int)> work = [&](int member) { walk(member, pool, stretches, x, out, kind); };
    team_.run_together(work);
}

void Model::set_census(bool counts) {
    std::lock_guard lock(mutex_);
    counts_ = counts;
    if (counts) census_.assign(weights_->layers.size(), {});
}

void Model::count(Census& census, const float* activations, int64_t from, int64_t to, int64_t stride) {
    int64_t zeros = 0;
    for (size_t m = 0; m < tokens_.size(); ++m)
        zeros += std::count(activations + static_cast<int64_t>(m) * stride + from, activations + static_cast<int64_t>(m) * stride + to, 0.0f);
    std::atomic_ref(census.zeros) += zeros;
    std::atomic_ref(census.total) += static_cast<int64_t>(tokens_.size()) * (to - from);
}

void Model::walk(int member, KvPool& pool, std::span<const Stretch> stretches, float* x, float* out, Output kind) {
    auto rows = static_cast<int64_t>(tokens_.size()), wanted = static_cast<int64_t>(logit_rows_.size());
    int64_t hidden = shape_.hidden, heads = shape_.num_heads * shape_.head_dim, kv = shape_.num_kv_heads * shape_.head_dim;
    int64_t mlp_stride = up_to(shape_.mlp, 16), out_stride = up_to(hidden, kTileRows);
    float *normed = normed_.as<float>(), *qkv = qkv_.as<float>(), *mixed = mixed_.as<float>();
    float *activations = hidden_.as<float>(), *output = output_.as<float>();
    // y = W input, added to the residual stream; a member adds the columns that it made.
    auto add = [&](const float* source, int64_t source_stride, int64_t from, int64_t to, float* y, int64_t stride) {
        for (int64_t m = 0; m < rows; ++m) kernels_->add(source + m * source_stride + from, to - from, y + m * stride + from);
    };
    auto add_to_stream = [&](const Matrix& matrix, const Input& input, const Adapter* beside, Slot slot) {
        multiply(matrix, input, rows, member, output, out_stride, next_part(slot),
                 [&](int64_t from, int64_t to) { add(output, out_stride, from, to, x, hidden); });
        if (beside)
            adapt(*beside, input.floats, input.size, rows, member,
                  [&](int64_t from, int64_t to, const float* added, int64_t stride) { add(added, stride, from, to, x, hidden); });
        team_.barrier(member);
    };
    auto enter = [&](const Input& input) {
        if (input.wants_levels) {
            quantize(input, rows, member);
            team_.barrier(member);
        }
    };
    for (int64_t i = 0; i < shape_.num_layers; ++i) {
        const Layer& layer = weights_->layers[static_cast<size_t>(i)];
        auto matrix = [&](Slot slot) -> const Matrix& { return layer.matrices[static_cast<size_t>(slot)]; };
        norm_rows(layer.norms[0], x, rows, member, normed);
        if (member == 0) {
            next_task_.store(0, std::memory_order_relaxed);
            for (auto& next : next_parts_) next.store(0, std::memory_order_relaxed);
        }
        team_.barrier(member);
        Input input = input_for({&matrix(Slot::Q), &matrix(Slot::K), &matrix(Slot::V)}, normed, hidden, rows, levels_);
        enter(input);
        for (auto [slot, at] : {std::pair(Slot::Q, int64_t{0}), {Slot::K, heads}, {Slot::V, heads + kv}})
            multiply(matrix(slot), input, rows, member, qkv + at, qkv_stride_, next_part(slot), [](int64_t, int64_t) {});
        for (auto [slot, at] : {std::pair(Slot::Q, int64_t{0}), {Slot::K, heads}, {Slot::V, heads + kv}})
            if (const Adapter* beside = adapter(i, slot)) {
                adapt(*beside, normed, hidden, rows, member,
                      [&](int64_t from, int64_t to, const float* added, int64_t stride) { add(added, stride, from, to, qkv + at, qkv_stride_); });
                team_.barrier(member);  // the next adapter writes where this one's sums lie
            }
        team_.barrier(member);
        rotate_and_store(member, pool, stretches, i);
        // Behind the last layer's keys and values only those rows go on whose logits are wanted.
        bool leaves = i + 1 == shape_.num_layers && leaves_rows();
        if (leaves) {
            if (!wanted) return;
            rows = wanted;
            if (member == 0) keep_wanted(x);
        }
        team_.barrier(member);
        attention(member, pool, stretches, i, leaves ? last_tasks_ : tasks_);
        team_.barrier(member);
        input = input_for({&matrix(Slot::O)}, mixed, heads, rows, levels_);
        enter(input);
        add_to_stream(matrix(Slot::O), input, adapter(i, Slot::O), Slot::O);

        norm_rows(layer.norms[1], x, rows, member, normed);
        team_.barrier(member);
        input = input_for({&matrix(Slot::Up)}, normed, hidden, rows, levels_);
        enter(input);
        const Adapter* beside = adapter(i, Slot::Up);
        auto bend = [&](int64_t from, int64_t to) {
            for (int64_t m = 0; m < rows; ++m) kernels_->relu2(activations + m * mlp_stride + from, to - from);
            if (counts_) count(census_[static_cast<size_t>(i)], activations, from, to, mlp_stride);
        };
        multiply(matrix(Slot::Up), input, rows, member, activations, mlp_stride, next_part(Slot::Up), [&](int64_t from, int64_t to) {
            if (!beside) bend(from, to);
        });
        if (beside)
            adapt(*beside, normed, hidden, rows, member, [&](int64_t from, int64_t to, const float* added, int64_t stride) {
                add(added, stride, from, to, activations, mlp_stride);
                bend(from, to);
            });
        team_.barrier(member);
        input = input_for({&matrix(Slot::Down)}, activations, mlp_stride, rows, levels_);
        enter(input);
        add_to_stream(matrix(Slot::Down), input, adapter(i, Slot::Down), Slot::Down);
    }
    if (!wanted) return;
    float* picked = kind == Output::kHidden ? out : picked_.as<float>();
    auto [begin, end] = share(wanted, member);
    for (int64_t j = begin; j < end; ++j)
        kernels_->layer_norm(x + (leaves_rows() ? j : logit_rows_[static_cast<size_t>(j)]) * hidden, weights_->last_norm.gain.data(), weights_->last_norm.bias.data(),
                             shape_.norm_eps, hidden, picked + j * hidden);
    if (kind == Output::kHidden) return;
    team_.barrier(member);
    Input input = input_for({&weights_->head}, picked, hidden, wanted, levels_);
    if (input.wants_levels) {
        quantize(input, wanted, member);
        team_.barrier(member);
    }
    int64_t stride = up_to(shape_.vocab, 16);
    multiply(weights_->head, input, wanted, member, output, stride, next_parts_[kNumSlots], [&](int64_t from, int64_t to) {
        for (int64_t j = 0; j < wanted; ++j)
            std::memcpy(out + j * shape_.vocab + from, output + j * stride + from, static_cast<size_t>(to - from) * sizeof(float));
    });
    if (const Adapter* beside = adapter(shape_.num_layers, Slot::Q))
        adapt(*beside, picked, hidden, wanted, member, [&](int64_t from, int64_t to, const float* added, int64_t added_stride) {
            for (int64_t j = 0; j < wanted; ++j) kernels_->add(added + j * added_stride + from, to - from, out + j * shape_.vocab + from);
        });
}

}  // namespace understudy
