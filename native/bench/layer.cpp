// One decoder layer of the 4B, phase by phase: CPU time of one thread, the least of many runs, which other work on the
// machine disturbs little. Weights are random Q4_0, and the kernels those of AVX-512, compiled into this program; turning
// keys and queries is left out, and half of the MLP's neurons are zero.
//   c++ -std=c++20 -O3 -ffp-contract=off -fno-trapping-math -march=native -w -ffunction-sections -Wl,--gc-sections
//       -Inative/include -Inative/src native/bench/layer.cpp native/src/{buffer,cpu,packed}.cpp -o layer
//   ./layer [tokens, 512] [past, 0] [runs, 15] [only phases of this name]
#include "simd_avx512.h"

#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "activations_impl.h"
#include "attention_impl.h"
#include "matmul_impl.h"
#include "neurons_impl.h"
#include "understudy/buffer.h"

using namespace understudy;

namespace {

constexpr int64_t kHidden = 3072, kMlp = 9216, kHeads = 24, kKv = 8, kSize = 128, kGroup = kHeads / kKv;
int runs = 15;
double total = 0;
std::string only;

double cpu_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

void phase(const char* name, double gop, double bytes, const std::function<void()>& work) {
    if (!only.empty() && std::string(name).find(only) == std::string::npos) return;
    double least = 1e9;
    for (int i = 0; i < runs; ++i) {
        double began = cpu_seconds();
        work();
        least = std::min(least, cpu_seconds() - began);
    }
    total += least;
    std::printf("%-28s %8.3f ms", name, 1e3 * least);
    if (gop > 0) std::printf("  %6.0f GOP/s", gop / least);
    if (bytes > 0) std::printf("  %5.1f GB/s", bytes / least / 1e9);
    std::printf("\n");
    std::fflush(stdout);
}

struct Floats {
    Buffer memory;
    explicit Floats(int64_t count) : memory(static_cast<size_t>(count) * 4) {
        std::minstd_rand random(7);
        std::normal_distribution<float> normal;
        for (int64_t i = 0; i < count; ++i) data()[i] = i < 65536 ? normal(random) : data()[i - 65536];
    }
    float* data() { return memory.as<float>(); }
};

struct Weights {
    PackedMatrix packed;
    Buffer memory;
    Weights(int64_t rows, int64_t cols, bool is_neuron_major)
        : packed{Kind::Q4_0, rows, cols, is_neuron_major ? cols / 256 : cols / 64, nullptr, is_neuron_major}, memory(packed.bytes()) {
        for (size_t i = 0; i < memory.bytes(); ++i) memory.data()[i] = static_cast<uint8_t>(i * 2654435761u >> 13 & 0x3B);
        packed.data = memory.data();
    }
};

struct Levels {
    Buffer levels, scales, sums;
    QuantizedRows rows;
    Levels(int64_t count, int64_t stride)
        : levels(size_t(count * stride)), scales(size_t(count * stride / 256 * 4)), sums(size_t(count * stride / 256 * kSumsIn256 * 4)) {
        rows = {stride, levels.as<int8_t>(), scales.as<float>(), sums.as<int32_t>()};
    }
    template <int Most> void fill(const float* x, int64_t count, int64_t size) {
        for (int64_t m = 0; m < count; ++m)
            quantize_to<Most>(x + m * size, size, rows.stride, rows.levels + m * rows.stride, rows.scales + m * rows.stride / 256,
                              rows.sums + m * rows.stride / 256 * kSumsIn256);
    }
};

}  // namespace

int main(int argc, char** argv) {
    const int64_t m = argc > 1 ? std::atoll(argv[1]) : 512, past = argc > 2 ? std::atoll(argv[2]) : 0;
    if (argc > 3) runs = std::atoi(argv[3]);
    if (argc > 4) only = argv[4];
    const bool is_few = reads_lines(m);
    const int64_t qkv_rows = (kHeads + 2 * kKv) * kSize, seen = past + m, num_blocks = (seen + 31) / 32;
    Floats x(m * kHidden), normed(m * kHidden), qkv(m * qkv_rows), mixed(m * kHidden), hidden(m * kMlp), output(m * kHidden), gain(kHidden);
    Levels narrow(m, kHidden), wide(m, kMlp);
    Weights q(kHeads * kSize, kHidden, false), k(kKv * kSize, kHidden, false), v(kKv * kSize, kHidden, false), o(kHidden, kHidden, false),
        up(kMlp, kHidden, false), down(kHidden, kMlp, true);
    Buffer scratch{size_t(kScratchBytes)}, lines{size_t(active_bytes(kMlp))};
    ActiveLines active{lines.data(), lines.data() + kMlp / 32, lines.data() + kMlp / 32 + kMlp};
    auto multiply = [&](const char* name, const Weights& w, const Levels& from, float* y, int64_t stride) {
        phase(name, 2e-9 * double(m * w.packed.rows * w.packed.cols), is_few ? double(w.memory.bytes()) : 0, [&] {
            if (w.packed.is_neuron_major) neurons_as<Q4_0Lines>(w.packed, from.rows, &active, m, 0, w.packed.tiles(), y, stride, scratch.data());
            else matmul_as<Q4_0>(w.packed, from.rows, m, 0, w.packed.panels(), y, stride, scratch.data());
        });
    };
    narrow.fill<127>(x.data(), m, kHidden);
    for (int64_t i = 0; i < m * kMlp; ++i) hidden.data()[i] = static_cast<float>(i * 2654435761u >> 7 & 1 ? i % 17 + 1 : 0);
    wide.fill<255>(hidden.data(), m, kMlp);
    if (is_few) find_active(wide.rows, 0, m, true, 0, kMlp / 32, active);
    phase("norm (1 of 2)", 0, 0, [&] {
        for (int64_t i = 0; i < m; ++i) layer_norm(x.data() + i * kHidden, gain.data(), gain.data(), 1e-5f, kHidden, normed.data() + i * kHidden);
    });
    phase("quantize 3072 (1 of 3)", 0, 0, [&] { narrow.fill<127>(normed.data(), m, kHidden); });
    multiply("Q", q, narrow, qkv.data(), qkv_rows);
    multiply("K", k, narrow, qkv.data() + kHeads * kSize, qkv_rows);
    multiply("V", v, narrow, qkv.data() + (kHeads + kKv) * kSize, qkv_rows);
    Buffer pool{size_t(num_blocks * kKv * head_block_bytes(kSize, true))};
    std::vector<int32_t> table;
    for (int64_t b = 0; b < num_blocks; ++b) table.push_back(int32_t((b * 7 + 3) % num_blocks));
    const int64_t block_bytes = kKv * head_block_bytes(kSize, true);
    auto store = [&](int64_t from, int64_t token, int64_t head) {
        float* row = qkv.data() + from * qkv_rows;
        store_8bit(row + (kHeads + head) * kSize, row + (kHeads + kKv + head) * kSize, kSize, token % 32,
                   pool.data() + table[size_t(token / 32)] * block_bytes + head * head_block_bytes(kSize, true));
    };
    for (int64_t token = 0; token < seen; ++token)
        for (int64_t head = 0; head < kKv; ++head) store(token % m, token, head);
    phase("store keys and values", 0, 0, [&] {
        for (int64_t i = 0; i < m; ++i)
            for (int64_t head = 0; head < kKv; ++head) store(i, past + i, head);
    });
    const int64_t task_tokens = 4, stride = num_blocks * 32;
    Floats scores(task_tokens * kGroup * stride), queries(task_tokens * kGroup * kSize);
    Buffer planes{size_t(kPlaneRows * 2 * kSize)};
    double pairs = 0;
    for (int64_t i = 0; i < m; ++i) pairs += double(past + i + 1);
    phase("attention", 4e-9 * pairs * kHeads * kSize, m == 1 ? double(pool.bytes()) : 0, [&] {
        for (int64_t first = 0; first < m; first += task_tokens)
            for (int64_t head = 0; head < kKv; ++head) {
                int64_t count = std::min(task_tokens, m - first);
                for (int64_t t = 0; t < count; ++t)
                    std::memcpy(queries.data() + t * kGroup * kSize, qkv.data() + (first + t) * qkv_rows + head * kGroup * kSize, kGroup * kSize * 4);
                attend_8bit({queries.data(), count * kGroup, kGroup, kSize, past + first + 1, pool.data(), table.data(), block_bytes,
                             head * head_block_bytes(kSize, true), scores.data(), stride, planes.as<int8_t>(),
                             mixed.data() + first * kHidden + head * kGroup * kSize, kHidden});
            }
    });
    multiply("O", o, narrow, output.data(), kHidden);
    phase("add (1 of 2)", 0, 0, [&] {
        for (int64_t i = 0; i < m; ++i) add(output.data() + i * kHidden, kHidden, x.data() + i * kHidden);
    });
    phase("quantize 9216", 0, 0, [&] { wide.fill<255>(hidden.data(), m, kMlp); });
    multiply("Down", down, wide, output.data(), kHidden);
    multiply("Up", up, narrow, hidden.data(), kMlp);
    phase("squared ReLU", 0, 0, [&] {
        for (int64_t i = 0; i < m; ++i) relu2(hidden.data() + i * kMlp, kMlp);
    });
    std::printf("%-28s %8.3f ms\n", "all (once each)", 1e3 * total);
}
