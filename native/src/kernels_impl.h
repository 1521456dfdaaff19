// The kernels, written once in terms of 16 lanes; each kernels_*.cpp includes its lanes, then this.
#pragma once
#include "activations_impl.h"
#include "attention_impl.h"
#include "elementwise_impl.h"
#include "encode_impl.h"
#include "float_matmul_impl.h"
#include "matmul_impl.h"
#include "neurons_impl.h"
#include "weights_impl.h"

namespace understudy {
namespace {

constexpr Kernels table(const char* name) {
    return {name, quantize_to<127>, quantize_to<255>, matmul, matmul_neurons, matmul_float, layer_norm, add, relu2, attend_8bit, attend_16bit,
            store_8bit, store_16bit, multiply_idly, encode, highest<float>, highest<double>, weights<float>, weights<double>};
}

}  // namespace
}  // namespace understudy
