// Speed of the matrix kernels alone: for each format GB/s at one row, GOPS at many.
//   c++ -std=c++20 -O3 -Inative/include native/bench/matmul.cpp <objects of native/src> -pthread && ./a.out [threads]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "understudy/model.h"

using namespace understudy;

namespace {

double seconds_of(ThreadTeam& team, const std::function<void(int)>& work) {
    std::vector<double> times;
    for (int i = 0; i < 7; ++i) {
        auto began = std::chrono::steady_clock::now();
        team.run(work);
        times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
    int threads = argc > 1 ? std::atoi(argv[1]) : 2;
    const int64_t cols = 3072, rows = 9216 * 8, most = 512;
    const Kernels& kernels = find_kernels("");
    ThreadTeam team(threads);
    std::printf("%s, %d threads, %ld x %ld\n", kernels.name, threads, long(rows), long(cols));
    for (Kind kind : {Kind::Q4_0, Kind::Q4_K, Kind::IQ4_XS, Kind::Q6_K, Kind::Q8_0}) {
        Buffer weights(PackedMatrix{kind, rows, cols, cols / block_shape(kind).inputs}.bytes()), levels(most * cols), scales(most * cols), sums(most * cols), y(most * rows * 4);
        for (size_t i = 0; i < weights.bytes(); ++i) weights.data()[i] = static_cast<uint8_t>(i * 2654435761u >> 13 & 0x3B);
        for (size_t i = 0; i < levels.bytes(); ++i) levels.data()[i] = static_cast<uint8_t>(i * 2654435761u >> 11);
        std::vector<Buffer> scratch;
        for (int i = 0; i < threads; ++i) scratch.emplace_back(static_cast<size_t>(kScratchBytes));
        PackedMatrix w{kind, rows, cols, cols / block_shape(kind).inputs, weights.data()};
        QuantizedRows x{cols, levels.as<int8_t>(), scales.as<float>(), sums.as<int32_t>()};
        std::printf("%2d:", int(kind));
        for (int64_t m : {1, 2, 4, 8, 16, 64, 256, 512}) {
            int64_t panels = std::min<int64_t>(w.panels(), m > 4 ? 9216 / 16 : w.panels());
            double s = seconds_of(team, [&](int t) {
                int64_t step = panels / threads / 4 * 4;
                kernels.matmul(w, x, m, t * step, (t + 1) * step, y.as<float>(), rows, scratch[size_t(t)].data());
            });
            if (m == 1) std::printf("  1: %.1f GB/s", double(w.panel_bytes() * panels) / s / 1e9);
            else std::printf("  %ld: %.0f GOPS", long(m), 2.0 * double(m * panels * 16 * cols) / s / 1e9);
        }
        std::printf("\n");
    }
}
