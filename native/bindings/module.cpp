// The Python border: shapes, sizes and indices are checked here, once; the interpreter's lock is released inside.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <optional>
#include <tuple>

#include "understudy/draw.h"
#include "understudy/gpu_calls.h"
#include "understudy/launcher.h"
#include "understudy/limits.h"
#include "understudy/model.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace understudy;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MutableFloats2 = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints1 = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

std::span<const uint8_t> span_of(const Bytes& a) { return {a.data(), a.size()}; }
std::span<const float> span_of(const Floats1& a) { return {a.data(), a.size()}; }

Result new_array(size_t rows, size_t cols) {
    auto* memory = new float[std::max<size_t>(1, rows * cols)];
    nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return Result(memory, {rows, cols}, owner);
}

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// A pass over sequences that have past, new and wanted tokens, and their blocks in one row; all is checked.
Pass checked_pass(const Model& model, KvPool& pool, const MutableFloats2& x, const Ints1& past, const Ints1& num_tokens, const Ints1& num_logits,
                  const Ints1& tables) {
    const ModelShape& shape = model.shape();
    size_t count = past.shape(0);
    require(model.is_complete(), "a matrix or norm of the model was not set");
    require(count && num_tokens.shape(0) == count && num_logits.shape(0) == count, "one past, num_tokens and num_logits a sequence");
    require(pool.num_layers() == shape.num_layers && pool.block_bytes() == shape.num_kv_heads * pool.head_bytes() &&
                pool.head_bytes() == head_block_bytes(shape.head_dim, pool.is_8bit()),
            "the cache pool belongs to a model of another shape");
    Pass pass;
    pass.pool = &pool;
    pass.x = x.data();
    pass.tables.assign(tables.data(), tables.data() + tables.shape(0));
    int64_t rows = 0, at = 0;
    for (size_t i = 0; i < count; ++i) {
        Stretch s{past.data()[i], num_tokens.data()[i], num_logits.data()[i], pass.tables.data() + at};
        require(s.past >= 0 && s.num_tokens >= 1 && s.num_logits >= 0 && s.num_logits <= s.num_tokens, "a sequence's step is out of range");
        int64_t blocks = (s.past + s.num_tokens + kBlockTokens - 1) / kBlockTokens;
        require(at + blocks <= static_cast<int64_t>(tables.shape(0)), "a sequence has too few blocks");
        for (int64_t b = 0; b < blocks; ++b) require(s.table[b] >= 0 && s.table[b] < pool.num_blocks(), "a block is outside the pool");
        at += blocks;
        rows += s.num_tokens;
        pass.stretches.push_back(s);
    }
    require(static_cast<int64_t>(x.shape(0)) == rows && static_cast<int64_t>(x.shape(1)) == shape.hidden, "x is not (tokens, hidden)");
    return pass;
}

Result new_rows(const Pass& pass, int64_t size) {
    int64_t wanted = 0;
    for (const Stretch& s : pass.stretches) wanted += s.num_logits;
    return new_array(static_cast<size_t>(wanted), static_cast<size_t>(size));
}

Result forward(Model& model, KvPool& pool, MutableFloats2 x, const Ints1& past, const Ints1& num_tokens, const Ints1& num_logits,
               const Ints1& tables, bool is_hidden) {
    Pass pass = checked_pass(model, pool, x, past, num_tokens, num_logits, tables);
    Result out = new_rows(pass, is_hidden ? model.shape().hidden : model.shape().vocab);
    {
        nb::gil_scoped_release released;
        model.forward(pool, pass.stretches, pass.x, out.data(), is_hidden ? Model::Output::kHidden : Model::Output::kLogits);
    }
    return out;
}

// A pass under way; its arrays stay until it ended.
class Flight {
public:
    Flight(Launcher& launcher, KvPool& pool, MutableFloats2 x, const Ints1& past, const Ints1& num_tokens, const Ints1& num_logits,
           const Ints1& tables)
        : launcher_(launcher), x_(std::move(x)), pass_(checked_pass(launcher.model(), pool, x_, past, num_tokens, num_logits, tables)),
          out_(new_rows(pass_, launcher.model().shape().vocab)) {
        pass_.out = out_.data();
        launcher_.launch(pass_);
    }
    ~Flight() { settle(); }
    Flight(const Flight&) = delete;
    Flight& operator=(const Flight&) = delete;

    void settle() {
        if (is_settled_) return;
        nb::gil_scoped_release released;
        launcher_.wait(pass_);
        is_settled_ = true;
    }

    Result land() {
        settle();
        if (pass_.error) std::rethrow_exception(pass_.error);
        return out_;
    }

private:
    Launcher& launcher_;
    MutableFloats2 x_;
    Pass pass_;
    Result out_;
    bool is_settled_ = false;
};

// One product, for tests and benchmarks of the kernels: (M, cols) times the transposed matrix.
//   is_neuron_major: x >= 0; without skips_zeros all lines are read.
Result matmul(int kind, int64_t rows, int64_t cols, const Bytes& source, const Floats2& x, const std::string& name, bool is_neuron_major,
              bool skips_zeros) {
    const Kernels& kernels = find_kernels(name);
    auto type = static_cast<Kind>(kind);
    PackedMatrix w = plan_matrix(type, rows, cols, source.size(), is_neuron_major);
    require(static_cast<int64_t>(x.shape(1)) == cols, "x is not (M, cols)");
    auto num_rows = static_cast<int64_t>(x.shape(0));
    int64_t units = is_neuron_major ? w.tiles() : w.panels();
    Buffer packed(w.bytes()), scratch(static_cast<size_t>(kScratchBytes));
    pack(w, source.data(), 0, units, packed.data());
    w.data = packed.data();
    int64_t stride = units * (is_neuron_major ? kTileRows : kPanelRows);
    Buffer y(static_cast<size_t>(num_rows * stride) * sizeof(float));
    if (is_float(type)) {
        kernels.matmul_float(w, x.data(), cols, num_rows, 0, units, y.as<float>(), stride);
    } else {
        QuantizedRows q;
        q.stride = (cols + 255) / 256 * 256;
        int64_t groups = num_rows * q.stride / 256, bunches = (num_rows + kBunchRows - 1) / kBunchRows;
        Buffer levels(static_cast<size_t>(256 * groups)), scales(static_cast<size_t>(4 * groups)), sums(static_cast<size_t>(4 * kSumsIn256 * groups));
        Buffer lines(static_cast<size_t>(bunches * active_bytes(q.stride)));
        q.levels = levels.as<int8_t>();
        q.scales = scales.as<float>();
        q.sums = sums.as<int32_t>();
        for (int64_t m = 0; m < num_rows; ++m)
            (is_neuron_major ? kernels.quantize_unsigned : kernels.quantize)(x.data() + m * cols, cols, q.stride, q.levels + m * q.stride,
                                                                             q.scales + m * q.stride / 256, q.sums + m * q.stride / 256 * kSumsIn256);
        std::vector<ActiveLines> active;
        for (int64_t i = 0; is_neuron_major && i < bunches; ++i) {
            uint8_t* at = lines.data() + i * active_bytes(q.stride);
            active.push_back({at, at + q.stride / 32, at + q.stride / 32 + q.stride});
            find_active(q, i * kBunchRows, std::min(kBunchRows, num_rows - i * kBunchRows), skips_zeros, 0, q.stride / 32, active.back());
        }
        if (is_neuron_major) kernels.matmul_neurons(w, q, active.data(), num_rows, 0, units, y.as<float>(), stride, scratch.data());
        else kernels.matmul(w, q, num_rows, 0, units, y.as<float>(), stride, scratch.data());
    }
    Result out = new_array(static_cast<size_t>(num_rows), static_cast<size_t>(rows));
    for (int64_t m = 0; m < num_rows; ++m)
        std::copy_n(y.as<float>() + m * stride, rows, out.data() + m * rows);
    return out;
}

// Blocks of (count) values; the caller has checked that they are finite.
nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> encode(int kind, const Floats1& x, const Floats1& w, const std::string& name) {
    struct Block { int kind; size_t values, bytes; };
    constexpr Block known[] = {{2, 32, 18}, {8, 32, 34}, {12, 256, 144}, {14, 256, 210}, {23, 256, 136}};
    const Block* block = std::find_if(std::begin(known), std::end(known), [&](const Block& b) { return b.kind == kind; });
    require(block != std::end(known), "a format that has no encoder");
    require(x.shape(0) == w.shape(0) && x.shape(0) % block->values == 0, "as many weights as values, in whole blocks");
    const Kernels& kernels = find_kernels(name);
    size_t size = x.shape(0) / block->values * block->bytes;
    auto* memory = new uint8_t[std::max<size_t>(1, size)];
    nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    {
        nb::gil_scoped_release released;
        kernels.encode(kind, x.data(), w.data(), static_cast<int64_t>(x.shape(0)), memory);
    }
    return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(memory, {size}, owner);
}

template <class T> using Logits = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Words = std::optional<nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>>;

Allowed allowed_of(const Words& words) {
    require(!words || words->shape(0) > 0, "no words of what is allowed");
    return words ? Allowed{words->data(), static_cast<int64_t>(words->shape(0))} : Allowed{};
}

template <class T> std::tuple<int64_t, double, int64_t> survey_logits(const Logits<T>& logits, const Words& allowed, const std::string& name) {
    require(logits.shape(0) > 0, "no logits");
    Survey found = survey(find_kernels(name), logits.data(), static_cast<int64_t>(logits.shape(0)), allowed_of(allowed));
    return {found.place, found.highest, found.count};
}

// The caller has checked that `highest` is the finite highest logit of those that are allowed.
template <class T>
int64_t draw_token(const Logits<T>& logits, double highest, double temperature, int64_t top_k, double top_p, double min_p, double uniform,
                   const Words& allowed, const std::string& name) {
    require(logits.shape(0) > 0, "no logits");
    require(temperature > 0 && uniform >= 0 && uniform < 1, "a temperature above 0, and a uniform number from 0 up to 1");
    DrawRule rule{highest, temperature, top_k, top_p, min_p, uniform};
    return draw(find_kernels(name), logits.data(), static_cast<int64_t>(logits.shape(0)), rule, allowed_of(allowed));
}

// Floats or doubles.
using AnyLogits = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// Temperature (0: the likeliest), top-k, top-p, min-p, uniform number.
using Rule = std::tuple<double, int64_t, double, double, double>;

template <class T> std::pair<int64_t, double> draw_row(const Kernels& kernels, const T* logits, int64_t size, const Rule& rule) {
    Survey found = survey(kernels, logits, size, Allowed{});
    auto [temperature, top_k, top_p, min_p, uniform] = rule;
    if (temperature > 0 && std::isfinite(found.highest))
        found.place = draw(kernels, logits, size, DrawRule{found.highest, temperature, top_k, top_p, min_p, uniform});
    return {found.place, found.highest};
}

// For each row the place drawn and the highest logit, as of `survey`; the first of the highest where that is not finite.
std::vector<std::pair<int64_t, double>> draw_rows(const std::vector<AnyLogits>& rows, const std::vector<Rule>& rules, const std::string& name) {
    const Kernels& kernels = find_kernels(name);
    require(rows.size() == rules.size(), "a rule for each row");
    for (const AnyLogits& row : rows) {
        require(row.shape(0) > 0, "no logits");
        require(row.dtype() == nb::dtype<float>() || row.dtype() == nb::dtype<double>(), "logits are floats or doubles");
    }
    for (const Rule& rule : rules)
        require(std::get<0>(rule) >= 0 && std::get<4>(rule) >= 0 && std::get<4>(rule) < 1, "a temperature from 0, and a uniform number from 0 up to 1");
    nb::gil_scoped_release released;
    std::vector<std::pair<int64_t, double>> found;
    found.reserve(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
        auto size = static_cast<int64_t>(rows[i].shape(0));
        if (rows[i].dtype() == nb::dtype<float>()) found.push_back(draw_row(kernels, static_cast<const float*>(rows[i].data()), size, rules[i]));
        else
            found.push_back(draw_row(kernels, static_cast<const double*>(rows[i].data()), size, rules[i]));
    }
    return found;
}

// wgpu's functions, and one of its devices; the caller has checked that addresses and handles are wgpu's, and keeps
// them alive. Rows of calls are pipeline, bind group, workgroups in x and y; rows of copies source, start, target, to, bytes.
class GpuRecorder {
  public:
    using Calls = nb::ndarray<const uint64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;
    using Copies = nb::ndarray<const uint64_t, nb::shape<-1, 5>, nb::c_contig, nb::device::cpu>;
    static constexpr size_t kNumFunctions = sizeof(GpuFunctions) / sizeof(void*);

    GpuRecorder(const std::array<uintptr_t, kNumFunctions>& functions, uintptr_t device, uintptr_t queue)
        : device_(handle(device)), queue_(handle(queue)) {
        require(device && queue && std::all_of(functions.begin(), functions.end(), [](uintptr_t f) { return f; }), "an address is null");
        std::memcpy(&gpu_, functions.data(), sizeof(gpu_));
    }

    uintptr_t record(const Copies& before, const Calls& calls, const Copies& after) const {
        auto call_rows = rows_of<GpuCall>(calls);
        auto first = rows_of<GpuCopy>(before), last = rows_of<GpuCopy>(after);
        for (const GpuCall& call : call_rows) {
            require(call.pipeline && call.group, "a handle is null");
            require(call.x <= UINT32_MAX && call.y <= UINT32_MAX, "more workgroups than 32 bits hold");
        }
        for (const auto& copies : {first, last})
            for (const GpuCopy& copy : copies) require(copy.source && copy.target, "a handle is null");
        nb::gil_scoped_release released;
        return reinterpret_cast<uintptr_t>(record_commands(gpu_, device_, first, call_rows, last));
    }

    void submit(uintptr_t commands) const {
        require(commands, "a handle is null");
        nb::gil_scoped_release released;
        void* one = handle(commands);
        gpu_.submit(queue_, 1, &one);
        gpu_.release_commands(one);
    }

    void release(uintptr_t commands) const {
        if (commands) gpu_.release_commands(handle(commands));
    }

    void write(uintptr_t buffer, uint64_t offset, const Bytes& values, size_t num_bytes) const {
        require(buffer && num_bytes <= values.size(), "more bytes than there are");
        nb::gil_scoped_release released;
        gpu_.write(queue_, handle(buffer), offset, values.data(), num_bytes);
    }

  private:
    template <class T, class Array> static GpuList<T> rows_of(const Array& rows) {
        return {reinterpret_cast<const T*>(rows.data()), rows.shape(0)};
    }

    GpuFunctions gpu_;
    void *device_, *queue_;
};

}  // namespace

NB_MODULE(_native, m) {
    m.attr("BLOCK_TOKENS") = kBlockTokens;
    m.def("kernel_names", [] {
        const Kernels* found[4];
        int count = available_kernels(found, 4);
        std::vector<std::string> names;
        for (int i = 0; i < count; ++i) names.emplace_back(found[i]->name);
        return names;
    });
    m.def("matmul", &matmul, "kind"_a, "rows"_a, "cols"_a, "source"_a, "x"_a, "kernels"_a, "is_neuron_major"_a = false, "skips_zeros"_a = true);
    m.def("survey", &survey_logits<float>, "logits"_a, "allowed"_a = nb::none(), "kernels"_a = "");
    m.def("draw", &draw_token<float>, "logits"_a, "highest"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "uniform"_a,
          "allowed"_a = nb::none(), "kernels"_a = "");
    m.def("survey", &survey_logits<double>, "logits"_a, "allowed"_a = nb::none(), "kernels"_a = "");
    m.def("draw", &draw_token<double>, "logits"_a, "highest"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "uniform"_a,
          "allowed"_a = nb::none(), "kernels"_a = "");
    m.def("draw_rows", &draw_rows, "rows"_a, "rules"_a, "kernels"_a = "");
    nb::class_<GpuRecorder>(m, "GpuRecorder")
        .def(nb::init<const std::array<uintptr_t, GpuRecorder::kNumFunctions>&, uintptr_t, uintptr_t>(), "functions"_a, "device"_a, "queue"_a)
        .def("record", &GpuRecorder::record)
        .def("submit", &GpuRecorder::submit)
        .def("release", &GpuRecorder::release)
        .def("write", &GpuRecorder::write);
    m.def("encode", &encode, "kind"_a, "x"_a, "w"_a, "kernels"_a);

    m.def(
        "measure_limits",
        [](int num_threads, const std::string& kernels, int64_t bytes) {
            require(num_threads >= 1 && bytes >= 1 << 20, "at least one thread and a MiB");
            nb::gil_scoped_release released;
            Limits limits = measure_limits(num_threads, kernels, bytes);
            return std::pair(limits.bytes_per_s, limits.int8_ops_per_s);
        },
        "num_threads"_a, "kernels"_a, "num_bytes"_a);

    nb::class_<ModelShape>(m, "ModelShape")
        .def("__init__",
             [](ModelShape* self, int64_t num_layers, int64_t hidden, int64_t mlp, int64_t vocab, int64_t num_heads, int64_t num_kv_heads,
                int64_t head_dim, int64_t rotary_dim, float rope_theta, float norm_eps) {
                 require(num_layers > 0 && hidden > 0 && mlp > 0 && vocab > 0 && num_heads > 0 && num_kv_heads > 0 && head_dim > 0 &&
                             rotary_dim >= 0 && rotary_dim <= head_dim && rotary_dim % 2 == 0,
                         "a size of the model is out of range");
                 new (self) ModelShape{num_layers, hidden, mlp, vocab, num_heads, num_kv_heads, head_dim, rotary_dim, rope_theta, norm_eps};
             },
             nb::kw_only(), "num_layers"_a, "hidden"_a, "mlp"_a, "vocab"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "rotary_dim"_a,
             "rope_theta"_a, "norm_eps"_a);

    nb::class_<KvPool>(m, "KvPool")
        .def("__init__",
             [](KvPool* self, const ModelShape& shape, int64_t num_blocks, bool is_8bit) {
                 require(num_blocks > 0 && num_blocks < (int64_t{1} << 31), "a cache pool needs at least one block");
                 new (self) KvPool(shape, num_blocks, is_8bit);
             },
             "shape"_a, "num_blocks"_a, "is_8bit"_a)
        .def_prop_ro("num_blocks", &KvPool::num_blocks)
        .def_prop_ro("block_bytes", [](const KvPool& pool) { return pool.block_bytes() * pool.num_layers(); })
        .def("copy_block", [](KvPool& pool, int64_t from, int64_t to) {
            require(from >= 0 && from < pool.num_blocks() && to >= 0 && to < pool.num_blocks(), "a block is outside the pool");
            pool.copy_block(from, to);
        })
        .def("read_block", [](const KvPool& pool, int64_t index) {
            require(index >= 0 && index < pool.num_blocks(), "a block is outside the pool");
            auto size = static_cast<size_t>(pool.block_stride());
            auto* memory = new uint8_t[size];
            nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
            std::copy_n(pool.block(index), size, memory);
            return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(memory, {size}, owner);
        })
        .def("write_block", [](KvPool& pool, int64_t index, const Bytes& content) {
            require(index >= 0 && index < pool.num_blocks(), "a block is outside the pool");
            require(static_cast<int64_t>(content.size()) == pool.block_stride(), "the content is not of a block's size");
            std::copy_n(content.data(), content.size(), pool.block(index));
        });

    nb::class_<Model>(m, "Model")
        .def(nb::init<const ModelShape&, int, const std::string&>(), "shape"_a, "num_threads"_a, "kernels"_a)
        .def(nb::init<const Model&, int>(), "base"_a, "num_threads"_a)
        .def("set_adapter",
             [](Model& model, int64_t layer, int slot, const Floats2& a, const Floats2& b) {
                 require(slot >= 0 && slot < kNumSlots, "a slot is from 0 to 5");
                 require(a.shape(0) == b.shape(1), "A is (rank, inputs), and B (outputs, rank)");
                 nb::gil_scoped_release released;
                 model.set_adapter(layer, static_cast<Slot>(slot), static_cast<int64_t>(a.shape(0)), {a.data(), a.size()}, {b.data(), b.size()});
             })
        .def("set_matrix",
             [](Model& model, int64_t layer, int slot, int kind, int64_t rows, int64_t cols, const Bytes& source) {
                 require(slot >= 0 && slot < kNumSlots, "a slot is from 0 to 5");
                 nb::gil_scoped_release released;
                 model.set_matrix(layer, static_cast<Slot>(slot), static_cast<Kind>(kind), rows, cols, span_of(source));
             })
        .def("set_head",
             [](Model& model, int kind, int64_t rows, int64_t cols, const Bytes& source) {
                 nb::gil_scoped_release released;
                 model.set_head(static_cast<Kind>(kind), rows, cols, span_of(source));
             })
        .def("set_norm", [](Model& model, int64_t layer, int which, const Floats1& gain, const Floats1& bias) {
            model.set_norm(layer, which, span_of(gain), span_of(bias));
        })
        .def("forward", &forward, "pool"_a, "x"_a, "past"_a, "num_tokens"_a, "num_logits"_a, "tables"_a, "is_hidden"_a = false)
        .def("set_skip_zeros", &Model::set_skip_zeros, "skips"_a)
        .def("set_census", &Model::set_census, "counts"_a)
        .def("census",
             [](const Model& model) {
                 std::vector<std::pair<int64_t, int64_t>> found;
                 for (auto [total, zeros] : model.census()) found.emplace_back(total, zeros);
                 return found;
             })
        .def_prop_ro("weight_bytes", &Model::weight_bytes)
        .def_prop_ro("kernels", &Model::kernels)
        .def_prop_ro("num_threads", &Model::num_threads);

    nb::class_<Flight>(m, "Flight").def("land", &Flight::land).def("settle", &Flight::settle);
    nb::class_<Launcher>(m, "Launcher")
        .def(nb::init<Model&>(), "model"_a, nb::keep_alive<1, 2>())
        .def(
            "launch",
            [](Launcher& launcher, KvPool& pool, MutableFloats2 x, const Ints1& past, const Ints1& num_tokens, const Ints1& num_logits,
               const Ints1& tables) { return new Flight(launcher, pool, std::move(x), past, num_tokens, num_logits, tables); },
            "pool"_a, "x"_a, "past"_a, "num_tokens"_a, "num_logits"_a, "tables"_a, nb::rv_policy::take_ownership,
            nb::keep_alive<0, 1>(), nb::keep_alive<0, 2>());
}
