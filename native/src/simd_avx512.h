// 16 lanes as one 512-bit vector: AVX-512 F, BW, VL, DQ, VNNI.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace understudy {
namespace {

struct F16v { __m512 v; };
struct I16v { __m512i v; };
struct U64v { __m512i v; };
constexpr int kTileTokens = 6, kTilePanels = 2;
constexpr int kAccumulators = 24;  // vectors of sums that stay in registers

inline F16v f_set(float x) { return {_mm512_set1_ps(x)}; }
inline F16v f_load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void f_store(float* p, F16v x) { _mm512_storeu_ps(p, x.v); }
inline F16v f_half(const uint8_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline void f_store_half(uint16_t* p, F16v x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F16v f_bf16(const uint8_t* p) {
    __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
inline F16v f_mul(F16v x, F16v y) { return {_mm512_mul_ps(x.v, y.v)}; }
inline F16v f_add(F16v x, F16v y) { return {_mm512_add_ps(x.v, y.v)}; }
inline F16v f_sub(F16v x, F16v y) { return {_mm512_sub_ps(x.v, y.v)}; }
inline F16v f_max(F16v x, F16v y) { return {_mm512_max_ps(x.v, y.v)}; }
inline F16v f_min(F16v x, F16v y) { return {_mm512_min_ps(x.v, y.v)}; }
inline F16v f_div(F16v x, F16v y) { return {_mm512_div_ps(x.v, y.v)}; }
inline F16v f_if_less(F16v x, F16v y, F16v z) { return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), z.v)}; }
inline F16v f_pick_less(F16v x, F16v y, F16v z, F16v other) { return {_mm512_mask_mov_ps(other.v, _mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), z.v)}; }
inline F16v f_fma(F16v x, F16v y, F16v z) { return {_mm512_fmadd_ps(x.v, y.v, z.v)}; }
inline F16v f_fnma(F16v x, F16v y, F16v z) { return {_mm512_fnmadd_ps(x.v, y.v, z.v)}; }
inline F16v f_from(I16v x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline F16v f_bits(I16v x) { return {_mm512_castsi512_ps(x.v)}; }
inline I16v i_round(F16v x) { return {_mm512_cvtps_epi32(x.v)}; }
inline float f_sum(F16v x) {
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float f_peak(F16v x) { return _mm512_reduce_max_ps(x.v); }
inline I16v i_set(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I16v i_add(I16v x, I16v y) { return {_mm512_add_epi32(x.v, y.v)}; }
template <int N> inline I16v i_left(I16v x) { return {_mm512_slli_epi32(x.v, N)}; }
template <int N> inline I16v i_right(I16v x) { return {_mm512_srai_epi32(x.v, N)}; }
inline int32_t i_sum(I16v x) { return _mm512_reduce_add_epi32(x.v); }
inline I16v i_mul(I16v x, I16v y) { return {_mm512_mullo_epi32(x.v, y.v)}; }
inline I16v i_bytes(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline I16v i_signed(const uint8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
template <int N> inline I16v i_lane(U64v x) {  // bytes 16 N .. 16 N + 15
    return {_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(x.v, N))};
}
inline I16v i_load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void i_store(int32_t* p, I16v x) { _mm512_storeu_si512(p, x.v); }
inline void i_store_bytes(int8_t* p, I16v x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x.v)); }
inline void i_store_unsigned(int8_t* p, I16v x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v)); }
inline U64v u_load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void u_store(uint8_t* p, U64v x) { _mm512_storeu_si512(p, x.v); }
inline U64v u_and(U64v x, uint8_t mask) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(static_cast<char>(mask)))}; }
inline U64v u_or(U64v x, U64v y) { return {_mm512_or_si512(x.v, y.v)}; }
template <int N> inline U64v u_right(U64v x) { return u_and({_mm512_srli_epi16(x.v, N)}, static_cast<uint8_t>(0xFF >> N)); }
template <int N> inline U64v u_left(U64v x) { return u_and({_mm512_slli_epi16(x.v, N)}, static_cast<uint8_t>(0xFF << N)); }
// Entry x of 16 bytes for every byte x < 16.
inline U64v u_lookup(const void* table, U64v x) {
    __m512i entries = _mm512_broadcast_i32x4(_mm_load_si128(static_cast<const __m128i*>(table)));
    return {_mm512_shuffle_epi8(entries, x.v)};
}
// low | (high shifted left by N, right where it is negative) & 0x30
template <int N> inline U64v u_merge(U64v low, U64v high) {
    __m512i moved = N >= 0 ? _mm512_slli_epi16(high.v, N >= 0 ? N : 0) : _mm512_srli_epi16(high.v, N < 0 ? -N : 0);
    return {_mm512_ternarylogic_epi32(moved, _mm512_set1_epi8(0x30), low.v, 0xEA)};
}
// Assembly, because GCC 12 spills the accumulators of the intrinsics' version.
inline I16v dot(I16v acc, U64v w, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    __m512i b = _mm512_set1_epi32(four);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(b));
    return acc;
}
inline I16v dot_wide(I16v acc, U64v w, const int8_t* x) { return dot(acc, w, x); }
constexpr int kTableZeroBits = 7;  // levels out of a table have 128 added
inline I16v dot_table(I16v acc, U64v w, const int8_t* x) { return dot(acc, w, x); }
// The same with signed w and unsigned x.
inline I16v dot_unsigned(I16v acc, U64v w, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    __m512i b = _mm512_set1_epi32(four);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(b), "v"(w.v));
    return acc;
}
inline I16v dot_unsigned_wide(I16v acc, U64v w, const int8_t* x) { return dot_unsigned(acc, w, x); }
// Four vectors to quads: bytes 4 r .. 4 r + 3 of the j-th are byte 16 (r / 4) + 4 j + r % 4 of each.
inline void u_quads(U64v a, U64v b, U64v c, U64v d, U64v (&out)[4]) {
    __m512i ab = _mm512_unpacklo_epi8(a.v, b.v), ab2 = _mm512_unpackhi_epi8(a.v, b.v);
    __m512i cd = _mm512_unpacklo_epi8(c.v, d.v), cd2 = _mm512_unpackhi_epi8(c.v, d.v);
    out[0].v = _mm512_unpacklo_epi16(ab, cd);
    out[1].v = _mm512_unpackhi_epi16(ab, cd);
    out[2].v = _mm512_unpacklo_epi16(ab2, cd2);
    out[3].v = _mm512_unpackhi_epi16(ab2, cd2);
}

}  // namespace
}  // namespace understudy
