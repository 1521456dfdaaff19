#include "understudy/limits.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>

#include "understudy/buffer.h"
#include "understudy/kernels.h"
#include "understudy/thread_team.h"

namespace understudy {
namespace {

constexpr int64_t kRounds = 4'000'000;

template <class Work> double median_seconds(ThreadTeam& team, Work work) {
    std::array<double, 5> times;
    std::function<void(int)> run = work;
    for (double& time : times) {
        auto began = std::chrono::steady_clock::now();
        team.run(run);
        time = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    }
    std::sort(times.begin(), times.end());
    return times[2];
}

uint64_t read_through(const uint64_t* from, const uint64_t* to) {
    uint64_t sums[16] = {};
    for (; from + 16 <= to; from += 16) {
        __builtin_prefetch(from + 512, 0, 0);
        __builtin_prefetch(from + 520, 0, 0);
        for (int i = 0; i < 16; ++i) sums[i] ^= from[i];
    }
    uint64_t all = 0;
    for (uint64_t sum : sums) all ^= sum;
    return all;
}

}  // namespace

Limits measure_limits(int num_threads, const std::string& name, int64_t bytes) {
    const Kernels& kernels = find_kernels(name);
    ThreadTeam team(num_threads);
    std::atomic<uint64_t> seen{0};
    int64_t words = bytes / 8 / team.size();
    Limits limits{};
    {
        Buffer memory(static_cast<size_t>(words * 8 * team.size()));
        auto* start = memory.as<uint64_t>();
        team.run([&](int member) { std::fill_n(start + member * words, words, uint64_t{1}); });
        double seconds = median_seconds(team, [&](int member) { seen ^= read_through(start + member * words, start + (member + 1) * words); });
        limits.bytes_per_s = static_cast<double>(words * 8 * team.size()) / seconds;
    }
    std::atomic<int64_t> done{0};
    double seconds = median_seconds(team, [&](int) {
        int32_t sink = 0;
        done = kernels.multiply_idly(kRounds, &sink);
        seen ^= static_cast<uint64_t>(sink);
    });
    limits.int8_ops_per_s = static_cast<double>(done.load() * team.size()) / seconds;
    return limits;
}

}  // namespace understudy
