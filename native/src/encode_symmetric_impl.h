// The formats without an offset: x ~ scale * level, the level from a fixed list. See encode_impl.h.
#pragma once
#include "encode_impl.h"

namespace understudy {
namespace {

// For each format: values of a group, the nearest level, the levels at which a start puts the group's largest value (of
// either sign), and for super-blocks the least and largest scale and the scales at which the largest may stand.
struct LevelsQ4_0 {
    static constexpr int group = 32, lanes = 0, reach = 0;
    static constexpr float low = 0, high = 0;
    static constexpr float starts[] = {-9.2f, -8.7f, -8.35f, -8, -7.7f, -7.4f, -7.05f, -6.6f, 8.2f, 7.7f, 7.35f, 7, 6.7f, 6.4f, 6, 5.6f};
    static constexpr float tops[] = {1};
    static inline F16v nearest(F16v y) { return f_round(f_clip(y, -8, 7)); }
};
struct LevelsQ8_0 {
    static constexpr int group = 32, lanes = 0, reach = 0;
    static constexpr float low = 0, high = 0;
    static constexpr float starts[] = {127, 127.4f, 126.6f, 126, 125, 124, 123, 122};
    static constexpr float tops[] = {1};
    static inline F16v nearest(F16v y) { return f_round(f_clip(y, -127, 127)); }
};
struct LevelsQ6_K {
    static constexpr int group = 16, lanes = 16, reach = 1;
    static constexpr float low = -128, high = 127;
    static constexpr float starts[] = {-33.5f, -33, -32.5f, -32, -31.5f, -31, -30.5f, -30, -29.5f, -29,
                                       32.5f,  32,  31.5f,  31,  30.5f,  30,  29.5f,  29};
    static constexpr float tops[] = {-128, -127, -126, -125, -124, -122, -120, -118, 127, 126, 125, 124, 122, 120, 118, 116};
    static inline F16v nearest(F16v y) { return f_round(f_clip(y, -32, 31)); }
};
constexpr float kCurve[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
struct LevelsIq4Xs {
    static constexpr int group = 32, lanes = 8, reach = 2;
    static constexpr float low = -32, high = 31;
    static constexpr float starts[] = {-140, -134, -130, -127, -124, -120, -115, -109, -102, 124, 119, 116, 113, 110, 107, 103, 97, 90};
    static constexpr float tops[] = {-32, -31, -30, -29, -28, -27, -26, -25, 31, 30, 29, 28, 27, 26, 25, 24};
    static inline F16v nearest(F16v y) {
        F16v level = f_set(kCurve[0]);
        for (int i = 1; i < 16; ++i)
            level = f_add(level, f_if_less(f_set((kCurve[i - 1] + kCurve[i]) * 0.5f), y, f_set(kCurve[i] - kCurve[i - 1])));
        return level;
    }
};

struct Products { F16v ll, lx; };  // sums of w l^2, w l x

template <class L> inline Products products(const Groups<L::group>& g, F16v scale) {
    F16v ll = f_set(0), lx = ll, inverse = f_inverse(scale);
    for (int i = 0; i < L::group; ++i) {
        F16v x = f_load(g.x[i]), level = L::nearest(f_mul(x, inverse)), wl = f_mul(f_load(g.w[i]), level);
        ll = f_add(ll, f_mul(wl, level)), lx = f_add(lx, f_mul(wl, x));
    }
    return {ll, lx};
}

template <class L> inline F16v scale_error(const Groups<L::group>& g, F16v scale) {
    F16v error = f_set(0), inverse = f_inverse(scale);
    for (int i = 0; i < L::group; ++i) {
        F16v x = f_load(g.x[i]), rest = f_sub(x, f_mul(scale, L::nearest(f_mul(x, inverse))));
        error = f_add(error, f_mul(f_mul(f_load(g.w[i]), rest), rest));
    }
    return error;
}

// The scale whose levels, refitted, take most of the sum of w x^2.
template <class L> inline F16v best_scale(const Groups<L::group>& g) {
    F16v zero = f_set(0), top = zero, size = zero;
    for (int i = 0; i < L::group; ++i) {
        F16v x = f_load(g.x[i]), magnitude = f_max(x, f_sub(zero, x));
        top = f_pick_less(size, magnitude, x, top);
        size = f_max(size, magnitude);
    }
    F16v best = zero, most = zero;
    auto take = [&](F16v scale) {
        Products p = products<L>(g, scale);
        F16v fitted = f_mul(p.lx, f_inverse(p.ll)), gain = f_mul(fitted, p.lx);
        best = f_pick_less(most, gain, fitted, best);
        most = f_max(gain, most);
        return fitted;
    };
    for (float start : L::starts) take(take(f_mul(top, f_set(1.0f / start))));
    for (int i = 0; i < kPolish; ++i) take(best);
    return best;
}

template <int N> inline float sum_of(const float* v) { float s = 0; for (int i = 0; i < N; ++i) s += v[i]; return s; }

// One unit for each super-block, in all its lanes.
template <class L> struct Units {
    static constexpr int count = 16 / L::lanes;
    float v[count];
    F16v spread() const { Lanes r; for (int i = 0; i < 16; ++i) r.v[i] = v[i / L::lanes]; return r.load(); }
};

template <class L> inline F16v whole(F16v scale, F16v unit) { return f_round(f_clip(f_mul(scale, f_inverse(unit)), L::low, L::high)); }

template <class L> inline Units<L> best_units(F16v scale, const Products& p, F16v xx) {
    Lanes at = lanes_of(scale);
    Units<L> best{};
    float least[Units<L>::count], peak[Units<L>::count];
    for (int h = 0; h < Units<L>::count; ++h) {
        least[h] = INFINITY, peak[h] = 0;
        for (int i = 0; i < L::lanes; ++i) {
            float v = at.v[L::lanes * h + i];
            if (std::fabs(v) > std::fabs(peak[h])) peak[h] = v;
        }
    }
    for (float top : L::tops) {
        Units<L> unit;
        for (int h = 0; h < Units<L>::count; ++h) unit.v[h] = as_half(peak[h] / top);
        F16v wide = unit.spread(), s = f_mul(wide, whole<L>(scale, wide));
        Lanes errors = lanes_of(f_add(xx, f_mul(s, f_sub(f_mul(s, p.ll), f_mul(f_set(2), p.lx)))));
        for (int h = 0; h < Units<L>::count; ++h) {
            float sum = sum_of<L::lanes>(errors.v + L::lanes * h);
            if (sum < least[h]) least[h] = sum, best.v[h] = unit.v[h];
        }
    }
    return best;
}

template <class L> inline F16v try_scales(const Groups<L::group>& g, F16v unit, F16v& scales) {
    F16v middle = scales, least = scale_error<L>(g, f_mul(unit, middle));
    for (int i = -L::reach; i <= L::reach; ++i) {
        if (i == 0) continue;
        F16v other = f_clip(f_add(middle, f_set(static_cast<float>(i))), L::low, L::high);
        F16v error = scale_error<L>(g, f_mul(unit, other));
        scales = f_pick_less(error, least, other, scales);
        least = f_min(error, least);
    }
    return least;
}

// 16 groups to whole scales, units and levels.
template <class L> struct Coded {
    Units<L> units;
    Lanes scales;
    Lanes level[L::group];

    explicit Coded(const Groups<L::group>& g) {
        F16v scale = best_scale<L>(g), xx = moments_of(g).xx;
        units = best_units<L>(scale, products<L>(g, scale), xx);
        F16v whole_scales = whole<L>(scale, units.spread());
        for (int i = 0; i < kRounds; ++i) {
            Lanes before = lanes_of(try_scales<L>(g, units.spread(), whole_scales));
            Products p = products<L>(g, f_mul(units.spread(), whole_scales));
            Lanes num = lanes_of(f_mul(whole_scales, p.lx)), den = lanes_of(f_mul(f_mul(whole_scales, whole_scales), p.ll));
            Units<L> other;
            for (int h = 0; h < Units<L>::count; ++h)
                other.v[h] = as_half(sum_of<L::lanes>(num.v + L::lanes * h) * inverse(sum_of<L::lanes>(den.v + L::lanes * h)));
            Lanes after = lanes_of(scale_error<L>(g, f_mul(other.spread(), whole_scales)));
            for (int h = 0; h < Units<L>::count; ++h)
                if (sum_of<L::lanes>(after.v + L::lanes * h) < sum_of<L::lanes>(before.v + L::lanes * h)) units.v[h] = other.v[h];
        }
        try_scales<L>(g, units.spread(), whole_scales);
        scales.store(whole_scales);
        F16v inverse = f_inverse(f_mul(units.spread(), whole_scales));
        for (int i = 0; i < L::group; ++i) level[i].store(L::nearest(f_mul(f_load(g.x[i]), inverse)));
    }
};

void encode_q6_k(const float* x, const float* w, int64_t count, uint8_t* out) {
    Groups<16> g;
    for (int64_t begin = 0; begin < count; begin += 256, out += 210) {
        g.load(x + begin, w + begin, count - begin);
        Coded<LevelsQ6_K> coded(g);
        auto level = [&](int i) { return static_cast<int>(coded.level[i % 16].v[i / 16]) + 32; };
        for (int half = 0; half < 2; ++half)
            for (int i = 0; i < 32; ++i) {
                int a = level(128 * half + i), b = level(128 * half + 32 + i), c = level(128 * half + 64 + i), d = level(128 * half + 96 + i);
                out[64 * half + i] = static_cast<uint8_t>((a & 15) | (c & 15) << 4);
                out[64 * half + 32 + i] = static_cast<uint8_t>((b & 15) | (d & 15) << 4);
                out[128 + 32 * half + i] = static_cast<uint8_t>(a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6);
            }
        for (int i = 0; i < 16; ++i) out[192 + i] = static_cast<uint8_t>(static_cast<int>(coded.scales.v[i]));
        put_half(out + 208, coded.units.v[0]);
    }
}

void encode_iq4_xs(const float* x, const float* w, int64_t count, uint8_t* out) {
    uint8_t index[256] = {};
    for (int i = 0; i < 16; ++i) index[static_cast<int>(kCurve[i]) + 128] = static_cast<uint8_t>(i);
    Groups<32> g;
    for (int64_t begin = 0; begin < count; begin += 512, out += 272) {
        g.load(x + begin, w + begin, count - begin);
        Coded<LevelsIq4Xs> coded(g);
        for (int h = 0; h < 2 && begin + 256 * h < count; ++h) {
            uint8_t* block = out + 136 * h;
            put_half(block, coded.units.v[h]);
            unsigned high = 0;
            for (int k = 0; k < 8; ++k) {
                unsigned scale = static_cast<unsigned>(static_cast<int>(coded.scales.v[8 * h + k]) + 32);
                high |= (scale >> 4) << 2 * k;
                if (k % 2 == 0) block[4 + k / 2] = static_cast<uint8_t>(scale & 15);
                else block[4 + k / 2] = static_cast<uint8_t>(block[4 + k / 2] | (scale & 15) << 4);
                auto level = [&](int i) { return index[static_cast<int>(coded.level[i].v[8 * h + k]) + 128]; };
                for (int i = 0; i < 16; ++i) block[8 + 16 * k + i] = static_cast<uint8_t>(level(i) | level(i + 16) << 4);
            }
            block[2] = static_cast<uint8_t>(high & 255);
            block[3] = static_cast<uint8_t>(high >> 8);
        }
    }
}

// Blocks with one half-precision scale: kept is the best of the search and of plain rounding.
template <class L, class Put> inline void encode_plain(const float* x, const float* w, int64_t count, float rounding, Put put) {
    Groups<32> g;
    for (int64_t begin = 0; begin < count; begin += 512) {
        g.load(x + begin, w + begin, count - begin);
        F16v top = f_set(0);
        for (int i = 0; i < 32; ++i) {
            F16v v = f_load(g.x[i]), held = f_max(top, f_sub(f_set(0), top));
            top = f_pick_less(held, f_max(v, f_sub(f_set(0), v)), v, top);
        }
        Lanes found = lanes_of(best_scale<L>(g)), plain = lanes_of(f_mul(top, f_set(1.0f / rounding)));
        for (int i = 0; i < 16; ++i) found.v[i] = as_half(found.v[i]), plain.v[i] = as_half(plain.v[i]);
        F16v scale = f_pick_less(scale_error<L>(g, plain.load()), scale_error<L>(g, found.load()), plain.load(), found.load());
        found.store(scale);
        Lanes level[32];
        F16v inverse = f_inverse(scale);
        for (int i = 0; i < 32; ++i) level[i].store(L::nearest(f_mul(f_load(g.x[i]), inverse)));
        for (int k = 0; k < 16 && begin + 32 * k < count; ++k) put((begin + 32 * k) / 32, found.v[k], level, k);
    }
}

void encode_q4_0(const float* x, const float* w, int64_t count, uint8_t* out) {
    encode_plain<LevelsQ4_0>(x, w, count, -8, [&](int64_t index, float scale, const Lanes* level, int k) {
        uint8_t* block = out + 18 * index;
        put_half(block, scale);
        for (int i = 0; i < 16; ++i)
            block[2 + i] = static_cast<uint8_t>((static_cast<int>(level[i].v[k]) + 8) | (static_cast<int>(level[i + 16].v[k]) + 8) << 4);
    });
}

void encode_q8_0(const float* x, const float* w, int64_t count, uint8_t* out) {
    encode_plain<LevelsQ8_0>(x, w, count, 127, [&](int64_t index, float scale, const Lanes* level, int k) {
        uint8_t* block = out + 34 * index;
        put_half(block, scale);
        for (int i = 0; i < 32; ++i) block[2 + i] = static_cast<uint8_t>(static_cast<int>(level[i].v[k]));
    });
}

void encode(int kind, const float* x, const float* w, int64_t count, uint8_t* out) {
    switch (kind) {
        case 2: return encode_q4_0(x, w, count, out);
        case 8: return encode_q8_0(x, w, count, out);
        case 12: return encode_q4_k(x, w, count, out);
        case 14: return encode_q6_k(x, w, count, out);
        case 23: return encode_iq4_xs(x, w, count, out);
        default: return;
    }
}

}  // namespace
}  // namespace understudy
