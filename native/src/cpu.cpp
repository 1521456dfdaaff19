// Which kernels this CPU runs, and what needs no instruction set of its own: active lines, fp16.
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "understudy/kernels.h"

namespace understudy {

int available_kernels(const Kernels** out, int capacity) {
    int count = 0;
    auto offer = [&](const Kernels& kernels) {
        if (count < capacity) out[count++] = &kernels;
    };
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        offer(avx512_kernels());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) offer(avx2_kernels());
#endif
    offer(scalar_kernels());
    return count;
}

const Kernels& find_kernels(const std::string& name) {
    const Kernels* found[4];
    int count = available_kernels(found, 4);
    for (int i = 0; i < count; ++i)
        if (name.empty() || name == found[i]->name) return *found[i];
    throw std::invalid_argument("this CPU has no kernels named " + name);
}

void find_active(const QuantizedRows& x, int64_t first, int64_t count, bool skips_zeros, int64_t begin, int64_t end, const ActiveLines& to) {
    constexpr int64_t kWords = 4;  // of 8 lines
    for (int64_t unit = begin; unit < end; ++unit) {
        uint8_t* order = to.order + 32 * unit;
        const int8_t* from = x.levels + first * x.stride + 32 * unit;
        uint8_t* levels = to.levels + 32 * unit;
        uint64_t words[kWords] = {};
        for (int64_t m = 0; m < count; ++m) {
            uint64_t row[kWords];
            std::memcpy(row, from + m * x.stride, sizeof row);
            for (int64_t w = 0; w < kWords; ++w) words[w] |= row[w];
        }
        uint8_t any[32];
        std::memcpy(any, words, sizeof any);
        int64_t found = 0;
        for (int64_t i = 0; i < 32; ++i) {
            order[found] = static_cast<uint8_t>(i);
            found += any[i] != 0 || !skips_zeros;
        }
        int64_t quads = (found + 3) / 4;
        to.quads[unit] = static_cast<uint8_t>(quads);
        for (int64_t i = found; i < 4 * quads; ++i) order[i] = 0;
        for (int64_t m = 0; m < count; ++m) {
            const int8_t* row = from + m * x.stride;
            uint8_t* out = levels + m * x.stride;
            if (found == 32) std::memcpy(out, row, 32);
            else
                for (int64_t i = 0; i < 4 * quads; ++i) out[i] = i < found ? static_cast<uint8_t>(row[order[i]]) : uint8_t{0};
        }
    }
}

float half_to_float(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 0) {
        float value = std::ldexp(static_cast<float>(fraction), -24);
        return sign ? -value : value;
    }
    uint32_t wide = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

// Round to nearest, halves to even.
uint16_t float_to_half(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    uint32_t sign = wide >> 16 & 0x8000, rest = wide & 0x7FFFFFFF;
    if (rest >= 0x7F800000) return static_cast<uint16_t>(sign | 0x7C00 | (rest > 0x7F800000 ? 0x200 : 0));
    if (rest >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
    if (rest < 0x38800000) {  // subnormal: adding 0.5 puts the rounded value into the last bits
        float small;
        std::memcpy(&small, &rest, 4);
        small += 0.5f;
        std::memcpy(&rest, &small, 4);
        return static_cast<uint16_t>(sign | (rest - 0x3F000000));
    }
    rest += 0xFFF + (rest >> 13 & 1);
    return static_cast<uint16_t>(sign | ((rest - 0x38000000) >> 13));
}

}  // namespace understudy
