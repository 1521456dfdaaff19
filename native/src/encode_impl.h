// Weights to blocks: scales (and minima) that make the weighted squared error small. Over the lanes of the simd_*.h that
// is included before; a lane is a group of values that share a scale, so all sums run over a group in its order, and every
// instruction set gives the same bytes. `quantization/search.py` is the same in NumPy, operation by operation.
//
// Q4_K: x ~ scale * level + offset, offset <= 0. From a grid of ranges clipped at both ends each start rounds, solves the
// weighted least squares for (scale, offset), rounds and solves again; the best goes on until it rests. Then d and dmin are
// chosen from candidates so that the 6-bit scales and minima lose least; then, twice, each group tries the neighbours of its
// scale and minimum with fresh levels, and d and dmin are solved for. The others are alike, without an offset.
#pragma once
#include <cmath>

#include "understudy/kernels.h"

namespace understudy {
namespace {

constexpr float kTiny = 1e-30f;

inline F16v f_round(F16v x) {  // to the nearest whole number, halves to even; |x| < 2^22
    F16v magic = f_set(12582912.0f);
    return f_sub(f_add(x, magic), magic);
}
inline F16v f_clip(F16v x, float low, float high) { return f_min(f_max(x, f_set(low)), f_set(high)); }
inline F16v f_inverse(F16v x) {  // 0 where |x| is (nearly) 0
    F16v size = f_max(x, f_sub(f_set(0), x));
    return f_pick_less(f_set(kTiny), size, f_div(f_set(1), x), f_set(0));
}
inline float as_half(float x) { return half_to_float(float_to_half(x)); }
inline float inverse(float x) { return std::fabs(x) > kTiny ? 1.0f / x : 0.0f; }

// 16 groups of N values side by side.
template <int N> struct Groups {
    alignas(64) float x[N][16];
    alignas(64) float w[N][16];

    void load(const float* from_x, const float* from_w, int64_t count) {
        for (int lane = 0; lane < 16; ++lane)
            for (int i = 0; i < N; ++i) {
                bool is_there = lane * N + i < count;
                x[i][lane] = is_there ? from_x[lane * N + i] : 0.0f;
                w[i][lane] = is_there ? from_w[lane * N + i] : 0.0f;
            }
    }
};
struct Lanes {
    alignas(64) float v[16];
    F16v load() const { return f_load(v); }
    void store(F16v from) { f_store(v, from); }
};
inline Lanes lanes_of(F16v from) { Lanes r; r.store(from); return r; }

struct Moments { F16v w, x, xx; };  // sums of w, w x, w x^2
struct Sums { F16v l, ll, lx; };    // sums of w l, w l^2, w l x

template <int N> inline Moments moments_of(const Groups<N>& g) {
    F16v w = f_set(0), x = w, xx = w;
    for (int i = 0; i < N; ++i) {
        F16v a = f_load(g.x[i]), b = f_load(g.w[i]), c = f_mul(b, a);
        w = f_add(w, b), x = f_add(x, c), xx = f_add(xx, f_mul(c, a));
    }
    return {w, x, xx};
}

// --- Q4_K ---

constexpr int kClips = 6;
constexpr float kClip[kClips] = {-0.02f, 0.02f, 0.06f, 0.10f, 0.15f, 0.21f};
constexpr int kPolish = 3, kRounds = 2;
constexpr int kDivisors = 16;
constexpr float kDivisor[kDivisors] = {64.5f, 63.5f, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 50.5f, 48.5f};

struct Fit { F16v scale, offset, error; };
using Groups32 = Groups<32>;

inline F16v nibble(F16v x, F16v offset, F16v inverse) { return f_round(f_clip(f_mul(f_sub(x, offset), inverse), 0, 15)); }

inline Sums level_sums(const Groups32& g, F16v scale, F16v offset) {
    F16v l = f_set(0), ll = l, lx = l, inverse = f_inverse(scale);
    for (int i = 0; i < 32; ++i) {
        F16v x = f_load(g.x[i]), level = nibble(x, offset, inverse), wl = f_mul(f_load(g.w[i]), level);
        l = f_add(l, wl), ll = f_add(ll, f_mul(wl, level)), lx = f_add(lx, f_mul(wl, x));
    }
    return {l, ll, lx};
}

inline F16v error_of(const Groups32& g, F16v scale, F16v offset) {
    F16v error = f_set(0), inverse = f_inverse(scale);
    for (int i = 0; i < 32; ++i) {
        F16v x = f_load(g.x[i]), level = nibble(x, offset, inverse);
        F16v rest = f_sub(f_sub(x, offset), f_mul(scale, level));
        error = f_add(error, f_mul(f_mul(f_load(g.w[i]), rest), rest));
    }
    return error;
}

// Best scale >= 0 and offset <= 0 for levels with these sums, and its error.
inline Fit solve(const Moments& m, const Sums& s) {
    F16v zero = f_set(0), full = f_mul(m.w, s.ll), det = f_sub(full, f_mul(s.l, s.l));
    F16v scale = f_div(f_sub(f_mul(m.w, s.lx), f_mul(m.x, s.l)), det);
    F16v offset = f_div(f_sub(f_mul(s.ll, m.x), f_mul(s.l, s.lx)), det);
    // All levels the same, or an offset above 0: the scale alone, or where all levels are 0 the offset alone.
    F16v scale_alone = f_max(f_mul(s.lx, f_inverse(s.ll)), zero);
    F16v offset_alone = f_pick_less(f_set(kTiny), s.ll, zero, f_min(f_mul(m.x, f_inverse(m.w)), zero));
    F16v edge = f_mul(full, f_set(1e-5f));
    scale = f_pick_less(edge, det, f_pick_less(zero, offset, scale_alone, scale), scale_alone);
    offset = f_pick_less(edge, det, f_pick_less(zero, offset, offset_alone, offset), offset_alone);
    F16v error = f_sub(f_sub(m.xx, f_mul(scale, s.lx)), f_mul(offset, m.x));
    return {scale, offset, error};
}

inline void keep_better(Fit& best, const Fit& fit) {
    best.scale = f_pick_less(fit.error, best.error, fit.scale, best.scale);
    best.offset = f_pick_less(fit.error, best.error, fit.offset, best.offset);
    best.error = f_min(fit.error, best.error);
}

inline Fit best_range(const Groups32& g, const Moments& m) {
    F16v low = f_set(0), high = f_load(g.x[0]);
    for (int i = 0; i < 32; ++i) low = f_min(low, f_load(g.x[i])), high = f_max(high, f_load(g.x[i]));
    F16v range = f_sub(high, low);
    Fit best{f_set(0), f_set(0), m.xx};
    keep_better(best, solve(m, {f_set(0), f_set(0), f_set(0)}));
    for (float below : kClip)
        for (float above : kClip) {
            F16v offset = f_min(f_add(low, f_mul(range, f_set(below))), f_set(0));
            F16v scale = f_mul(f_sub(f_sub(high, f_mul(range, f_set(above))), offset), f_set(1.0f / 15));
            Fit fit = solve(m, level_sums(g, scale, offset));
            keep_better(best, fit);
            keep_better(best, solve(m, level_sums(g, fit.scale, fit.offset)));
        }
    for (int i = 0; i < kPolish; ++i) keep_better(best, solve(m, level_sums(g, best.scale, best.offset)));
    return best;
}

// Error of (scale, minimum) with fixed levels.
inline F16v quadratic(const Moments& m, const Sums& s, F16v scale, F16v minimum) {
    F16v cross = f_mul(f_set(2), f_add(s.lx, f_mul(minimum, s.l)));
    F16v first = f_mul(scale, f_sub(f_mul(scale, s.ll), cross));
    F16v second = f_mul(minimum, f_add(f_mul(minimum, m.w), f_mul(f_set(2), m.x)));
    return f_add(f_add(m.xx, first), second);
}

inline float sum8(const float* v) { float s = 0; for (int i = 0; i < 8; ++i) s += v[i]; return s; }
inline float peak8(const float* v) { float s = 0; for (int i = 0; i < 8; ++i) s = v[i] > s ? v[i] : s; return s; }

// A value for each of the two super-blocks in 16 lanes.
struct Pair {
    float v[2];
    F16v spread() const { Lanes r; for (int i = 0; i < 16; ++i) r.v[i] = v[i / 8]; return r.load(); }
};

// The unit, rounded to half precision, in which `values` >= 0 become 6-bit numbers with the least `error(values)`.
template <class Error> inline Pair best_unit(F16v values, Error error) {
    Lanes at = lanes_of(values);
    Pair best{{0, 0}};
    float least[2] = {INFINITY, INFINITY};
    for (float divisor : kDivisor) {
        Pair unit;
        for (int h = 0; h < 2; ++h) unit.v[h] = as_half(peak8(at.v + 8 * h) / divisor);
        F16v wide = unit.spread();
        Lanes errors = lanes_of(error(f_mul(wide, f_round(f_clip(f_mul(values, f_inverse(wide)), 0, 63)))));
        for (int h = 0; h < 2; ++h) {
            float sum = sum8(errors.v + 8 * h);
            if (sum < least[h]) least[h] = sum, best.v[h] = unit.v[h];
        }
    }
    return best;
}

struct SixBits { Pair d, dmin; F16v scales, minima; };

inline F16v best_minimum(const Moments& m, const Sums& s, F16v scale) {
    return f_max(f_mul(f_sub(f_mul(scale, s.l), m.x), f_inverse(m.w)), f_set(0));
}

inline SixBits to_six_bits(const Moments& m, const Sums& s, const Fit& fit) {
    SixBits r;
    r.d = best_unit(fit.scale, [&](F16v scale) { return quadratic(m, s, scale, best_minimum(m, s, scale)); });
    F16v wide = r.d.spread();
    r.scales = f_round(f_clip(f_mul(fit.scale, f_inverse(wide)), 0, 63));
    F16v scale = f_mul(wide, r.scales), minimum = best_minimum(m, s, scale);
    r.dmin = best_unit(minimum, [&](F16v other) { return quadratic(m, s, scale, other); });
    r.minima = f_round(f_clip(f_mul(minimum, f_inverse(r.dmin.spread())), 0, 63));
    return r;
}

inline F16v offset_of(F16v dmin, F16v minima) { return f_sub(f_set(0), f_mul(dmin, minima)); }

// Each group's own neighbours, with fresh levels. Returns the errors.
inline F16v try_neighbours(const Groups32& g, SixBits& r) {
    F16v d = r.d.spread(), dmin = r.dmin.spread(), scales = r.scales, minima = r.minima;
    F16v least = error_of(g, f_mul(d, scales), offset_of(dmin, minima));
    for (int i = -1; i <= 1; ++i)
        for (int j = -1; j <= 1; ++j) {
            if (i == 0 && j == 0) continue;
            F16v scale = f_clip(f_add(scales, f_set(static_cast<float>(i))), 0, 63);
            F16v minimum = f_clip(f_add(minima, f_set(static_cast<float>(j))), 0, 63);
            F16v error = error_of(g, f_mul(d, scale), offset_of(dmin, minimum));
            r.scales = f_pick_less(error, least, scale, r.scales);
            r.minima = f_pick_less(error, least, minimum, r.minima);
            least = f_min(error, least);
        }
    return least;
}

// d and dmin by least squares for the levels at hand; kept where fresh levels make the error smaller.
inline void refit(const Groups32& g, const Moments& m, SixBits& r, F16v errors) {
    Sums s = level_sums(g, f_mul(r.d.spread(), r.scales), offset_of(r.dmin.spread(), r.minima));
    Lanes aa = lanes_of(f_mul(f_mul(r.scales, r.scales), s.ll)), ab = lanes_of(f_mul(f_mul(r.scales, r.minima), s.l));
    Lanes bb = lanes_of(f_mul(f_mul(r.minima, r.minima), m.w));
    Lanes a = lanes_of(f_mul(r.scales, s.lx)), b = lanes_of(f_mul(r.minima, m.x)), before = lanes_of(errors);
    Pair d, dmin;
    for (int h = 0; h < 2; ++h) {  // aa d - ab dmin = a; -ab d + bb dmin = -b
        int at = 8 * h;
        float saa = sum8(aa.v + at), sab = sum8(ab.v + at), sbb = sum8(bb.v + at), sa = sum8(a.v + at), sb = sum8(b.v + at);
        float det = saa * sbb - sab * sab;
        bool is_flat = !(det > 1e-5f * (saa * sbb));
        d.v[h] = as_half(is_flat ? (sa * inverse(saa)) : (sa * sbb - sab * sb) / det);
        dmin.v[h] = as_half(is_flat ? 0.0f : (sab * sa - saa * sb) / det);
    }
    Lanes after = lanes_of(error_of(g, f_mul(d.spread(), r.scales), offset_of(dmin.spread(), r.minima)));
    for (int h = 0; h < 2; ++h)
        if (sum8(after.v + 8 * h) < sum8(before.v + 8 * h)) r.d.v[h] = d.v[h], r.dmin.v[h] = dmin.v[h];
}

inline void put_half(uint8_t* at, float value) {
    uint16_t bits = float_to_half(value);
    std::memcpy(at, &bits, 2);
}

void encode_q4_k(const float* x, const float* w, int64_t count, uint8_t* out) {
    Groups32 g;
    for (int64_t begin = 0; begin < count; begin += 512, out += 288) {
        g.load(x + begin, w + begin, count - begin);
        Moments m = moments_of(g);
        Fit fit = best_range(g, m);
        SixBits r = to_six_bits(m, level_sums(g, fit.scale, fit.offset), fit);
        for (int i = 0; i < kRounds; ++i) refit(g, m, r, try_neighbours(g, r));
        try_neighbours(g, r);
        Lanes scales = lanes_of(r.scales), minima = lanes_of(r.minima), level[32];
        F16v inverse = f_inverse(f_mul(r.d.spread(), r.scales)), offset = offset_of(r.dmin.spread(), r.minima);
        for (int i = 0; i < 32; ++i) level[i].store(nibble(f_load(g.x[i]), offset, inverse));
        for (int h = 0; h < 2 && begin + 256 * h < count; ++h) {
            uint8_t* block = out + 144 * h;
            put_half(block, r.d.v[h]);
            put_half(block + 2, r.dmin.v[h]);
            for (int k = 0; k < 4; ++k) {
                int s = static_cast<int>(scales.v[8 * h + k]), n = static_cast<int>(minima.v[8 * h + k]);
                int t = static_cast<int>(scales.v[8 * h + k + 4]), o = static_cast<int>(minima.v[8 * h + k + 4]);
                block[4 + k] = static_cast<uint8_t>(s | (t >> 4) << 6);
                block[8 + k] = static_cast<uint8_t>(n | (o >> 4) << 6);
                block[12 + k] = static_cast<uint8_t>((t & 15) | (o & 15) << 4);
                for (int i = 0; i < 32; ++i)
                    block[16 + 32 * k + i] = static_cast<uint8_t>(static_cast<int>(level[i].v[8 * h + 2 * k]) |
                                                                  static_cast<int>(level[i].v[8 * h + 2 * k + 1]) << 4);
            }
        }
    }
}

}  // namespace
}  // namespace understudy

#include "encode_symmetric_impl.h"
