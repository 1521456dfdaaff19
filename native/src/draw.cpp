// One token out of the logits: nothing is sorted but the few that lie at an edge. What a grammar leaves is copied together
// first, so that a few cost little and all but a few cost what all do.
#include "understudy/draw.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace understudy {
namespace {

constexpr int64_t kBlock = 512;     // weights that are summed together
constexpr int64_t kSorted = 512;    // so many are sorted as they are
constexpr double kNear = 6.9;       // nats below the highest; what is further is seldom in a nucleus
constexpr double kBinsANat = 64;
constexpr size_t kNumBins = 4096;   // the last holds all the rest

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

float highest_of(const Kernels& kernels, const float* x, int64_t size) { return kernels.highest(x, size); }
double highest_of(const Kernels& kernels, const double* x, int64_t size) { return kernels.highest_of_doubles(x, size); }

// The lowest value of a type that reaches a double: to compare with the one is to compare with the other.
template <class T> T floor_of(double least) {
    T found = static_cast<T>(least);
    return static_cast<double>(found) < least ? std::nextafter(found, std::numeric_limits<T>::infinity()) : found;
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

// The first place of a value that is there.
template <class T> int64_t first_place(const T* x, int64_t size, T value) {
    int64_t i = 0;
    for (; i + 32 <= size; i += 32) {
        int any = 0;
        for (int64_t j = 0; j < 32; ++j) any |= x[i + j] == value;
        if (any) break;
    }
    while (i + 1 < size && !(x[i] == value)) ++i;
    return i;
}

// Calls `visit(place, bits)` for each word of what is allowed of `size` places, while it returns true.
template <class Visit> void for_words(const Allowed& allowed, int64_t size, Visit visit) {
    for (int64_t w = 0; w < allowed.num_words && 32 * w < size; ++w) {
        int64_t rest = size - 32 * w;
        uint32_t bits = allowed.words[w] & (rest < 32 ? (uint32_t(1) << rest) - 1 : ~uint32_t(0));
        if (!visit(32 * w, bits)) return;
    }
}

// The logits that are allowed, together, until the next call.
template <class T> std::vector<T>& gather(const T* logits, int64_t size, const Allowed& allowed) {
    thread_local std::vector<T> found;
    found.resize(static_cast<size_t>(size) + 32);
    T* end = found.data();
    for_words(allowed, size, [&](int64_t place, uint32_t bits) {
        if (bits == ~uint32_t(0)) {
            std::copy_n(logits + place, 32, end);
            end += 32;
        } else {
            for (; bits; bits &= bits - 1) *end++ = logits[place + std::countr_zero(bits)];
        }
        return true;
    });
    found.resize(static_cast<size_t>(end - found.data()));
    return found;
}

// The place of the allowed logit that `rank` others are before.
int64_t place_of(int64_t rank, int64_t size, const Allowed& allowed) {
    int64_t found = 0;
    for_words(allowed, size, [&](int64_t place, uint32_t bits) {
        int64_t count = std::popcount(bits);
        if (rank >= count) return rank -= count, true;
        for (; rank; --rank) bits &= bits - 1;
        return found = place + std::countr_zero(bits), false;
    });
    return found;
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

// How many candidates, likeliest first, sum to `needed` on top of `sum`; one at least.
template <class T> size_t sort_nucleus(std::vector<Candidate<T>>& edge, double sum, double needed) {
    std::sort(edge.begin(), edge.end(), [](const Candidate<T>& a, const Candidate<T>& b) {
        return a.logit > b.logit || (a.logit == b.logit && a.place < b.place);
    });
    size_t kept = 0;
    while (kept < edge.size() && (kept == 0 || sum < needed)) sum += edge[kept++].weight;
    return kept;
}

// The candidates of the nucleus, likeliest first, where they are few; else none.
template <class T>
std::vector<Candidate<T>>& near_nucleus(const T* logits, const std::vector<double>& weights, const DrawRule& rule, double needed) {
    thread_local std::vector<Candidate<T>> found;
    auto size = static_cast<int64_t>(weights.size());
    T least = floor_of<T>(rule.highest - kNear * rule.temperature);
    double sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < size; ++i) count += logits[i] >= least;
    found.clear();
    if (count > kSorted) return found;
    for_few(0, size, [&](int64_t i) { return logits[i] >= least; }, [&](int64_t i) {
        found.push_back({logits[i], static_cast<int32_t>(i), weights[static_cast<size_t>(i)]});
        sum += found.back().weight;
    });
    found.resize(sum < needed ? 0 : sort_nucleus(found, 0.0, needed));
    return found;
}

// Leaves of many weights the nucleus, by bins of the distance from the highest: only the one at its edge is sorted.
template <class T> void cut_nucleus(const T* logits, std::vector<double>& weights, const DrawRule& rule, double needed) {
    thread_local std::vector<double> sums;
    thread_local std::vector<uint16_t> bins;
    thread_local std::vector<Candidate<T>> edge;
    auto size = static_cast<int64_t>(weights.size());
    sums.assign(kNumBins, 0.0);
    bins.resize(weights.size());
    double scale = kBinsANat / rule.temperature, above = 0;
    uint16_t last = 0, at = 0;
    for (size_t i = 0; i < weights.size(); ++i)
        bins[i] = static_cast<uint16_t>(static_cast<int32_t>(
            std::min((rule.highest - static_cast<double>(logits[i])) * scale, static_cast<double>(kNumBins - 1))));
    for (size_t i = 0; i < weights.size(); ++i) {
        sums[bins[i]] += weights[i];
        last = std::max(last, bins[i]);
    }
    while (at < last && above + sums[at] < needed) above += sums[at++];  // rounding may leave less than is needed
    edge.clear();
    for_few(0, size, [&](int64_t i) { return bins[static_cast<size_t>(i)] == at; }, [&](int64_t i) {
        edge.push_back({logits[i], static_cast<int32_t>(i), weights[static_cast<size_t>(i)]});
    });
    const Candidate<T> lowest = edge[sort_nucleus(edge, above, needed) - 1];
    for (int64_t i = 0; i < size; ++i) weights[static_cast<size_t>(i)] = logits[i] >= lowest.logit ? weights[static_cast<size_t>(i)] : 0.0;
    for_few(lowest.place + 1, size, [&](int64_t i) { return logits[i] == lowest.logit; }, [&](int64_t i) { weights[static_cast<size_t>(i)] = 0.0; });
}

// The place at which the running sum, 512 at a time, passes this share of the whole.
int64_t pick(const std::vector<double>& weights, double uniform) {
    thread_local std::vector<double> sums;
    auto size = static_cast<int64_t>(weights.size());
    sums.clear();
    for (int64_t at = 0; at < size; at += kBlock)
        sums.push_back((sums.empty() ? 0.0 : sums.back()) + sum_of(weights.data() + at, std::min(kBlock, size - at)));
    double target = uniform * sums.back();
    auto block = std::upper_bound(sums.begin(), sums.end() - 1, target) - sums.begin();
    double sum = block ? sums[static_cast<size_t>(block - 1)] : 0.0;
    int64_t begin = block * kBlock, last = -1;  // that can be drawn
    for (int64_t i = begin; i < std::min(size, begin + kBlock) && (last < 0 || sum <= target); ++i) {
        if (weights[static_cast<size_t>(i)] == 0.0) continue;
        last = i;
        sum += weights[static_cast<size_t>(i)];
    }
    for (int64_t i = std::min(size, begin + kBlock) - 1; last < 0 && i >= 0; --i)  // past the end by rounding
        if (weights[static_cast<size_t>(i)] != 0.0) last = i;
    return last;
}

// The same of few candidates, from `least` up.
template <class T> int64_t pick_of(std::vector<Candidate<T>>& found, T least, double uniform) {
    std::erase_if(found, [&](const Candidate<T>& c) { return c.logit < least; });
    std::sort(found.begin(), found.end(), [](const Candidate<T>& a, const Candidate<T>& b) { return a.place < b.place; });
    double total = 0, sum = 0;
    for (const Candidate<T>& c : found) total += c.weight;
    int64_t last = 0;
    for (const Candidate<T>& c : found) {
        if (c.weight == 0.0) continue;
        last = c.place;
        sum += c.weight;
        if (sum > uniform * total) break;
    }
    return last;
}

}  // namespace

template <class T> Survey survey(const Kernels& kernels, const T* logits, int64_t size, const Allowed& allowed) {
    T highest = highest_of(kernels, logits, size);
    Survey found{0, std::min<int64_t>(2, size), static_cast<double>(highest)};
    if (highest != highest) return found;
    found.place = first_place(logits, size, highest);
    if (!allowed.words) return found;
    found.count = 0;
    bool is_allowed = false;
    for_words(allowed, size, [&](int64_t place, uint32_t bits) {
        found.count = std::min<int64_t>(2, found.count + std::popcount(bits));
        is_allowed |= found.place - place < 32 && found.place >= place && (bits >> (found.place - place) & 1);
        return found.count < 2 || (found.place >= place + 32);
    });
    if (is_allowed) return found;
    std::vector<T>& left = gather(logits, size, allowed);
    auto num_left = static_cast<int64_t>(left.size());
    highest = highest_of(kernels, left.data(), num_left);
    found.highest = static_cast<double>(highest);
    found.place = num_left ? place_of(first_place(left.data(), num_left, highest), size, allowed) : 0;
    return found;
}

template Survey survey<float>(const Kernels&, const float*, int64_t, const Allowed&);
template Survey survey<double>(const Kernels&, const double*, int64_t, const Allowed&);

template <class T> int64_t draw(const Kernels& kernels, const T* logits, int64_t size, const DrawRule& rule, const Allowed& allowed) {
    if (allowed.words) {
        std::vector<T>& left = gather(logits, size, allowed);
        if (left.empty()) return 0;
        return place_of(draw(kernels, left.data(), static_cast<int64_t>(left.size()), rule), size, allowed);
    }
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
    thread_local std::vector<double> weights;
    weights.resize(static_cast<size_t>(size));
    make_weights(kernels, logits, size, rule, weights.data());
    T least = floor_of<T>(rule.highest + rule.temperature * std::log(rule.min_p));  // -inf for all
    if (rule.top_p < 1) {
        double needed = rule.top_p * sum_of(weights.data(), size);
        std::vector<Candidate<T>>& found = near_nucleus(logits, weights, rule, needed);
        if (!found.empty()) return pick_of(found, least, rule.uniform);
        cut_nucleus(logits, weights, rule, needed);
    }
    if (rule.min_p > 0) {
        for (int64_t i = 0; i < size; ++i)
            weights[static_cast<size_t>(i)] = logits[i] >= least ? weights[static_cast<size_t>(i)] : 0.0;
    }
    return pick(weights, rule.uniform);
}

template int64_t draw<float>(const Kernels&, const float*, int64_t, const DrawRule&, const Allowed&);
template int64_t draw<double>(const Kernels&, const double*, int64_t, const DrawRule&, const Allowed&);

}  // namespace understudy
