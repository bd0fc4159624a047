// SPDX-License-Identifier: Apache-2.0
// Up to sixteen rows by panels of bf16 weights where they lie: the rows are
// the lanes, and a word of a column meets all of them. Nothing is turned but
// the sums at the end. One row leaves three lanes of four empty and is still
// faster than with weights turned, sixteen columns a register: decoding waits
// for memory. Same sums as the tile. Included inside the namespaces of
// kernels_avx512bf16.cc.

// As many lanes as there are rows, no more.
struct Lanes4 {
  using Sum = __m128;
  static Sum Zero() { return _mm_setzero_ps(); }
  static Sum Load(const float* p) { return _mm_loadu_ps(p); }
  static Sum Multiply(Sum sum, Sum rows, int word) {
    return _mm_dpbf16_ps(sum, reinterpret_cast<__m128bh>(rows),
                         reinterpret_cast<__m128bh>(_mm_set1_epi32(word)));
  }
};
struct Lanes8 {
  using Sum = __m256;
  static Sum Zero() { return _mm256_setzero_ps(); }
  static Sum Load(const float* p) { return _mm256_loadu_ps(p); }
  static Sum Multiply(Sum sum, Sum rows, int word) {
    return _mm256_dpbf16_ps(
        sum, reinterpret_cast<__m256bh>(rows),
        reinterpret_cast<__m256bh>(_mm256_set1_epi32(word)));
  }
};
struct Lanes16 {
  using Sum = __m512;
  static Sum Zero() { return _mm512_setzero_ps(); }
  static Sum Load(const float* p) { return _mm512_loadu_ps(p); }
  static Sum Multiply(Sum sum, Sum rows, int word) {
    return _mm512_dpbf16_ps(
        sum, reinterpret_cast<__m512bh>(rows),
        reinterpret_cast<__m512bh>(_mm512_set1_epi32(word)));
  }
};

// Lanes behind the last row hold whatever follows in a (which is packed with
// room for sixteen rows): they are never stored.
template <typename L>
void LanesOf(const float* a, int64_t a_stride, int64_t rows, const Bf16* w,
             int64_t stride, int64_t terms, float* c, int64_t c_stride) {
  typename L::Sum sum[kPanel];
  for (int n = 0; n < kPanel; ++n) sum[n] = L::Zero();
  // Few registers hold all addresses.
  const Bf16* quarter[4] = {w, w + 4 * stride, w + 8 * stride,
                            w + 12 * stride};
  const int64_t triple = 3 * stride;
  const auto at = [&](int n) {
    const int i = n % 4;
    return quarter[n / 4] + (i == 3 ? triple : i * stride);
  };
  constexpr int64_t kLine = 32;  // terms of a line of memory
  int64_t k = 0;
  for (; k + kLine <= terms; k += kLine) {
    Expect(reinterpret_cast<const char*>(w + k), 2 * stride);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLine / 2; ++i) {
      const typename L::Sum in = L::Load(a + i * a_stride);
#pragma GCC unroll 16
      for (int n = 0; n < kPanel; ++n) {
        int word;
        __builtin_memcpy(&word, at(n) + 2 * i, sizeof(word));
        sum[n] = L::Multiply(sum[n], in, word);
      }
    }
    a += kLine / 2 * a_stride;
    for (const Bf16*& q : quarter) q += kLine;
  }
  for (; k < terms; k += 2, a += a_stride) {
    const typename L::Sum in = L::Load(a);
    for (int n = 0; n < kPanel; ++n) {
      int word = at(n)->bits;
      if (k + 1 < terms) __builtin_memcpy(&word, at(n), sizeof(word));
      sum[n] = L::Multiply(sum[n], in, word);
    }
    for (const Bf16*& q : quarter) q += 2;
  }
  alignas(64) float out[kPanel][kPanel];
  for (int n = 0; n < kPanel; ++n) {
    __builtin_memcpy(out[n], &sum[n], sizeof(sum[n]));
  }
  for (int64_t r = 0; r < rows; r += 4) {
    Vec turned[4];
    TurnAt(reinterpret_cast<const char*>(&out[0][r]), sizeof(out[0]), turned);
    for (int64_t i = 0; i < 4 && r + i < rows; ++i) {
      Store(c + (r + i) * c_stride, turned[i]);
    }
  }
}

template <typename L>
void LanesPair(const float* a, int64_t a_stride, int64_t rows, const Bf16* w,
               int64_t stride, int64_t terms, float* c, int64_t c_stride) {
  for (int64_t n = 0; n < kDirectPanels * kPanel; n += kPanel) {
    LanesOf<L>(a, a_stride, rows, w + n * stride, stride, terms, c + n,
               c_stride);
  }
}

void LanesRows(const float* a, int64_t a_stride, int64_t rows, const Bf16* w,
               int64_t stride, int64_t terms, float* c, int64_t c_stride) {
  const auto form = rows <= 4   ? LanesPair<Lanes4>
                    : rows <= 8 ? LanesPair<Lanes8>
                                : LanesPair<Lanes16>;
  form(a, a_stride, rows, w, stride, terms, c, c_stride);
}

// More rows by sixteen columns, rows as lanes as well: weights that each
// serve few rows are not worth packing. P panels of rows by eight columns are
// the tile's shape with its sides changed.
template <int P>
void WideHalf(const float* a, int64_t panel, const Bf16* w, int64_t stride,
              int64_t terms, float* out) {
  constexpr int kColumns = kPanel / 2;
  __m512 sum[kColumns][P];
  for (int n = 0; n < kColumns; ++n) {
    for (int p = 0; p < P; ++p) sum[n][p] = _mm512_setzero_ps();
  }
  const Bf16* half[2] = {w, w + 4 * stride};
  const int64_t triple = 3 * stride;
  for (int64_t k = 0; k < terms; k += 2, a += kPanel) {
    if (k % 32 == 0) {
      for (int n = 0; n < kColumns; ++n) {
        _mm_prefetch(reinterpret_cast<const char*>(w + k + (kPanel + n) *
                                                               stride),
                     _MM_HINT_T1);
      }
    }
    __m512bh in[P];
    for (int p = 0; p < P; ++p) {
      in[p] = reinterpret_cast<__m512bh>(_mm512_load_ps(a + p * panel));
    }
    for (int n = 0; n < kColumns; ++n) {
      const int i = n % 4;
      int word;
      __builtin_memcpy(&word, half[n / 4] + (i == 3 ? triple : i * stride),
                       sizeof(word));
      const __m512bh column =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(word));
      for (int p = 0; p < P; ++p) {
        sum[n][p] = _mm512_dpbf16_ps(sum[n][p], in[p], column);
      }
    }
    half[0] += 2;
    half[1] += 2;
  }
  for (int n = 0; n < kColumns; ++n) {
    for (int p = 0; p < P; ++p) {
      _mm512_store_ps(out + (p * kPanel + n) * kPanel, sum[n][p]);
    }
  }
}

template <int P>
void WideOf(const float* a, int64_t panel, int64_t rows, const Bf16* w,
            int64_t stride, int64_t terms, float* c, int64_t c_stride) {
  alignas(64) float out[P * kPanel][kPanel];  // [panel][column][row]
  constexpr int64_t kHalf = kPanel / 2;
  WideHalf<P>(a, panel, w, stride, terms, out[0]);
  WideHalf<P>(a, panel, w + kHalf * stride, stride, terms, out[kHalf]);
  for (int64_t r = 0; r < rows; r += 4) {
    Vec turned[4];
    TurnAt(reinterpret_cast<const char*>(&out[r / kPanel * kPanel][r % kPanel]),
           sizeof(out[0]), turned);
    for (int64_t i = 0; i < 4 && r + i < rows; ++i) {
      Store(c + (r + i) * c_stride, turned[i]);
    }
  }
}

void Wide(const float* a, int64_t panel, int64_t rows, const void* weights,
          int64_t stride, int64_t terms, float* c, int64_t c_stride) {
  const Bf16* w = static_cast<const Bf16*>(weights);
  if (rows > 2 * kPanel) {
    return WideOf<3>(a, panel, rows, w, stride, terms, c, c_stride);
  }
  if (rows > kPanel) {
    return WideOf<2>(a, panel, rows, w, stride, terms, c, c_stride);
  }
  WideOf<1>(a, panel, rows, w, stride, terms, c, c_stride);
}
