// SPDX-License-Identifier: Apache-2.0
// 16 float lanes in two registers. Same functions and bits as
// vec_avx512.inl.
namespace motet::math::cpu::MOTET_ISA {
namespace {

struct Vec {
  __m256 a, b;  // lanes 0-7, 8-15
};

inline __m256i First(int64_t n) {  // n is clamped to [0, 8]
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int count = n < 0 ? 0 : n > 8 ? 8 : static_cast<int>(n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
}
inline Vec Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec Set(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
inline Vec Load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline Vec LoadFirst(const float* p, int64_t n) {  // zeros behind; n < 16
  return {_mm256_maskload_ps(p, First(n)),
          _mm256_maskload_ps(p + 8, First(n - 8))};
}
inline __m256 Widen(__m128i bits) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vec Load(const uint16_t* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {Widen(_mm_loadu_si128(q)), Widen(_mm_loadu_si128(q + 1))};
}
inline Vec LoadFirst(const uint16_t* p, int64_t n) {
  uint16_t padded[16] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
  return Load(padded);
}
inline void Store(float* p, Vec v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
inline void StoreFirst(float* p, Vec v, int64_t n) {
  _mm256_maskstore_ps(p, First(n), v.a);
  _mm256_maskstore_ps(p + 8, First(n - 8), v.b);
}
inline Vec Add(Vec x, Vec y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline Vec Sub(Vec x, Vec y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline Vec Mul(Vec x, Vec y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline Vec Div(Vec x, Vec y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline Vec Fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Vec Sqrt(Vec x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
// NaN in y comes through.
inline Vec Max(Vec x, Vec y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline Vec Min(Vec x, Vec y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline Vec Round(Vec x) {
  return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)};
}
inline __m256 ScaleHalf(__m256 x, __m256 n) {
  const __m256i e =
      _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}
// x * 2^n for whole n in [-126, 127]
inline Vec Scale(Vec x, Vec n) {
  return {ScaleHalf(x.a, n.a), ScaleHalf(x.b, n.b)};
}
// y where !(x < limit), else 0
inline Vec ZeroBelow(Vec x, float limit, Vec y) {
  const __m256 l = _mm256_set1_ps(limit);
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, l, _CMP_NLT_UQ), y.a),
          _mm256_and_ps(_mm256_cmp_ps(x.b, l, _CMP_NLT_UQ), y.b)};
}
// Lanes from n on become `rest`; n may be outside [0, 16].
inline Vec KeepFirst(Vec x, int64_t n, float rest) {
  if (n >= kLanes) return x;
  const __m256 r = _mm256_set1_ps(rest);
  return {_mm256_blendv_ps(r, x.a, _mm256_castsi256_ps(First(n))),
          _mm256_blendv_ps(r, x.b, _mm256_castsi256_ps(First(n - 8)))};
}
// f16, sixteen of them.
inline Vec LoadHalf(const uint16_t* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)),
          _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
// The halves of sixteen 32-bit words, widened.
inline Vec LowBf16(Vec v) {
  const auto low = [](__m256 x) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_castps_si256(x), 16));
  };
  return {low(v.a), low(v.b)};
}
inline Vec HighBf16(Vec v) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(-65536));
  return {_mm256_and_ps(v.a, mask), _mm256_and_ps(v.b, mask)};
}
inline __m256 HalfWords(__m256i words) {  // below 2^16 each
  return _mm256_cvtph_ps(_mm_packus_epi32(
      _mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline Vec LowHalf(Vec v) {
  const __m256i mask = _mm256_set1_epi32(0xffff);
  return {HalfWords(_mm256_and_si256(_mm256_castps_si256(v.a), mask)),
          HalfWords(_mm256_and_si256(_mm256_castps_si256(v.b), mask))};
}
inline Vec HighHalf(Vec v) {
  return {HalfWords(_mm256_srli_epi32(_mm256_castps_si256(v.a), 16)),
          HalfWords(_mm256_srli_epi32(_mm256_castps_si256(v.b), 16))};
}
template <typename Load4>
inline void TurnHalf(const Load4& load, int first, __m256 out[4]) {
  __m256 quad[4];
  for (int i = 0; i < 4; ++i) {
    quad[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(load(first + i)),
                                   load(first + i + 4), 1);
  }
  const __m256 a = _mm256_unpacklo_ps(quad[0], quad[1]);
  const __m256 b = _mm256_unpackhi_ps(quad[0], quad[1]);
  const __m256 c = _mm256_unpacklo_ps(quad[2], quad[3]);
  const __m256 d = _mm256_unpackhi_ps(quad[2], quad[3]);
  out[0] = _mm256_shuffle_ps(a, c, 0x44);
  out[1] = _mm256_shuffle_ps(a, c, 0xee);
  out[2] = _mm256_shuffle_ps(b, d, 0x44);
  out[3] = _mm256_shuffle_ps(b, d, 0xee);
}
// Four words of each of sixteen rows, load(r) those of row r; out[i] has
// word i of all rows.
template <typename Load4>
inline void TurnFrom(const Load4& load, Vec out[4]) {
  __m256 low[4], high[4];
  TurnHalf(load, 0, low);
  TurnHalf(load, 8, high);
  for (int i = 0; i < 4; ++i) out[i] = {low[i], high[i]};
}
// (j) + (j+4) of eight lanes
inline __m128 Fold(__m256 h) {
  return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
// ((j) + (j+8)), then +4, +2, +1: the one tree of all sums.
inline float Sum(Vec x) {
  __m128 q = Fold(_mm256_add_ps(x.a, x.b));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float Largest(Vec x) {
  const __m256 h = _mm256_max_ps(x.a, x.b);
  __m128 q =
      _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
