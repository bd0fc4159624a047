// SPDX-License-Identifier: Apache-2.0
// bf16 products for AVX-512 with AVX512_BF16; the rest of this set is
// AVX-512's. Nothing but intrinsics and our own file-local functions (see
// kernels_avx512.cc). A word holds terms 2i (low half) and 2i + 1; an odd
// end is padded with zero.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "compose/math/cpu/isa.h"

#define MOTET_ISA avx512bf16
#include "compose/math/cpu/vec_avx512.inl"
#define MOTET_DIRECT_ROWS 16
#include "compose/math/cpu/turn.inl"

namespace motet::math::cpu::avx512bf16 {
namespace {

// Eight numbers become four words of pairs.
inline __m128 Narrow8(__m256 v) {
  return reinterpret_cast<__m128>(_mm256_cvtneps_pbh(v));
}
inline __m128 Words(const float* p) { return Narrow8(_mm256_loadu_ps(p)); }
template <typename S>
constexpr bool kIsBf16 = false;
template <>
constexpr bool kIsBf16<Bf16> = true;
inline __m128 Words(const Bf16* p) {
  return _mm_loadu_ps(reinterpret_cast<const float*>(p));
}
inline __m128 Words(const Half* p) {
  return Narrow8(_mm256_cvtph_ps(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// Eight terms of sixteen rows `stride` apart, to four words each.
template <typename S>
inline void Turn8(const S* first, int64_t stride, Vec out[4]) {
  if constexpr (kIsBf16<S>) {
    TurnAt(reinterpret_cast<const char*>(first), 2 * stride, out);
  } else {
    TurnFrom([&](int r) { return Words(first + r * stride); }, out);
  }
}

// Sixteen f32 terms of sixteen rows, to eight words each: two rows are rounded
// at a time, then both halves of the registers are turned, eight by eight.
inline void Turn16(const float* first, int64_t stride, Vec out[8]) {
  __m512 rows[8], quads[8];
  for (int i = 0; i < 8; ++i) {
    rows[i] = reinterpret_cast<__m512>(
        _mm512_cvtne2ps_pbh(_mm512_loadu_ps(first + (i + 8) * stride),
                            _mm512_loadu_ps(first + i * stride)));
  }
  // quads[w] and quads[4 + w]: words w and, a lane on, w + 4 of rows 0-3 and
  // of rows 4-7 (and of those eight further).
  for (int half = 0; half < 2; ++half) {
    const __m512* r = rows + 4 * half;
    const __m512 a = _mm512_unpacklo_ps(r[0], r[1]);
    const __m512 b = _mm512_unpackhi_ps(r[0], r[1]);
    const __m512 c = _mm512_unpacklo_ps(r[2], r[3]);
    const __m512 d = _mm512_unpackhi_ps(r[2], r[3]);
    quads[4 * half] = _mm512_shuffle_ps(a, c, 0x44);
    quads[4 * half + 1] = _mm512_shuffle_ps(a, c, 0xee);
    quads[4 * half + 2] = _mm512_shuffle_ps(b, d, 0x44);
    quads[4 * half + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (int w = 0; w < 4; ++w) {
    const __m512d low = _mm512_castps_pd(quads[w]);
    const __m512d high = _mm512_castps_pd(quads[4 + w]);
    out[w] = {_mm512_castpd_ps(_mm512_permutex2var_pd(low, even, high))};
    out[4 + w] = {_mm512_castpd_ps(_mm512_permutex2var_pd(low, odd, high))};
  }
}

// Turn8 for any rows and terms: what is not there is zero.
template <typename S>
inline void TurnSome(const S* first, int64_t stride, int64_t rows,
                     int64_t terms, Vec out[4]) {
  S some[kPanel][8] = {};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < terms; ++i) some[r][i] = first[r * stride + i];
  }
  Turn8(&some[0][0], 8, out);
}

// Up to this many rows are written word by word: turning sixteen would mostly
// turn what is not there.
constexpr int64_t kFewRows = 4;

// dst[word*apart + row] of f32 rows.
void PackApart(const float* src, int64_t stride, int64_t rows, int64_t terms,
               int64_t apart, float* dst) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = src + r * stride;
    for (int64_t k = 0; k < terms; k += 16) {
      const int64_t n = terms - k < 16 ? terms - k : 16;
      const __m256i words = reinterpret_cast<__m256i>(
          _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(First(n), from + k)));
      if (apart == 1 && n == 16) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + k / 2), words);
        continue;
      }
      alignas(32) float one[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(one), words);
      for (int64_t i = 0; i < (n + 1) / 2; ++i) {
        dst[(k / 2 + i) * apart + r] = one[i];
      }
    }
  }
}

void PackClose(const float* src, int64_t stride, int64_t rows, int64_t terms,
               float* dst) {
  PackApart(src, stride, rows, terms, rows, dst);
}

template <typename S>
void PackRows(const S* src, int64_t stride, int64_t rows, int64_t terms,
              float* dst) {
  constexpr int64_t kSize = sizeof(S);
  int64_t k = 0;
  if constexpr (kSize == sizeof(float)) {
    for (; rows == kPanel && k + 16 <= terms; k += 16) {
      Expect(reinterpret_cast<const char*>(src + k), stride * kSize);
      Vec out[8];
      Turn16(src + k, stride, out);
      for (int64_t i = 0; i < 8; ++i) Store(dst + (k / 2 + i) * kPanel, out[i]);
    }
  }
  for (; k < terms; k += 8) {
    if (k * kSize % 64 == 0) {
      Expect(reinterpret_cast<const char*>(src + k), stride * kSize);
    }
    const int64_t n = terms - k < 8 ? terms - k : 8;
    Vec out[4];
    if (rows == kPanel && n == 8) {
      Turn8(src + k, stride, out);
    } else {
      TurnSome(src + k, stride, rows, n, out);
    }
    for (int64_t i = 0; i < (n + 1) / 2; ++i) {
      Store(dst + (k / 2 + i) * kPanel, out[i]);
    }
  }
}

// Sixteen numbers of one term beside sixteen of the next: words of pairs.
inline __m512i Interleave(__m512i even_then_odd) {
  alignas(64) static const uint16_t order[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), even_then_odd);
}
inline __m512i Pairs(const float* even, const float* odd) {
  return Interleave(reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(_mm512_loadu_ps(odd), _mm512_loadu_ps(even))));
}
inline __m512i Pairs(const Bf16* even, const Bf16* odd) {
  return Interleave(_mm512_inserti64x4(
      _mm512_castsi256_si512(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(even))),
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)), 1));
}
inline __m512i Pairs(const Half* even, const Half* odd) {
  const auto wide = [](const Half* p) {
    return _mm512_cvtph_ps(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  return Interleave(reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(wide(odd), wide(even))));
}

template <typename S>
void PackColumns(const S* src, int64_t stride, int64_t rows, int64_t terms,
                 float* dst, int64_t panel) {
  const int64_t whole = rows / kPanel, rest = rows - whole * kPanel;
  const S none[kPanel] = {};
  for (int64_t k = 0; k < terms; k += 2) {
    const S* from = src + k * stride;
    const int64_t next = k + 1 < terms ? stride : 0;  // 0: no odd term
    float* to = dst + k / 2 * kPanel;
    for (int64_t p = 0; p < whole; ++p, from += kPanel) {
      _mm512_storeu_si512(to + p * panel,
                          Pairs(from, next != 0 ? from + next : none));
    }
    if (rest > 0) {
      S even[kPanel] = {}, odd[kPanel] = {};
      for (int64_t r = 0; r < rest; ++r) {
        even[r] = from[r];
        if (next != 0) odd[r] = from[next + r];
      }
      _mm512_storeu_si512(to + whole * panel, Pairs(even, odd));
    }
  }
}

void Pack(const void* src, DType dtype, int64_t stride, int64_t rows,
          int64_t terms, float* dst) {
  switch (dtype) {
    case DType::kBF16:
      return PackRows(static_cast<const Bf16*>(src), stride, rows, terms,
                      dst);
    case DType::kF16:
      return PackRows(static_cast<const Half*>(src), stride, rows, terms,
                      dst);
    default:
      if (rows <= kFewRows) {
        return PackApart(static_cast<const float*>(src), stride, rows, terms,
                         kPanel, dst);
      }
      return PackRows(static_cast<const float*>(src), stride, rows, terms,
                      dst);
  }
}

void PackTurned(const void* src, DType dtype, int64_t stride, int64_t rows,
                int64_t terms, float* dst, int64_t panel) {
  switch (dtype) {
    case DType::kBF16:
      return PackColumns(static_cast<const Bf16*>(src), stride, rows, terms,
                         dst, panel);
    case DType::kF16:
      return PackColumns(static_cast<const Half*>(src), stride, rows, terms,
                         dst, panel);
    default:
      return PackColumns(static_cast<const float*>(src), stride, rows, terms,
                         dst, panel);
  }
}

struct Bf16Tile {
  template <int R, int P>
  static void Run(const float* a, const float* b, int64_t panel,
                  int64_t terms, bool add, float* c, int64_t stride) {
    __m512 sum[R][P];
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) {
        sum[r][p] = add ? _mm512_loadu_ps(c + r * stride + p * kPanel)
                        : _mm512_setzero_ps();
      }
    }
    const int64_t words = (terms + 1) / 2;
    for (int64_t k = 0; k < words; ++k) {
      __m512bh col[P];
      for (int p = 0; p < P; ++p) {
        col[p] = reinterpret_cast<__m512bh>(
            _mm512_load_ps(b + p * panel + k * kPanel));
      }
      for (int r = 0; r < R; ++r) {
        const __m512bh row =
            reinterpret_cast<__m512bh>(_mm512_set1_ps(a[k * kPanel + r]));
        for (int p = 0; p < P; ++p) {
          sum[r][p] = _mm512_dpbf16_ps(sum[r][p], col[p], row);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) {
        _mm512_storeu_ps(c + r * stride + p * kPanel, sum[r][p]);
      }
    }
  }
};

// A few rows by a panel of weights that are read once (product.inl) and, f32
// or f16, rounded.
template <int R, typename S>
void DirectOf(const float* a, int64_t a_stride, const S* w, int64_t stride,
              int64_t terms, float* c, int64_t c_stride) {
  constexpr int64_t kSize = sizeof(S);
  __m512 sum[R];
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (int64_t k = 0; k < terms; k += 8) {
    const int64_t n = terms - k < 8 ? terms - k : 8;
    if (k * kSize % 64 == 0) {
      Expect(reinterpret_cast<const char*>(w + k), stride * kSize);
    }
    Vec out[4];
    if (n == 8) {
      Turn8(w + k, stride, out);
    } else {
      TurnSome(w + k, stride, kPanel, n, out);
    }
    for (int64_t i = 0; i < (n + 1) / 2; ++i) {
      for (int r = 0; r < R; ++r) {
        sum[r] = _mm512_dpbf16_ps(
            sum[r], reinterpret_cast<__m512bh>(out[i].v),
            reinterpret_cast<__m512bh>(
                _mm512_set1_ps(a[(k / 2 + i) * a_stride + r])));
      }
    }
  }
  for (int r = 0; r < R; ++r) _mm512_storeu_ps(c + r * c_stride, sum[r]);
}

template <typename S>
struct DirectForm {
  template <int R>
  static void Run(const float* a, int64_t a_stride, const S* w,
                  int64_t stride, int64_t terms, float* c, int64_t c_stride) {
    DirectOf<R>(a, a_stride, w, stride, terms, c, c_stride);
  }
};

#include "compose/math/cpu/lanes_avx512bf16.inl"

void Direct(const float* a, int64_t a_stride, int64_t rows, const void* w,
            DType dtype, int64_t stride, int64_t terms, float* c,
            int64_t c_stride) {
  switch (dtype) {
    case DType::kBF16:
      return LanesRows(a, a_stride, rows, static_cast<const Bf16*>(w), stride,
                       terms, c, c_stride);
    case DType::kF16:
      return DirectRows<DirectForm<Half>>(
          a, a_stride, rows, static_cast<const Half*>(w), stride, terms, c,
          c_stride);
    default:
      return DirectRows<DirectForm<float>>(
          a, a_stride, rows, static_cast<const float*>(w), stride, terms, c,
          c_stride);
  }
}

// The same with bf16 weights turned, too: a quarter of the products for one
// row, for more shuffles.
void DirectTurned(const float* a, int64_t a_stride, int64_t rows,
                  const void* w, DType dtype, int64_t stride, int64_t terms,
                  float* c, int64_t c_stride) {
  if (dtype != DType::kBF16) {
    return Direct(a, a_stride, rows, w, dtype, stride, terms, c, c_stride);
  }
  DirectRows<DirectForm<Bf16>>(a, a_stride, rows, static_cast<const Bf16*>(w),
                               stride, terms, c, c_stride);
}

// A few rows by rows of v where they lie, two of them a word.
template <typename S>
struct StraightForm {
  template <int R, int P>
  static void Run(const float* a, const S* v, int64_t stride, int64_t terms,
                  float* c, int64_t c_stride) {
    const S none[kPanel] = {};
    __m512 sum[R][P];
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) {
        sum[r][p] = _mm512_loadu_ps(c + r * c_stride + p * kPanel);
      }
    }
    for (int64_t k = 0; k < terms; k += 2) {
      for (int p = 0; p < P; ++p) {
        const S* even = v + k * stride + p * kPanel;
        const __m512bh col = reinterpret_cast<__m512bh>(
            Pairs(even, k + 1 < terms ? even + stride : none));
        for (int r = 0; r < R; ++r) {
          sum[r][p] = _mm512_dpbf16_ps(
              sum[r][p], col,
              reinterpret_cast<__m512bh>(
                  _mm512_set1_ps(a[k / 2 * kPanel + r])));
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) {
        _mm512_storeu_ps(c + r * c_stride + p * kPanel, sum[r][p]);
      }
    }
  }
};

void Straight(const float* a, int64_t rows, const void* v, DType dtype,
              int64_t stride, int64_t terms, int64_t cols, float* c,
              int64_t c_stride) {
  if (dtype == DType::kBF16) {
    return StraightRows<StraightForm<Bf16>>(a, rows,
                                            static_cast<const Bf16*>(v),
                                            stride, terms, cols, c, c_stride);
  }
  StraightRows<StraightForm<float>>(a, rows, static_cast<const float*>(v),
                                    stride, terms, cols, c, c_stride);
}

#include "compose/math/cpu/tile_avx512.inl"

const PanelOps kPanels = {2,
                          1536,
                          kDirectRows,
                          {1, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3},
                          Pack,
                          PackTurned,
                          TileOf<Bf16Tile>,
                          PackClose,
                          Direct,
                          Straight,
                          Wide};

}  // namespace
}  // namespace motet::math::cpu::avx512bf16

namespace motet::math::cpu {

const Isa& Avx512Bf16(bool fast) {
  const auto make = [](auto* direct) {
    Isa set = Avx512();
    set.name = "avx512bf16";
    set.bf16 = avx512bf16::kPanels;
    set.bf16.direct = direct;
    return set;
  };
  static const Isa quick = make(avx512bf16::Direct);
  static const Isa slow = make(avx512bf16::DirectTurned);
  return fast ? quick : slow;
}

}  // namespace motet::math::cpu
