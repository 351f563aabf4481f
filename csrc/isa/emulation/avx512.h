// AVX-512's instructions as functions of AVX2, so that its kernels can be tested on processors without it: included before
// everything else where CMake's OCTAVO_EMULATION is on. Lane by lane, as Intel's Intrinsics Guide has them; slow.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// Not before the compiler's own header has been read, which takes them for instructions that there are.
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define __AVX512VNNI__ 1
#if defined(OCTAVO_EMULATED_VBMI)
#define __AVX512VBMI__ 1
#endif
#if defined(OCTAVO_EMULATED_BF16)
#define __AVX512BF16__ 1
#endif

namespace octavo_emulated {

#define OCTAVO_EMULATED static inline __attribute__((always_inline, unused))
// Where that would be many instructions for one.
#define OCTAVO_EMULATED_APART static __attribute__((noinline, unused))

// Vectors of 64 bytes by what their lanes are, and of 32 and 16.
template <class Lane, int BYTES = 64>
struct VectorOf {
  typedef Lane type __attribute__((vector_size(BYTES), may_alias));
};
template <class Lane, int BYTES = 64>
using Vector = typename VectorOf<Lane, BYTES>::type;
using Floats = Vector<float>;
using Words = Vector<int32_t>;
using UnsignedWords = Vector<uint32_t>;
using Shorts = Vector<int16_t>;
using UnsignedShorts = Vector<uint16_t>;
using Bytes = Vector<int8_t>;
using UnsignedBytes = Vector<uint8_t>;

// A vector whose lane i is function(i).
template <class Out, class Function>
OCTAVO_EMULATED_APART Out lanes(Function function) {
  Out out;
  constexpr int COUNT = static_cast<int>(sizeof out / sizeof out[0]);
  for (int i = 0; i < COUNT; ++i) out[i] = function(i);
  return out;
}
template <class Out>
OCTAVO_EMULATED Out loaded(const void* p) {
  Out out;
  memcpy(&out, p, sizeof out);
  return out;
}
template <class Value>
OCTAVO_EMULATED void stored(void* p, Value value) {
  memcpy(p, &value, sizeof value);
}
// A function of half a vector, of each half.
template <class Out, class Half, class In, class Function>
OCTAVO_EMULATED Out halves(In a, Function function) {
  Half in[2];
  memcpy(in, &a, sizeof a);
  const decltype(function(in[0])) results[] = {function(in[0]), function(in[1])};
  return loaded<Out>(results);
}
OCTAVO_EMULATED bool is_set(uint64_t mask, int lane) { return mask >> lane & 1; }
OCTAVO_EMULATED int saturated(int x, int least, int most) { return x < least ? least : x > most ? most : x; }

OCTAVO_EMULATED_APART __m512 set1_ps(float x) { return lanes<Floats>([=](int) { return x; }); }
OCTAVO_EMULATED __m512 setzero_ps() { return set1_ps(0.0f); }
OCTAVO_EMULATED_APART __m512i set1_epi32(int32_t x) { return (__m512i)lanes<Words>([=](int) { return x; }); }
OCTAVO_EMULATED_APART __m512i set1_epi16(int16_t x) { return (__m512i)lanes<Shorts>([=](int) { return x; }); }
OCTAVO_EMULATED_APART __m512i set1_epi8(char x) { return (__m512i)lanes<Bytes>([=](int) { return static_cast<int8_t>(x); }); }
template <class... Ints>
OCTAVO_EMULATED __m512i setr_epi32(Ints... each) {
  return (__m512i)Words{each...};
}
OCTAVO_EMULATED_APART __m512i broadcast_i32x4(__m128i a) {
  return (__m512i)lanes<Words>([=](int i) { return ((Vector<int32_t, 16>)a)[i % 4]; });
}

OCTAVO_EMULATED __m512 loadu_ps(const void* p) { return loaded<__m512>(p); }
OCTAVO_EMULATED __m512i loadu_si512(const void* p) { return loaded<__m512i>(p); }
OCTAVO_EMULATED void storeu_ps(void* p, __m512 a) { stored(p, a); }
// Those of a vector's own alignment, as the processor holds them to it.
OCTAVO_EMULATED void check_aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 64) __builtin_trap();
}
OCTAVO_EMULATED __m512i load_si512(const void* p) {
  check_aligned(p);
  return loaded<__m512i>(p);
}
OCTAVO_EMULATED void store_si512(void* p, __m512i a) {
  check_aligned(p);
  stored(p, a);
}
OCTAVO_EMULATED_APART __m512 maskz_loadu_ps(__mmask16 mask, const void* p) {
  return lanes<Floats>([=](int i) { return is_set(mask, i) ? static_cast<const float*>(p)[i] : 0.0f; });
}
OCTAVO_EMULATED_APART __m512i maskz_loadu_epi8(__mmask64 mask, const void* p) {
  return (__m512i)lanes<UnsignedBytes>(
      [=](int i) { return is_set(mask, i) ? static_cast<const uint8_t*>(p)[i] : uint8_t{0}; });
}
OCTAVO_EMULATED_APART void mask_storeu_ps(void* p, __mmask16 mask, __m512 a) {
  for (int i = 0; i < 16; ++i) {
    if (is_set(mask, i)) static_cast<float*>(p)[i] = a[i];
  }
}

OCTAVO_EMULATED __m512 castsi512_ps(__m512i a) { return (__m512)a; }
OCTAVO_EMULATED __m512i castps_si512(__m512 a) { return (__m512i)a; }
OCTAVO_EMULATED __m256 castps512_ps256(__m512 a) { return loaded<__m256>(&a); }
OCTAVO_EMULATED __m256 extractf32x8_ps(__m512 a, int half) {
  return loaded<__m256>(reinterpret_cast<const char*>(&a) + half * sizeof(__m256));
}

OCTAVO_EMULATED __m512 add_ps(__m512 a, __m512 b) { return a + b; }
OCTAVO_EMULATED __m512 sub_ps(__m512 a, __m512 b) { return a - b; }
OCTAVO_EMULATED __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
OCTAVO_EMULATED __m512 div_ps(__m512 a, __m512 b) { return a / b; }
// The second where either is no number.
OCTAVO_EMULATED_APART __m512 max_ps(__m512 a, __m512 b) {
  return lanes<Floats>([=](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
OCTAVO_EMULATED_APART __m512 min_ps(__m512 a, __m512 b) {
  return lanes<Floats>([=](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}
OCTAVO_EMULATED_APART __m512 abs_ps(__m512 a) { return lanes<Floats>([=](int i) { return __builtin_fabsf(a[i]); }); }
OCTAVO_EMULATED_APART __m512 sqrt_ps(__m512 a) {
  return halves<__m512, __m256>(a, [](__m256 half) { return _mm256_sqrt_ps(half); });
}
OCTAVO_EMULATED_APART __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return lanes<Floats>([=](int i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
// To the nearest whole number, the only rounding that is asked for.
OCTAVO_EMULATED_APART __m512 roundscale_ps(__m512 a, int) {
  return halves<__m512, __m256>(
      a, [](__m256 half) { return _mm256_round_ps(half, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); });
}
OCTAVO_EMULATED_APART __mmask16 cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) {
    const bool is_unordered = a[i] != a[i] || b[i] != b[i];
    const bool is_true = predicate == _CMP_LT_OQ ? a[i] < b[i] : predicate == _CMP_GE_OQ ? a[i] >= b[i] : is_unordered;
    mask |= static_cast<unsigned>(is_true) << i;
  }
  return static_cast<__mmask16>(mask);
}
OCTAVO_EMULATED_APART __m512 mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
  return lanes<Floats>([=](int i) { return is_set(mask, i) ? b[i] : a[i]; });
}
OCTAVO_EMULATED __m512 maskz_mov_ps(__mmask16 mask, __m512 a) { return mask_blend_ps(mask, setzero_ps(), a); }
OCTAVO_EMULATED __m512i mask_mov_epi32(__m512i a, __mmask16 mask, __m512i b) {
  return (__m512i)mask_blend_ps(mask, (__m512)a, (__m512)b);
}

OCTAVO_EMULATED __m512i add_epi32(__m512i a, __m512i b) { return (__m512i)((UnsignedWords)a + (UnsignedWords)b); }
OCTAVO_EMULATED __m512i mullo_epi32(__m512i a, __m512i b) { return (__m512i)((UnsignedWords)a * (UnsignedWords)b); }
OCTAVO_EMULATED __m512i add_epi16(__m512i a, __m512i b) { return (__m512i)((UnsignedShorts)a + (UnsignedShorts)b); }
OCTAVO_EMULATED __m512i and_si512(__m512i a, __m512i b) { return a & b; }
OCTAVO_EMULATED __m512i xor_si512(__m512i a, __m512i b) { return a ^ b; }
OCTAVO_EMULATED __m512i slli_epi32(__m512i a, unsigned bits) { return (__m512i)((UnsignedWords)a << bits); }
OCTAVO_EMULATED __m512i srli_epi32(__m512i a, unsigned bits) { return (__m512i)((UnsignedWords)a >> bits); }
OCTAVO_EMULATED_APART __m512i srli_epi16(__m512i a, unsigned bits) {
  return (__m512i)lanes<UnsignedShorts>([=](int i) { return static_cast<uint16_t>(((UnsignedShorts)a)[i] >> bits); });
}
OCTAVO_EMULATED_APART int reduce_add_epi32(__m512i a) {
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += ((UnsignedWords)a)[i];
  return static_cast<int>(sum);
}

OCTAVO_EMULATED_APART __m512i maskz_permutexvar_epi16(__mmask32 mask, __m512i places, __m512i a) {
  return (__m512i)lanes<Shorts>(
      [=](int i) { return is_set(mask, i) ? ((Shorts)a)[((Shorts)places)[i] & 31] : int16_t{0}; });
}
OCTAVO_EMULATED_APART __m512i permutexvar_epi8(__m512i places, __m512i a) {
  return (__m512i)lanes<Bytes>([=](int i) { return ((Bytes)a)[((UnsignedBytes)places)[i] & 63]; });
}
// Within each sixteen bytes.
OCTAVO_EMULATED_APART __m512i shuffle_epi8(__m512i a, __m512i places) {
  return (__m512i)lanes<Bytes>([=](int i) {
    const uint8_t place = ((UnsignedBytes)places)[i];
    return place & 0x80 ? int8_t{0} : ((Bytes)a)[i / 16 * 16 + (place & 15)];
  });
}

OCTAVO_EMULATED __m512 cvtepi32_ps(__m512i a) { return __builtin_convertvector((Words)a, Floats); }
OCTAVO_EMULATED_APART __m512 cvtepu32_ps(__m512i a) {
  return lanes<Floats>([=](int i) { return static_cast<float>(((UnsignedWords)a)[i]); });
}
OCTAVO_EMULATED_APART __m512i cvtps_epi32(__m512 a) {
  return halves<__m512i, __m256>(a, [](__m256 half) { return _mm256_cvtps_epi32(half); });
}
OCTAVO_EMULATED_APART __m512i cvtepu16_epi32(__m256i a) {
  return (__m512i)lanes<Words>([=](int i) { return int32_t{((Vector<uint16_t, 32>)a)[i]}; });
}
OCTAVO_EMULATED_APART __m512i cvtepi8_epi16(__m256i a) {
  return (__m512i)lanes<Shorts>([=](int i) { return int16_t{((Vector<int8_t, 32>)a)[i]}; });
}
OCTAVO_EMULATED_APART __m256i cvtepi32_epi16(__m512i a) {
  return (__m256i)lanes<Vector<int16_t, 32>>([=](int i) { return static_cast<int16_t>(((Words)a)[i]); });
}
OCTAVO_EMULATED_APART __m256i cvtsepi32_epi16(__m512i a) {
  return (__m256i)lanes<Vector<int16_t, 32>>(
      [=](int i) { return static_cast<int16_t>(saturated(((Words)a)[i], INT16_MIN, INT16_MAX)); });
}
OCTAVO_EMULATED_APART __m128i cvtsepi32_epi8(__m512i a) {
  return (__m128i)lanes<Vector<int8_t, 16>>(
      [=](int i) { return static_cast<int8_t>(saturated(((Words)a)[i], INT8_MIN, INT8_MAX)); });
}
OCTAVO_EMULATED_APART __m512 cvtph_ps(__m256i a) {
  return halves<__m512, __m128i>(a, [](__m128i half) { return _mm256_cvtph_ps(half); });
}
// To the nearest number, the only rounding that is asked for.
OCTAVO_EMULATED_APART __m256i cvtps_ph(__m512 a, int) {
  return halves<__m256i, __m256>(
      a, [](__m256 half) { return _mm256_cvtps_ph(half, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); });
}

// Sums of the products of pairs, and of quads of unsigned with signed bytes.
OCTAVO_EMULATED_APART __m512i dpwssd_epi32(__m512i sums, __m512i a, __m512i b) {
  return (__m512i)lanes<Words>([=](int i) {
    uint32_t sum = ((UnsignedWords)sums)[i];
    for (int j = 2 * i; j < 2 * i + 2; ++j) sum += static_cast<uint32_t>(((Shorts)a)[j] * ((Shorts)b)[j]);
    return static_cast<int32_t>(sum);
  });
}
OCTAVO_EMULATED_APART __m512i dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
  return (__m512i)lanes<Words>([=](int i) {
    uint32_t sum = ((UnsignedWords)sums)[i];
    for (int j = 4 * i; j < 4 * i + 4; ++j) sum += static_cast<uint32_t>(((UnsignedBytes)a)[j] * ((Bytes)b)[j]);
    return static_cast<int32_t>(sum);
  });
}

// What bfloat16's products take and give: a number too small to be a normal one is 0.
OCTAVO_EMULATED float flushed(float x) { return __builtin_fabsf(x) < __FLT_MIN__ ? __builtin_copysignf(0.0f, x) : x; }
OCTAVO_EMULATED float widened(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  return flushed(loaded<float>(&bits));
}
OCTAVO_EMULATED_APART __m512 dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
  return lanes<Floats>([=](int i) {
    float sum = flushed(sums[i]);
    for (int j = 2 * i + 1; j >= 2 * i; --j) {
      sum = flushed(__builtin_fmaf(widened(((UnsignedShorts)a)[j]), widened(((UnsignedShorts)b)[j]), sum));
    }
    return sum;
  });
}

}  // namespace octavo_emulated

#define _mm512_set1_ps octavo_emulated::set1_ps
#define _mm512_setzero_ps octavo_emulated::setzero_ps
#define _mm512_set1_epi32 octavo_emulated::set1_epi32
#define _mm512_set1_epi16 octavo_emulated::set1_epi16
#define _mm512_set1_epi8 octavo_emulated::set1_epi8
#undef _mm512_setr_epi32
#define _mm512_setr_epi32 octavo_emulated::setr_epi32
#define _mm512_broadcast_i32x4 octavo_emulated::broadcast_i32x4
#define _mm512_loadu_ps octavo_emulated::loadu_ps
#define _mm512_loadu_si512 octavo_emulated::loadu_si512
#define _mm512_storeu_ps octavo_emulated::storeu_ps
#define _mm512_store_si512 octavo_emulated::store_si512
#define _mm512_maskz_loadu_ps octavo_emulated::maskz_loadu_ps
#define _mm512_maskz_loadu_epi8 octavo_emulated::maskz_loadu_epi8
#define _mm512_mask_storeu_ps octavo_emulated::mask_storeu_ps
#define _mm512_castsi512_ps octavo_emulated::castsi512_ps
#define _mm512_castps_si512 octavo_emulated::castps_si512
#define _mm512_castps512_ps256 octavo_emulated::castps512_ps256
#define _mm512_extractf32x8_ps octavo_emulated::extractf32x8_ps
#define _mm512_add_ps octavo_emulated::add_ps
#define _mm512_sub_ps octavo_emulated::sub_ps
#define _mm512_mul_ps octavo_emulated::mul_ps
#define _mm512_div_ps octavo_emulated::div_ps
#define _mm512_max_ps octavo_emulated::max_ps
#define _mm512_min_ps octavo_emulated::min_ps
#define _mm512_abs_ps octavo_emulated::abs_ps
#define _mm512_sqrt_ps octavo_emulated::sqrt_ps
#define _mm512_fmadd_ps octavo_emulated::fmadd_ps
#define _mm512_roundscale_ps octavo_emulated::roundscale_ps
#define _mm512_cmp_ps_mask octavo_emulated::cmp_ps_mask
#define _mm512_mask_blend_ps octavo_emulated::mask_blend_ps
#define _mm512_maskz_mov_ps octavo_emulated::maskz_mov_ps
#define _mm512_mask_mov_epi32 octavo_emulated::mask_mov_epi32
#define _mm512_add_epi32 octavo_emulated::add_epi32
#define _mm512_mullo_epi32 octavo_emulated::mullo_epi32
#define _mm512_add_epi16 octavo_emulated::add_epi16
#define _mm512_and_si512 octavo_emulated::and_si512
#define _mm512_xor_si512 octavo_emulated::xor_si512
#define _mm512_slli_epi32 octavo_emulated::slli_epi32
#define _mm512_srli_epi32 octavo_emulated::srli_epi32
#define _mm512_srli_epi16 octavo_emulated::srli_epi16
#define _mm512_reduce_add_epi32 octavo_emulated::reduce_add_epi32
#define _mm512_maskz_permutexvar_epi16 octavo_emulated::maskz_permutexvar_epi16
#define _mm512_permutexvar_epi8 octavo_emulated::permutexvar_epi8
#define _mm512_shuffle_epi8 octavo_emulated::shuffle_epi8
#define _mm512_cvtepi32_ps octavo_emulated::cvtepi32_ps
#define _mm512_cvtepu32_ps octavo_emulated::cvtepu32_ps
#define _mm512_cvtps_epi32 octavo_emulated::cvtps_epi32
#define _mm512_cvtepu16_epi32 octavo_emulated::cvtepu16_epi32
#define _mm512_cvtepi8_epi16 octavo_emulated::cvtepi8_epi16
#define _mm512_cvtepi32_epi16 octavo_emulated::cvtepi32_epi16
#define _mm512_cvtsepi32_epi16 octavo_emulated::cvtsepi32_epi16
#define _mm512_cvtsepi32_epi8 octavo_emulated::cvtsepi32_epi8
#define _mm512_cvtph_ps octavo_emulated::cvtph_ps
#define _mm512_cvtps_ph octavo_emulated::cvtps_ph
#define _mm512_dpwssd_epi32 octavo_emulated::dpwssd_epi32
#define _mm512_dpbusd_epi32 octavo_emulated::dpbusd_epi32
#define _mm512_dpbf16_ps octavo_emulated::dpbf16_ps
#define _mm512_load_si512 octavo_emulated::load_si512
