// The draw of one token.
#pragma once
#include <cstdint>

#include "understudy/kernels.h"

namespace understudy {

// How to draw; see SamplingParams. highest: of the logits, finite. temperature > 0. uniform: in [0, 1).
struct DrawRule {
    double highest, temperature;
    int64_t top_k;  // 0: all
    double top_p, min_p, uniform;
};

// What may be drawn: bit i % 32 of word i / 32, and nothing beyond the words; all where there are none.
struct Allowed {
    const uint32_t* words = nullptr;
    int64_t num_words = 0;
};

// The first of the highest that may be drawn, and how many may be (2 for all above). highest: NaN where any logit, allowed
// or not, is NaN or +inf.
struct Survey {
    int64_t place = 0, count = 0;
    double highest = 0;
};
template <class T> Survey survey(const Kernels& kernels, const T* logits, int64_t size, const Allowed& allowed);

// The place of the token drawn of `size` logits (no NaN; -inf is never drawn), of those that are allowed, one at least:
// what top-k leaves (and equals of its last), of that the fewest that sum to top-p (of equals the first), of that what
// reaches min-p; then the first place at which the running sum of weights passes this share of the whole. Sums run over
// 512 allowed places at a time.
template <class T> int64_t draw(const Kernels& kernels, const T* logits, int64_t size, const DrawRule& rule, const Allowed& allowed = {});

}  // namespace understudy
