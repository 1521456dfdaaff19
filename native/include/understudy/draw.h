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

// The place of the token drawn of `size` >= 1 logits (no NaN; -inf is never drawn): what top-k leaves (and equals of its
// last), of that the fewest that sum to top-p (of equals the first), of that what reaches min-p; then the first place at
// which the running sum of weights passes this share of the whole. Sums run over 512 places at a time.
template <class T> int64_t draw(const Kernels& kernels, const T* logits, int64_t size, const DrawRule& rule);

}  // namespace understudy
