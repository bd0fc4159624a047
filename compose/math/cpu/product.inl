// SPDX-License-Identifier: Apache-2.0
// The f32 panels of product.cc: packing from any dtype and direction, and the
// tile that multiplies them. A panel is [terms][16].
namespace motet::math::cpu::MOTET_ISA {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
inline Vec LoadOf(const float* p) { return Load(p); }
inline Vec LoadOf(const Bf16* p) {
  return Load(reinterpret_cast<const uint16_t*>(p));
}
inline Vec LoadOf(const Half* p) {
  return LoadHalf(reinterpret_cast<const uint16_t*>(p));
}

// Sixteen rows, four words each, become four vectors of sixteen; words are
// f32, or pairs of 16-bit numbers that come apart as even and odd terms.
inline void Unpack(const char* const* rows, const float*, float* to) {
  Vec out[4];
  Turn(rows, out);
  for (int i = 0; i < 4; ++i) Store(to + i * kPanel, out[i]);
}
inline void Unpack(const char* const* rows, const Bf16*, float* to) {
  Vec out[4];
  Turn(rows, out);
  for (int i = 0; i < 4; ++i) {
    Store(to + 2 * i * kPanel, LowBf16(out[i]));
    Store(to + (2 * i + 1) * kPanel, HighBf16(out[i]));
  }
}
inline void Unpack(const char* const* rows, const Half*, float* to) {
  Vec out[4];
  Turn(rows, out);
  for (int i = 0; i < 4; ++i) {
    Store(to + 2 * i * kPanel, LowHalf(out[i]));
    Store(to + (2 * i + 1) * kPanel, HighHalf(out[i]));
  }
}

// dst[k][r] = src[r*stride + k]; rows that are not there repeat the last.
template <typename S>
void PackTurning(const S* src, int64_t stride, int64_t rows, int64_t terms,
                 float* dst) {
  constexpr int64_t kStep = 16 / sizeof(S);
  const char* at[kPanel];
  for (int64_t r = 0; r < kPanel; ++r) {
    at[r] = reinterpret_cast<const char*>(src + (r < rows ? r : rows - 1) *
                                                    stride);
  }
  const int64_t next = kPanel * stride * static_cast<int64_t>(sizeof(S));
  int64_t k = 0;
  for (; k + kStep <= terms; k += kStep) {
    if (k % (64 / sizeof(S)) == 0) {  // the panel after this one, by lines
      for (int64_t r = 0; r < kPanel; ++r) {
        _mm_prefetch(at[r] + next, _MM_HINT_T1);
      }
    }
    Unpack(at, src, dst + k * kPanel);
    for (int64_t r = 0; r < kPanel; ++r) at[r] += 16;
  }
  if (k == terms) return;
  S tail[kPanel][kStep] = {};
  float wide[kStep * kPanel];
  for (int64_t r = 0; r < kPanel; ++r) {
    const S* from = reinterpret_cast<const S*>(at[r]);
    for (int64_t i = 0; i < terms - k; ++i) tail[r][i] = from[i];
    at[r] = reinterpret_cast<const char*>(tail[r]);
  }
  Unpack(at, src, wide);
  for (int64_t i = 0; i < (terms - k) * kPanel; ++i) {
    dst[k * kPanel + i] = wide[i];
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

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
