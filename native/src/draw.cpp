// One token out of the logits. Weights are made 512 at a time and summed; kept are only those at and above an edge.
#include "understudy/draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace understudy {
namespace {

constexpr int64_t kBlock = 512;     // weights that are summed together
constexpr size_t kSorted = 512;     // so many are sorted as they are
constexpr double kNear = 6.9;       // nats below the highest; what is further is seldom in a nucleus
constexpr double kBinsANat = 64;
constexpr size_t kNumBins = 4096;   // the last holds all the rest
constexpr double kNone = std::numeric_limits<double>::infinity();

template <class T> struct Candidate {
    T logit;
    int32_t place;
    double weight;
};

void make_weights(const Kernels& kernels, const float* x, int64_t size, const DrawRule& rule, double* out) {
    kernels.weights(x, size, rule.highest, rule.temperature, out);
}
void make_weights(const Kernels& kernels, const double* x, int64_t size, const DrawRule& rule, double* out) {
    kernels.weights_of_doubles(x, size, rule.highest, rule.temperature, out);
}

// Eight sums side by side, so that additions need not wait for each other.
double sum_of(const double* x, int64_t size) {
    std::array<double, 8> sums{};
    int64_t i = 0;
    for (; i + 8 <= size; i += 8)
        for (size_t j = 0; j < 8; ++j) sums[j] += x[i + static_cast<int64_t>(j)];
    for (; i < size; ++i) sums[0] += x[i];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// The sums of all weights, block by block and running; and the candidates from `least` up, in order.
template <class T>
void sweep_weights(const Kernels& kernels, const T* logits, int64_t size, const DrawRule& rule, double least, std::vector<double>& sums,
                   std::vector<Candidate<T>>& found) {
    double weights[kBlock];
    size_t num_found = 0;
    sums.clear();
    for (int64_t at = 0; at < size; at += kBlock) {
        int64_t count = std::min(kBlock, size - at);
        make_weights(kernels, logits + at, count, rule, weights);
        sums.push_back((sums.empty() ? 0.0 : sums.back()) + sum_of(weights, count));
        if (least == kNone) continue;
        if (found.size() < num_found + kBlock) found.resize(2 * (num_found + kBlock));
        for (int64_t i = 0; i < count; ++i) {  // written always, counted where it is one: no branch to guess
            found[num_found] = {logits[at + i], static_cast<int32_t>(at + i), weights[i]};
            num_found += static_cast<double>(logits[at + i]) >= least;
        }
    }
    found.resize(num_found);
}

// Leaves of candidates, in order, those where `is_kept`.
template <class T, class Is> void keep(std::vector<Candidate<T>>& found, Is is_kept) {
    size_t kept = 0;
    for (const Candidate<T>& c : found) {
        bool stays = is_kept(c);
        found[kept] = c;
        kept += stays;
    }
    found.resize(kept);
}

// Calls `found(i)` for the places from `begin` on where `is_found(i)`, which are few.
template <class Is, class Found> inline void for_few(int64_t begin, int64_t size, Is is_found, Found found) {
    int64_t i = begin;
    for (; i + 32 <= size; i += 32) {
        int any = 0;
        for (int64_t j = 0; j < 32; ++j) any |= is_found(i + j);
        for (int64_t j = 0; any && j < 32; ++j)
            if (is_found(i + j)) found(i + j);
    }
    for (; i < size; ++i)
        if (is_found(i)) found(i);
}

// The count-th highest.
template <class T> T top_k_floor(const T* logits, int64_t size, int64_t count) {
    thread_local std::vector<T> heap;
    heap.assign(logits, logits + count);
    std::make_heap(heap.begin(), heap.end(), std::greater<T>());
    T floor = heap.front();
    for_few(count, size, [&](int64_t i) { return logits[i] > floor; },
            [&](int64_t i) {
                std::pop_heap(heap.begin(), heap.end(), std::greater<T>());
                heap.back() = logits[i];
                std::push_heap(heap.begin(), heap.end(), std::greater<T>());
                floor = heap.front();
            });
    return floor;
}

// Of many candidates those of the bin (by distance from the highest) in which the sum reaches what is needed; the sum above.
template <class T>
double narrow(const std::vector<Candidate<T>>& found, const DrawRule& rule, double needed, std::vector<Candidate<T>>& edge) {
    thread_local std::vector<double> sums;
    thread_local std::vector<uint16_t> bins;
    sums.assign(kNumBins, 0.0);
    bins.resize(found.size());
    double scale = kBinsANat / rule.temperature;
    uint16_t last = 0, at = 0;
    for (size_t i = 0; i < found.size(); ++i)
        bins[i] = static_cast<uint16_t>(std::min((rule.highest - static_cast<double>(found[i].logit)) * scale, static_cast<double>(kNumBins - 1)));
    for (size_t i = 0; i < found.size(); ++i) {
        sums[bins[i]] += found[i].weight;
        last = std::max(last, bins[i]);
    }
    double above = 0;
    while (at < last && above + sums[at] < needed) above += sums[at++];  // rounding may leave less than is needed
    edge.clear();
    for (size_t i = 0; i < found.size(); ++i)
        if (bins[i] == at) edge.push_back(found[i]);
    return above;
}

// Leaves of candidates the fewest most likely that sum to `needed`, one at least; of equals the first.
template <class T> void keep_nucleus(std::vector<Candidate<T>>& found, const DrawRule& rule, double needed) {
    thread_local std::vector<Candidate<T>> edge;
    double sum = 0;
    if (found.size() > kSorted) sum = narrow(found, rule, needed, edge);
    else edge = found;
    std::sort(edge.begin(), edge.end(), [](const Candidate<T>& a, const Candidate<T>& b) { return a.logit > b.logit; });
    size_t kept = 0;
    while (kept < edge.size() && (kept == 0 || sum < needed)) sum += edge[kept++].weight;
    T lowest = edge[kept - 1].logit;
    int64_t left = std::count_if(edge.begin(), edge.begin() + static_cast<std::ptrdiff_t>(kept),
                                 [&](const Candidate<T>& c) { return c.logit == lowest; });
    keep(found, [&](const Candidate<T>& c) {
        left -= c.logit == lowest;
        return c.logit > lowest || (c.logit == lowest && left >= 0);
    });
}

template <class T> int64_t pick(const std::vector<Candidate<T>>& found, double uniform) {
    double total = 0, sum = 0;
    for (const auto& c : found) total += c.weight;
    int32_t last = found.front().place;
    for (const auto& c : found) {
        if (c.weight == 0.0) continue;
        last = c.place;
        sum += c.weight;
        if (sum > uniform * total) break;
    }
    return last;
}

}  // namespace

template <class T> int64_t draw(const Kernels& kernels, const T* logits, int64_t size, const DrawRule& rule) {
    thread_local std::vector<double> sums;
    thread_local std::vector<Candidate<T>> found;
    if (rule.top_k > 0 && rule.top_k < size) {
        T floor = top_k_floor(logits, size, rule.top_k);
        std::vector<T> values;
        std::vector<int64_t> places;
        for_few(0, size, [&](int64_t i) { return logits[i] >= floor; }, [&](int64_t i) {
            values.push_back(logits[i]);
            places.push_back(i);
        });
        DrawRule rest = rule;
        rest.top_k = 0;
        return places[static_cast<size_t>(draw(kernels, values.data(), static_cast<int64_t>(values.size()), rest))];
    }
    double least = rule.min_p > 0 ? rule.highest + rule.temperature * std::log(rule.min_p) : -kNone;
    if (rule.top_p < 1) {
        sweep_weights(kernels, logits, size, rule, rule.highest - kNear * rule.temperature, sums, found);
        double needed = rule.top_p * sums.back(), sum = 0;
        for (const auto& c : found) sum += c.weight;
        if (sum < needed) sweep_weights(kernels, logits, size, rule, -kNone, sums, found);
        keep_nucleus(found, rule, needed);
        keep(found, [&](const Candidate<T>& c) { return static_cast<double>(c.logit) >= least; });
        return pick(found, rule.uniform);
    }
    sweep_weights(kernels, logits, size, rule, rule.min_p > 0 ? least : kNone, sums, found);
    if (rule.min_p > 0) return pick(found, rule.uniform);
    double target = rule.uniform * sums.back();
    auto block = std::upper_bound(sums.begin(), sums.end() - 1, target) - sums.begin();
    double weights[kBlock], sum = block ? sums[static_cast<size_t>(block - 1)] : 0.0;
    int64_t at = block * kBlock, count = std::min(kBlock, size - at), last = 0;
    make_weights(kernels, logits + at, count, rule, weights);
    for (int64_t i = 0; i < count && sum <= target; ++i) {
        if (weights[i] == 0.0) continue;
        last = i;
        sum += weights[i];
    }
    return at + last;
}

template int64_t draw<float>(const Kernels&, const float*, int64_t, const DrawRule&);
template int64_t draw<double>(const Kernels&, const double*, int64_t, const DrawRule&);

}  // namespace understudy
