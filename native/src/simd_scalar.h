// 16 lanes in plain C++: the twin that runs anywhere, and that the others are tested against.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace understudy {
float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);
namespace {

struct F16v { float v[16]; };
struct I16v { int32_t v[16]; };
struct U64v { uint8_t v[64]; };

#define LANES for (int i = 0; i < 16; ++i)
constexpr int kTileTokens = 2, kTilePanels = 1;
constexpr int kAccumulators = 4;  // vectors of sums that stay in registers

inline F16v f_set(float x) { F16v r; LANES r.v[i] = x; return r; }
inline F16v f_load(const float* p) { F16v r; std::memcpy(r.v, p, 64); return r; }
inline void f_store(float* p, F16v a) { std::memcpy(p, a.v, 64); }
inline F16v f_half(const uint8_t* p) { F16v r; LANES { uint16_t h; std::memcpy(&h, p + 2 * i, 2); r.v[i] = half_to_float(h); } return r; }
inline void f_store_half(uint16_t* p, F16v x) { LANES p[i] = float_to_half(x.v[i]); }
inline F16v f_bf16(const uint8_t* p) { F16v r; LANES { uint16_t h; std::memcpy(&h, p + 2 * i, 2); uint32_t w = uint32_t(h) << 16; std::memcpy(&r.v[i], &w, 4); } return r; }
inline F16v f_mul(F16v a, F16v b) { LANES a.v[i] *= b.v[i]; return a; }
inline F16v f_add(F16v a, F16v b) { LANES a.v[i] += b.v[i]; return a; }
inline F16v f_sub(F16v a, F16v b) { LANES a.v[i] -= b.v[i]; return a; }
inline F16v f_max(F16v a, F16v b) { LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F16v f_min(F16v a, F16v b) { LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F16v f_div(F16v a, F16v b) { LANES a.v[i] /= b.v[i]; return a; }
// a < b ? c : d and a < b ? c : 0
inline F16v f_pick_less(F16v a, F16v b, F16v c, F16v d) { LANES d.v[i] = a.v[i] < b.v[i] ? c.v[i] : d.v[i]; return d; }
inline F16v f_if_less(F16v a, F16v b, F16v c) { LANES c.v[i] = a.v[i] < b.v[i] ? c.v[i] : 0.0f; return c; }
inline F16v f_fma(F16v a, F16v b, F16v c) { LANES c.v[i] = a.v[i] * b.v[i] + c.v[i]; return c; }
inline F16v f_fnma(F16v a, F16v b, F16v c) { LANES c.v[i] = c.v[i] - a.v[i] * b.v[i]; return c; }
inline F16v f_from(I16v a) { F16v r; LANES r.v[i] = static_cast<float>(a.v[i]); return r; }
inline F16v f_bits(I16v a) { F16v r; std::memcpy(r.v, a.v, 64); return r; }
inline I16v i_round(F16v a) { I16v r; LANES r.v[i] = static_cast<int32_t>(std::nearbyint(a.v[i])); return r; }
inline float f_sum(F16v a) { for (int s = 8; s; s /= 2) for (int i = 0; i < s; ++i) a.v[i] += a.v[i + s]; return a.v[0]; }
inline float f_peak(F16v a) { float m = a.v[0]; LANES m = a.v[i] > m ? a.v[i] : m; return m; }
inline I16v i_set(int32_t x) { I16v r; LANES r.v[i] = x; return r; }
inline I16v i_add(I16v a, I16v b) { LANES a.v[i] += b.v[i]; return a; }
template <int N> inline I16v i_left(I16v a) { LANES a.v[i] *= 1 << N; return a; }
template <int N> inline I16v i_right(I16v a) { LANES a.v[i] >>= N; return a; }
inline int32_t i_sum(I16v a) { int32_t s = 0; LANES s += a.v[i]; return s; }
inline I16v i_mul(I16v a, I16v b) { LANES a.v[i] *= b.v[i]; return a; }
inline I16v i_bytes(const uint8_t* p) { I16v r; LANES r.v[i] = p[i]; return r; }
inline I16v i_signed(const uint8_t* p) { I16v r; LANES r.v[i] = static_cast<int8_t>(p[i]); return r; }
template <int N> inline I16v i_lane(U64v a) { I16v r; LANES r.v[i] = a.v[16 * N + i]; return r; }
inline I16v i_load(const int32_t* p) { I16v r; std::memcpy(r.v, p, 64); return r; }
inline void i_store(int32_t* p, I16v a) { std::memcpy(p, a.v, 64); }
inline void i_store_bytes(int8_t* p, I16v a) { LANES p[i] = static_cast<int8_t>(a.v[i]); }
inline void i_store_unsigned(int8_t* p, I16v a) { i_store_bytes(p, a); }
inline U64v u_load(const uint8_t* p) { U64v r; std::memcpy(r.v, p, 64); return r; }
inline void u_store(uint8_t* p, U64v a) { std::memcpy(p, a.v, 64); }
inline U64v u_and(U64v a, uint8_t mask) { for (auto& b : a.v) b &= mask; return a; }
inline U64v u_or(U64v a, U64v b) { for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i]; return a; }
template <int N> inline U64v u_right(U64v a) { for (auto& b : a.v) b = static_cast<uint8_t>(b >> N); return a; }
template <int N> inline U64v u_left(U64v a) { for (auto& b : a.v) b = static_cast<uint8_t>(b << N); return a; }
// Entry x of 16 bytes for every byte x < 16.
inline U64v u_lookup(const void* table, U64v a) { for (auto& b : a.v) b = static_cast<const uint8_t*>(table)[b]; return a; }
// low | (high shifted left by N, right where it is negative) & 0x30
template <int N> inline U64v u_merge(U64v a, U64v b) {
    for (int i = 0; i < 64; ++i) a.v[i] |= (N >= 0 ? b.v[i] << (N >= 0 ? N : 0) : b.v[i] >> (N < 0 ? -N : 0)) & 0x30;
    return a;
}
// acc[r] += sum of w[4 r + i] * x[i], w unsigned, x four signed bytes
inline I16v dot(I16v acc, U64v w, const int8_t* x) {
    LANES for (int k = 0; k < 4; ++k) acc.v[i] += w.v[4 * i + k] * x[k];
    return acc;
}
inline I16v dot_wide(I16v acc, U64v w, const int8_t* x) { return dot(acc, w, x); }
constexpr int kTableZeroBits = 7;  // levels out of a table have 128 added
inline I16v dot_table(I16v acc, U64v w, const int8_t* x) { return dot(acc, w, x); }
// The same with signed w and unsigned x.
inline I16v dot_unsigned(I16v acc, U64v w, const int8_t* x) {
    LANES for (int k = 0; k < 4; ++k) acc.v[i] += static_cast<int8_t>(w.v[4 * i + k]) * static_cast<uint8_t>(x[k]);
    return acc;
}
inline I16v dot_unsigned_wide(I16v acc, U64v w, const int8_t* x) { return dot_unsigned(acc, w, x); }
// Four vectors to quads: bytes 4 r .. 4 r + 3 of the j-th are byte 16 (r / 4) + 4 j + r % 4 of each.
inline void u_quads(U64v a, U64v b, U64v c, U64v d, U64v (&out)[4]) {
    for (int j = 0; j < 4; ++j)
        LANES {
            int from = 16 * (i / 4) + 4 * j + i % 4;
            uint8_t quad[4] = {a.v[from], b.v[from], c.v[from], d.v[from]};
            std::memcpy(out[j].v + 4 * i, quad, 4);
        }
}
#undef LANES

}  // namespace
}  // namespace understudy
