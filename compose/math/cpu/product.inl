// SPDX-License-Identifier: Apache-2.0
// The f32 panels of product.cc: packing from any dtype and direction, and the
// tile that multiplies them. A panel is [terms][16].
namespace motet::math::cpu::MOTET_ISA {
namespace {

inline Vec LoadOf(const float* p) { return Load(p); }
inline Vec LoadOf(const Bf16* p) {
  return Load(reinterpret_cast<const uint16_t*>(p));
}
inline Vec LoadOf(const Half* p) {
  return LoadHalf(reinterpret_cast<const uint16_t*>(p));
}

// Four words of sixteen rows are 16 / sizeof(S) terms: words are f32, or
// pairs of 16-bit numbers that come apart as even and odd terms.
template <typename S>
constexpr int64_t kStep = 16 / sizeof(S);

inline void Terms(const Vec words[4], const float*, Vec out[4]) {
  for (int i = 0; i < 4; ++i) out[i] = words[i];
}
inline void Terms(const Vec words[4], const Bf16*, Vec out[8]) {
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = LowBf16(words[i]);
    out[2 * i + 1] = HighBf16(words[i]);
  }
}
inline void Terms(const Vec words[4], const Half*, Vec out[8]) {
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = LowHalf(words[i]);
    out[2 * i + 1] = HighHalf(words[i]);
  }
}

// The last terms of sixteen rows, fewer than a step; rows that are not there
// repeat the last.
template <typename S>
inline void TailTerms(const S* src, int64_t stride, int64_t rows,
                      int64_t terms, Vec out[kStep<S>]) {
  S tail[kPanel][kStep<S>] = {};
  for (int64_t r = 0; r < kPanel; ++r) {
    const S* from = src + (r < rows ? r : rows - 1) * stride;
    for (int64_t i = 0; i < terms; ++i) tail[r][i] = from[i];
  }
  Vec words[4];
  TurnAt(reinterpret_cast<const char*>(tail), 16, words);
  Terms(words, src, out);
}

// dst[k][r] = src[r*stride + k]; rows that are not there repeat the last.
template <typename S>
void PackTurning(const S* src, int64_t stride, int64_t rows, int64_t terms,
                 float* dst) {
  constexpr int64_t kSize = sizeof(S);
  Vec words[4], out[kStep<S>];
  int64_t k = 0;
  const char* at[kPanel];
  for (int64_t r = 0; r < kPanel; ++r) {
    at[r] = reinterpret_cast<const char*>(src + (r < rows ? r : rows - 1) *
                                                    stride);
  }
  for (; k + kStep<S> <= terms; k += kStep<S>) {
    const char* first = reinterpret_cast<const char*>(src + k);
    if (k * kSize % 64 == 0) Expect(first, stride * kSize);
    if (rows == kPanel) {
      TurnAt(first, stride * kSize, words);
    } else {
      Turn(at, words);
      for (int64_t r = 0; r < kPanel; ++r) at[r] += 16;
    }
    Terms(words, src, out);
    for (int64_t i = 0; i < kStep<S>; ++i) {
      Store(dst + (k + i) * kPanel, out[i]);
    }
  }
  if (k == terms) return;
  TailTerms(src + k, stride, rows, terms - k, out);
  for (int64_t i = 0; i < terms - k; ++i) {
    Store(dst + (k + i) * kPanel, out[i]);
  }
}

// dst[k][r] = src[k*stride + r], in panels of sixteen rows
template <typename S>
void PackStraight(const S* src, int64_t stride, int64_t rows, int64_t terms,
                  float* dst, int64_t panel) {
  const int64_t whole = rows / kPanel;
  for (int64_t k = 0; k < terms; ++k) {
    const S* from = src + k * stride;
    float* to = dst + k * kPanel;
    for (int64_t p = 0; p < whole; ++p) {
      Store(to + p * panel, LoadOf(from + p * kPanel));
    }
    if (rows == whole * kPanel) continue;
    S part[kPanel] = {};
    for (int64_t r = whole * kPanel; r < rows; ++r) {
      part[r - whole * kPanel] = from[r];
    }
    Store(to + whole * panel, LoadOf(part));
  }
}

void PackF32(const void* src, DType dtype, int64_t stride, int64_t rows,
             int64_t terms, float* dst) {
  switch (dtype) {
    case DType::kBF16:
      return PackTurning(static_cast<const Bf16*>(src), stride, rows, terms,
                         dst);
    case DType::kF16:
      return PackTurning(static_cast<const Half*>(src), stride, rows, terms,
                         dst);
    default:
      return PackTurning(static_cast<const float*>(src), stride, rows, terms,
                         dst);
  }
}

void PackTurnedF32(const void* src, DType dtype, int64_t stride, int64_t rows,
                   int64_t terms, float* dst, int64_t panel) {
  switch (dtype) {
    case DType::kBF16:
      return PackStraight(static_cast<const Bf16*>(src), stride, rows, terms,
                          dst, panel);
    case DType::kF16:
      return PackStraight(static_cast<const Half*>(src), stride, rows, terms,
                          dst, panel);
    default:
      return PackStraight(static_cast<const float*>(src), stride, rows, terms,
                          dst, panel);
  }
}

// R rows by P panels.
struct F32Tile {
  template <int R, int P>
  static void Run(const float* a, const float* b, int64_t panel,
                  int64_t terms, bool add, float* c, int64_t stride) {
    Vec sum[R][P];
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) {
        sum[r][p] = add ? Load(c + r * stride + p * kPanel) : Zero();
      }
    }
    for (int64_t k = 0; k < terms; ++k) {
      Vec col[P];
      for (int p = 0; p < P; ++p) col[p] = Load(b + p * panel + k * kPanel);
      for (int r = 0; r < R; ++r) {
        const Vec row = Set(a[k * kPanel + r]);
        for (int p = 0; p < P; ++p) sum[r][p] = Fma(row, col[p], sum[r][p]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) {
        Store(c + r * stride + p * kPanel, sum[r][p]);
      }
    }
  }
};

// R rows times a panel of weights that are read once and never stored: the
// form for a few rows, bound by memory. Same sums as the tile.
template <int R, typename S>
void DirectF32Of(const float* a, int64_t a_stride, const S* w, int64_t stride,
                 int64_t terms, float* c, int64_t c_stride) {
  constexpr int64_t kSize = sizeof(S);
  Vec sum[R];
  for (int r = 0; r < R; ++r) sum[r] = Zero();
  const auto add = [&](int64_t k, const Vec* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      for (int r = 0; r < R; ++r) {
        sum[r] = Fma(Set(a[(k + i) * a_stride + r]), out[i], sum[r]);
      }
    }
  };
  Vec words[4], out[kStep<S>];
  int64_t k = 0;
  for (; k + kStep<S> <= terms; k += kStep<S>) {
    const char* first = reinterpret_cast<const char*>(w + k);
    if (k * kSize % 64 == 0) Expect(first, stride * kSize);
    TurnAt(first, stride * kSize, words);
    Terms(words, w, out);
    add(k, out, kStep<S>);
  }
  if (k < terms) {
    TailTerms(w + k, stride, kPanel, terms - k, out);
    add(k, out, terms - k);
  }
  for (int r = 0; r < R; ++r) Store(c + r * c_stride, sum[r]);
}

template <typename S>
struct DirectF32Form {
  template <int R>
  static void Run(const float* a, int64_t a_stride, const S* w,
                  int64_t stride, int64_t terms, float* c, int64_t c_stride) {
    DirectF32Of<R>(a, a_stride, w, stride, terms, c, c_stride);
  }
};

void PackCloseF32(const float* src, int64_t stride, int64_t rows,
                  int64_t terms, float* dst) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < terms; ++k) dst[k * rows + r] = src[r * stride + k];
  }
}

void DirectF32(const float* a, int64_t a_stride, int64_t rows, const void* w,
               DType dtype, int64_t stride, int64_t terms, float* c,
               int64_t c_stride) {
  switch (dtype) {
    case DType::kBF16:
      return DirectRows<DirectF32Form<Bf16>>(
          a, a_stride, rows, static_cast<const Bf16*>(w), stride, terms, c,
          c_stride);
    case DType::kF16:
      return DirectRows<DirectF32Form<Half>>(
          a, a_stride, rows, static_cast<const Half*>(w), stride, terms, c,
          c_stride);
    default:
      return DirectRows<DirectF32Form<float>>(
          a, a_stride, rows, static_cast<const float*>(w), stride, terms, c,
          c_stride);
  }
}

// The same sums over rows that lie as the tile wants them.
template <typename S>
struct StraightF32Form {
  template <int R, int P>
  static void Run(const float* a, const S* v, int64_t stride, int64_t terms,
                  float* c, int64_t c_stride) {
    Vec sum[R][P];
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) sum[r][p] = Load(c + r * c_stride + p * kPanel);
    }
    for (int64_t k = 0; k < terms; ++k) {
      for (int p = 0; p < P; ++p) {
        const Vec col = LoadOf(v + k * stride + p * kPanel);
        for (int r = 0; r < R; ++r) {
          sum[r][p] = Fma(Set(a[k * kPanel + r]), col, sum[r][p]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) Store(c + r * c_stride + p * kPanel, sum[r][p]);
    }
  }
};

void StraightF32(const float* a, int64_t rows, const void* v, DType dtype,
                 int64_t stride, int64_t terms, int64_t cols, float* c,
                 int64_t c_stride) {
  if (dtype == DType::kBF16) {
    return StraightRows<StraightF32Form<Bf16>>(
        a, rows, static_cast<const Bf16*>(v), stride, terms, cols, c,
        c_stride);
  }
  StraightRows<StraightF32Form<float>>(a, rows, static_cast<const float*>(v),
                                       stride, terms, cols, c, c_stride);
}

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
