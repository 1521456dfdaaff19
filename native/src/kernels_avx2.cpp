#include "simd_avx2.h"

#include "kernels_impl.h"

namespace understudy {

const Kernels& avx2_kernels() {
    static constexpr Kernels kernels = table("avx2");
    return kernels;
}

}  // namespace understudy
