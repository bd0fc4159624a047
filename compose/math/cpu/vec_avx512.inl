// SPDX-License-Identifier: Apache-2.0
// 16 float lanes in one register. Same functions and bits as vec_avx2.inl.
namespace motet::math::cpu::MOTET_ISA {
namespace {

struct Vec {
  __m512 v;
};

inline __mmask16 First(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1);
}
inline Vec Zero() { return {_mm512_setzero_ps()}; }
inline Vec Set(float a) { return {_mm512_set1_ps(a)}; }
inline Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec LoadFirst(const float* p, int64_t n) {  // zeros behind; n < 16
  return {_mm512_maskz_loadu_ps(First(n), p)};
}
inline __m512 Widen(__m256i bits) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Vec Load(const uint16_t* p) {
  return {Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec LoadFirst(const uint16_t* p, int64_t n) {
  return {Widen(_mm256_maskz_loadu_epi16(First(n), p))};
}
inline void Store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void StoreFirst(float* p, Vec a, int64_t n) {
  _mm512_mask_storeu_ps(p, First(n), a.v);
}
inline Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec Fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline Vec Sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
// NaN in b comes through.
inline Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec Min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec Round(Vec a) { return {_mm512_roundscale_ps(a.v, 8)}; }
// a * 2^n for whole n in [-126, 127]
inline Vec Scale(Vec a, Vec n) {
  const __m512i e =
      _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_mul_ps(a.v,
                        _mm512_castsi512_ps(_mm512_slli_epi32(e, 23)))};
}
// y where !(x < limit), else 0
inline Vec ZeroBelow(Vec x, float limit, Vec y) {
  const __mmask16 keep =
      _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ);
  return {_mm512_maskz_mov_ps(keep, y.v)};
}
// Lanes from n on become `rest`; n may be outside [0, 16].
inline Vec KeepFirst(Vec a, int64_t n, float rest) {
  if (n >= kLanes) return a;
  return {_mm512_mask_mov_ps(_mm512_set1_ps(rest), First(n < 0 ? 0 : n),
                             a.v)};
}
// f16, sixteen of them.
inline Vec LoadHalf(const uint16_t* p) {
  return {_mm512_cvtph_ps(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// The halves of sixteen 32-bit words, widened.
inline Vec LowBf16(Vec v) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_castps_si512(v.v), 16))};
}
inline Vec HighBf16(Vec v) {
  return {_mm512_castsi512_ps(_mm512_and_si512(
      _mm512_castps_si512(v.v), _mm512_set1_epi32(-65536)))};
}
inline Vec LowHalf(Vec v) {
  return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_castps_si512(v.v)))};
}
inline Vec HighHalf(Vec v) {
  return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(
      _mm512_srli_epi32(_mm512_castps_si512(v.v), 16)))};
}
// Four words of each of sixteen rows, load(r) those of row r; out[i] has
// word i of all rows.
template <typename Load4>
inline void TurnFrom(const Load4& load, Vec out[4]) {
  __m512 quad[4];
  for (int i = 0; i < 4; ++i) {
    quad[i] = _mm512_castps128_ps512(load(i));
    quad[i] = _mm512_insertf32x4(quad[i], load(i + 4), 1);
    quad[i] = _mm512_insertf32x4(quad[i], load(i + 8), 2);
    quad[i] = _mm512_insertf32x4(quad[i], load(i + 12), 3);
  }
  const __m512 a = _mm512_unpacklo_ps(quad[0], quad[1]);
  const __m512 b = _mm512_unpackhi_ps(quad[0], quad[1]);
  const __m512 c = _mm512_unpacklo_ps(quad[2], quad[3]);
  const __m512 d = _mm512_unpackhi_ps(quad[2], quad[3]);
  out[0] = {_mm512_shuffle_ps(a, c, 0x44)};
  out[1] = {_mm512_shuffle_ps(a, c, 0xee)};
  out[2] = {_mm512_shuffle_ps(b, d, 0x44)};
  out[3] = {_mm512_shuffle_ps(b, d, 0xee)};
}
// ((j) + (j+8)), then +4, +2, +1: the one tree of all sums.
inline float Sum(Vec a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v),
                                 _mm512_extractf32x8_ps(a.v, 1));
  __m128 q =
      _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float Largest(Vec a) { return _mm512_reduce_max_ps(a.v); }

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
