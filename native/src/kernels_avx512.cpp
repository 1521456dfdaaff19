#include "simd_avx512.h"

#include "kernels_impl.h"

namespace understudy {

const Kernels& avx512_kernels() {
    static constexpr Kernels kernels = table("avx512");
    return kernels;
}

}  // namespace understudy
