#include "simd_scalar.h"

#include "kernels_impl.h"

namespace understudy {

const Kernels& scalar_kernels() {
    static constexpr Kernels kernels = table("scalar");
    return kernels;
}

}  // namespace understudy
