// 16 lanes as two 256-bit vectors: AVX2, FMA, F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace understudy {
namespace {

struct F16v { __m256 a, b; };
struct I16v { __m256i a, b; };
struct U64v { __m256i a, b; };
constexpr int kTileTokens = 3, kTilePanels = 1;
constexpr int kAccumulators = 8;  // vectors of sums that stay in registers

inline const __m256i* at256(const void* p) { return static_cast<const __m256i*>(p); }
inline F16v f_set(float x) { __m256 v = _mm256_set1_ps(x); return {v, v}; }
inline F16v f_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void f_store(float* p, F16v x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
inline F16v f_half(const uint8_t* p) {
    const __m128i* h = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
inline void f_store_half(uint16_t* p, F16v x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F16v f_bf16(const uint8_t* p) {
    const __m128i* h = reinterpret_cast<const __m128i*>(p);
    auto wide = [](__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); };
    return {wide(_mm_loadu_si128(h)), wide(_mm_loadu_si128(h + 1))};
}
inline F16v f_mul(F16v x, F16v y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F16v f_add(F16v x, F16v y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F16v f_sub(F16v x, F16v y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F16v f_max(F16v x, F16v y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F16v f_min(F16v x, F16v y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F16v f_div(F16v x, F16v y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F16v f_if_less(F16v x, F16v y, F16v z) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), z.a), _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ), z.b)};
}
inline F16v f_pick_less(F16v x, F16v y, F16v z, F16v other) {
    return {_mm256_blendv_ps(other.a, z.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)), _mm256_blendv_ps(other.b, z.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
inline F16v f_fma(F16v x, F16v y, F16v z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F16v f_fnma(F16v x, F16v y, F16v z) { return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)}; }
inline F16v f_from(I16v x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline F16v f_bits(I16v x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline I16v i_round(F16v x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline float f_sum(F16v x) {
    __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float f_peak(F16v x) {
    __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline I16v i_set(int32_t x) { __m256i v = _mm256_set1_epi32(x); return {v, v}; }
inline I16v i_add(I16v x, I16v y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
template <int N> inline I16v i_left(I16v x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
template <int N> inline I16v i_right(I16v x) { return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)}; }
inline int32_t i_sum(I16v x) {
    __m256i s = _mm256_add_epi32(x.a, x.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}
inline I16v i_mul(I16v x, I16v y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
inline I16v i_bytes(const uint8_t* p) {
    __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
inline I16v i_signed(const uint8_t* p) {
    __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))};
}
template <int N> inline I16v i_lane(U64v x) {  // bytes 16 N .. 16 N + 15
    __m128i v = _mm256_extracti128_si256(N < 2 ? x.a : x.b, N % 2);
    return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
inline I16v i_load(const int32_t* p) { return {_mm256_loadu_si256(at256(p)), _mm256_loadu_si256(at256(p + 8))}; }
inline void i_store(int32_t* p, I16v x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline void i_store_bytes(int8_t* p, I16v x) {
    alignas(32) int32_t wide[16];
    i_store(wide, x);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(wide[i]);
}
inline void i_store_unsigned(int8_t* p, I16v x) { i_store_bytes(p, x); }
inline U64v u_load(const uint8_t* p) { return {_mm256_loadu_si256(at256(p)), _mm256_loadu_si256(at256(p + 32))}; }
inline void u_store(uint8_t* p, U64v x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.b);
}
inline U64v u_and(U64v x, uint8_t mask) {
    __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
    return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline U64v u_or(U64v x, U64v y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int N> inline U64v u_right(U64v x) {
    return u_and({_mm256_srli_epi16(x.a, N), _mm256_srli_epi16(x.b, N)}, static_cast<uint8_t>(0xFF >> N));
}
template <int N> inline U64v u_left(U64v x) {
    return u_and({_mm256_slli_epi16(x.a, N), _mm256_slli_epi16(x.b, N)}, static_cast<uint8_t>(0xFF << N));
}
// Entry x of 16 bytes for every byte x < 16.
inline U64v u_lookup(const void* table, U64v x) {
    __m256i entries = _mm256_broadcastsi128_si256(_mm_load_si128(static_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(entries, x.a), _mm256_shuffle_epi8(entries, x.b)};
}
// low | (high shifted left by N, right where it is negative) & 0x30
template <int N> inline U64v u_merge(U64v low, U64v high) {
    auto moved = [](__m256i v) { return N >= 0 ? _mm256_slli_epi16(v, N >= 0 ? N : 0) : _mm256_srli_epi16(v, N < 0 ? -N : 0); };
    return u_or(low, u_and({moved(high.a), moved(high.b)}, 0x30));
}
inline __m256i four(const int8_t* x) { int32_t v; std::memcpy(&v, x, 4); return _mm256_set1_epi32(v); }
// w at most 127, so that the pair sums of maddubs fit 16 bits
inline I16v dot(I16v acc, U64v w, const int8_t* x) {
    __m256i v = four(x), ones = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, v), ones)),
            _mm256_add_epi32(acc.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, v), ones))};
}
inline I16v dot_wide(I16v acc, U64v w, const int8_t* x) {
    I16v high = dot(i_set(0), u_right<4>(w), x);
    acc = dot(acc, u_and(w, 15), x);
    return {_mm256_add_epi32(acc.a, _mm256_slli_epi32(high.a, 4)), _mm256_add_epi32(acc.b, _mm256_slli_epi32(high.b, 4))};
}
// For levels out of a table, none of them 0: |w| times x with w's sign, so that they need not be split.
constexpr int kTableZeroBits = 0;
inline I16v dot_table(I16v acc, U64v w, const int8_t* x) {
    __m256i v = four(x), ones = _mm256_set1_epi16(1);
    auto half = [&](__m256i levels) { return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(levels), _mm256_sign_epi8(v, levels)), ones); };
    return {_mm256_add_epi32(acc.a, half(w.a)), _mm256_add_epi32(acc.b, half(w.b))};
}

// The same with signed w and unsigned x; |w| at most 64, so that the pair sums fit.
inline I16v dot_unsigned_by(I16v acc, U64v w, __m256i x) {
    __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w.a), ones)),
            _mm256_add_epi32(acc.b, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w.b), ones))};
}
inline I16v dot_unsigned(I16v acc, U64v w, const int8_t* x) { return dot_unsigned_by(acc, w, four(x)); }
inline I16v dot_unsigned_wide(I16v acc, U64v w, const int8_t* x) {
    __m256i v = four(x), mask = _mm256_set1_epi8(15);
    I16v high = dot_unsigned_by(i_set(0), w, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
    return i_add(dot_unsigned_by(acc, w, _mm256_and_si256(v, mask)), i_left<4>(high));
}
// Four vectors to quads: bytes 4 r .. 4 r + 3 of the j-th are byte 16 (r / 4) + 4 j + r % 4 of each.
inline void u_quads(U64v a, U64v b, U64v c, U64v d, U64v (&out)[4]) {
    auto half = [](__m256i p, __m256i q, __m256i r, __m256i s, __m256i* to, int64_t step) {
        __m256i pq = _mm256_unpacklo_epi8(p, q), pq2 = _mm256_unpackhi_epi8(p, q), rs = _mm256_unpacklo_epi8(r, s), rs2 = _mm256_unpackhi_epi8(r, s);
        to[0] = _mm256_unpacklo_epi16(pq, rs);
        to[step] = _mm256_unpackhi_epi16(pq, rs);
        to[2 * step] = _mm256_unpacklo_epi16(pq2, rs2);
        to[3 * step] = _mm256_unpackhi_epi16(pq2, rs2);
    };
    __m256i parts[8];
    half(a.a, b.a, c.a, d.a, parts, 2);
    half(a.b, b.b, c.b, d.b, parts + 1, 2);
    for (int j = 0; j < 4; ++j) out[j] = {parts[2 * j], parts[2 * j + 1]};
}

}  // namespace
}  // namespace understudy
