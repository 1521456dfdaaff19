// How each packed format is read. Over the lanes of the simd_*.h that is included before.
#pragma once
#include "understudy/kernels.h"

namespace understudy {
namespace {

// A format's inputs come in groups; of each group an exact integer sum is made, then multiplied in fp32.
struct Q4_0 {
    static constexpr int64_t inputs = 64, bytes = 576, pair_bytes = 64;
    static constexpr int group = 32;
    static constexpr int zero_bits = 3;  // the level that means zero is 1 << 3
    static constexpr bool is_neuron_major = false, is_wide = false, has_minimum = false;
    // Quads 2 j and 2 j + 1 of a block.
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) {
        U64v w = u_load(block + 64 * j);
        a = u_and(w, 15);
        b = u_right<4>(w);
    }
    struct Scales { const uint8_t* at; };
    static inline Scales scales(const uint8_t* block) { return {block + 512}; }
    template <int G> static inline F16v scale(const Scales& s) { return f_half(s.at + 32 * G); }
    template <int G> static inline F16v minimum(const Scales&) { return f_set(0); }
};

struct Q8_0 {
    static constexpr int64_t inputs = 64, bytes = 1088, pair_bytes = 128;
    static constexpr int group = 32;
    static constexpr int zero_bits = 7;
    static constexpr bool is_neuron_major = false, is_wide = true, has_minimum = false;
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) {
        a = u_load(block + 128 * j);
        b = u_load(block + 128 * j + 64);
    }
    using Scales = Q4_0::Scales;
    static inline Scales scales(const uint8_t* block) { return {block + 1024}; }
    template <int G> static inline F16v scale(const Scales& s) { return Q4_0::scale<G>(s); }
    template <int G> static inline F16v minimum(const Scales&) { return f_set(0); }
};

struct Q4_K {
    static constexpr int64_t inputs = 256, bytes = 2304, pair_bytes = 64;
    static constexpr int group = 32;
    static constexpr int zero_bits = 0;  // none
    static constexpr bool is_neuron_major = false, is_wide = false, has_minimum = true;
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) { Q4_0::quads(block, j, a, b); }
    // Integer scales and minima of 16 rows, group g in lane g % 4 of vector g / 4.
    struct Scales {
        U64v scales[2], minima[2];
        F16v d, dmin;
    };
    static inline Scales scales(const uint8_t* block) {
        U64v a = u_load(block + 2112), b = u_load(block + 2176), c = u_load(block + 2240);
        U64v high = u_or(u_right<6>(a), u_or(u_left<2>(u_right<6>(b)), u_left<4>(u_right<6>(c))));
        return {{u_and(a, 63), u_and(b, 63)}, {u_and(c, 63), high}, f_half(block + 2048), f_half(block + 2080)};
    }
    template <int G> static inline F16v scale(const Scales& s) { return f_mul(f_from(i_lane<G % 4>(s.scales[G / 4])), s.d); }
    template <int G> static inline F16v minimum(const Scales& s) { return f_mul(f_from(i_lane<G % 4>(s.minima[G / 4])), s.dmin); }
};

struct Q6_K {
    static constexpr int64_t inputs = 256, bytes = 3392, pair_bytes = 64;
    static constexpr int group = 16;
    static constexpr int zero_bits = 5;
    static constexpr bool is_neuron_major = false, is_wide = false, has_minimum = false;
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) {
        U64v low = u_load(block + 64 * j), high = u_load(block + 2048 + 64 * (j / 2));
        a = j % 2 ? u_merge<0>(u_and(low, 15), high) : u_merge<4>(u_and(low, 15), high);
        b = j % 2 ? u_merge<-2>(u_right<4>(low), high) : u_merge<2>(u_right<4>(low), high);
    }
    struct Scales {
        const uint8_t* at;
        F16v d;
    };
    static inline Scales scales(const uint8_t* block) { return {block + 3072, f_half(block + 3328)}; }
    template <int G> static inline F16v scale(const Scales& s) { return f_mul(f_from(i_signed(s.at + 16 * G)), s.d); }
    template <int G> static inline F16v minimum(const Scales&) { return f_set(0); }
};

// What the nibbles of IQ4_XS stand for, as signed levels and with 128 added.
alignas(16) constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
alignas(16) constexpr uint8_t kIq4Unsigned[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

struct IQ4_XS {
    static constexpr int64_t inputs = 256, bytes = 2176, pair_bytes = 64;
    static constexpr int group = 32;
    static constexpr int zero_bits = kTableZeroBits;
    static constexpr bool is_neuron_major = false, is_wide = true, has_minimum = false;
    static inline void quads(const uint8_t* block, int64_t j, U64v& a, U64v& b) {
        const void* table = zero_bits ? static_cast<const void*>(kIq4Unsigned) : kIq4Levels;
        Q4_0::quads(block, j, a, b);
        a = u_lookup(table, a);
        b = u_lookup(table, b);
    }
    // Group g's scales + 32 in lane g % 2 of vector g / 2; the upper halves hold what stands behind.
    struct Scales {
        U64v scales[4];
        F16v d;
    };
    static inline Scales scales(const uint8_t* block) {
        U64v a = u_load(block + 2048), b = u_load(block + 2080), c = u_load(block + 2112);
        U64v high = u_or(u_right<6>(a), u_or(u_left<2>(u_right<6>(b)), u_left<4>(u_right<6>(c))));
        return {{u_and(a, 63), u_and(b, 63), u_and(c, 63), high}, f_half(block + 2144)};
    }
    template <int G> static inline F16v scale(const Scales& s) {
        return f_mul(f_from(i_add(i_lane<G % 2>(s.scales[G / 2]), i_set(-32))), s.d);
    }
    template <int G> static inline F16v minimum(const Scales&) { return f_set(0); }
};

}  // namespace
}  // namespace understudy
