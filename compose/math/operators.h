// SPDX-License-Identifier: Apache-2.0
// The operator table: every operator once, with formula, shapes and source.
// Kernels holds one form of each (forward and, where it has one, backward);
// Reference() and Cpu() fill it, tests iterate it, Exec calls through it.
//
// Letters: M rows (tokens), C width, N outputs, H heads, G key-value heads,
// D head dim, E experts, K active experts, V vocabulary, F FFN width.
// In every backward: d<input> accumulates (+=) where its tensor is not empty
// (those that Exec asks FirstGradient for: or is written, where it is fresh),
// and is skipped where it is empty.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "compose/math/tensor.h"

// MOTET_OPERATORS(X): X(Name, has_backward, formula, shapes, source)
#define MOTET_OPERATORS(X)                                                    \
  X(Embed, true, "y[m] = table[ids[m]]", "ids [M], table [V,C] -> [M,C]",     \
    "lookup")                                                                 \
  X(Linear, true, "y = x W^T", "x [M,C], W [N,C] f32|bf16|f16 -> [M,N]",      \
    "matrix product")                                                         \
  X(Add, true, "y = a + b", "[M,C], [M,C] -> [M,C]", "residual")              \
  X(AddBias, true, "y = x + b", "x [M,C], b [C] -> [M,C]", "affine map")      \
  X(AddScaled, true, "y = a + s b; y = s b without a",                        \
    "a, b [M,C] -> [M,C]", "LoRA, arXiv 2106.09685")                          \
  X(Dropout, true, "y = x / (1 - p) where it is kept, else 0", "[M,C] -> [M,C]", \
    "arXiv 1207.0580")                                                        \
  X(RmsNorm, true, "y = w x / sqrt(mean x^2 + eps)",                          \
    "x [M,C], w [C] -> [M,C]", "arXiv 1910.07467")                            \
  X(LayerNorm, true, "y = w (x - mean x) / sqrt(var x + eps) + b",            \
    "x [M,C], w, b [C] -> [M,C]", "arXiv 1607.06450")                         \
  X(Normalise, true, "y = x / max(|x|, 1e-12)", "x [M,C] -> [M,C]",           \
    "cosine similarity")                                                      \
  X(Rope, true, "NeoX half rotation by pos * f_i",                            \
    "x [M,H*D], positions [M], f [D/2] -> [M,H*D]", "arXiv 2104.09864")       \
  X(Attention, true,                                                          \
    "y = softmax(q k^T / sqrt D, causal, window or whole) v",                 \
    "q [M,H*D], k, v [M,G*D] or cache -> [M,H*D]", "arXiv 1706.03762")        \
  X(SwiGlu, true, "y = g sigmoid(g) u", "g, u [M,F] -> [M,F]",                \
    "arXiv 2002.05202")                                                       \
  X(Gelu, true, "y = x (1 + erf(x / sqrt 2)) / 2", "x [M,F] -> [M,F]",        \
    "arXiv 1606.08415")                                                       \
  X(MeanPool, true, "y[s] = mean of segment s's rows of x",                   \
    "x [M,C], segments [S] -> [S,C]", "METHODS 9")                            \
  X(OwnerBias, true, "y[m,e] = x[m,e] + min(b[e-1], 0), e >= 1",              \
    "x [M,E], b [E-1] -> [M,E]", "FlexOlmo 3.3")                              \
  X(TopK, true, "w = softmax(x over allowed)[shared, top k of the rest]",     \
    "x [M,E] -> idx, w [M,K]", "FlexOlmo 3.2; DESIGN 4.6; 2401.06066")        \
  X(TopP, true, "w = softmax(x over allowed) of the fewest with sum >= p",    \
    "x [M,E] -> idx, w [M,K]", "METHODS 10; arXiv 2403.07652")                \
  X(NullTopK, true, "top k of x and n; w renormalised over those of x",       \
    "x [M,E], n [M,Z] -> idx, w [M,K]", "METHODS 10; arXiv 2406.13233")       \
  X(Capacity, true, "an expert keeps the first c rows that chose it",         \
    "idx, w [M,K] -> idx, w [M,K]", "METHODS 2; arXiv 2101.03961")            \
  X(Gather, true, "y[i] = x[rows[i]]", "x [M,C], rows [m] -> [m,C]",          \
    "MoE dispatch")                                                           \
  X(Combine, true, "y[m] = sum_e ascending w[m,slot(e)] f_e[pos(m,e)]",       \
    "w [M,K], f_e [m_e,C] -> [M,C]", "MoE combine")                           \
  X(CrossEntropy, true, "mean nll + z mean(lse^2) over targets >= 0",         \
    "logits [M,V], targets [M] -> loss, nll [M]", "METHODS 1")                \
  X(HeadLoss, true, "the same of logits = h W^T, which are never held whole",  \
    "h [M,C], W [V,C], targets [M] -> loss", "METHODS 1; arXiv 2410.10989")   \
  X(RouterZ, true, "z mean_m logsumexp(x[m])^2", "x [M,E] -> loss",           \
    "METHODS 1; arXiv 2202.08906")                                            \
  X(LoadBalance, true, "E sum_e u_e mean_m softmax(x)[m,e], e not shared",    \
    "x [M,E], idx, w [M,K] -> loss", "METHODS 2, 7; arXiv 2101.03961")        \
  X(AnchoredRoute, false,                                                     \
    "argmax of smoothed discriminants, typicality gate, pair or switch",      \
    "h [M,C] -> idx, w [M,2]", "METHODS 11")                                  \
  X(AdamW, false, "decoupled weight decay Adam step",                         \
    "parameter, gradient, m, v [n]", "arXiv 1711.05101")

namespace motet::math {

enum class OpId : uint8_t {
#define MOTET_ID(name, ...) k##name,
  MOTET_OPERATORS(MOTET_ID)
#undef MOTET_ID
};
struct OpInfo {
  OpId id;
  const char* name;
  bool has_backward;
  const char* formula;
  const char* shapes;
  const char* source;
};
std::span<const OpInfo> Operators();

// How a matrix product may be summed. kExact: f32, the sum over C in one
// fixed order whatever M, the tile, the thread or the instruction set is, so
// a row's result does not depend on the other rows (DESIGN 4.6). kBf16: the
// same promise for one instruction set, with both operands rounded to bf16
// and sums in f32; only where HasBf16(). kLibrary: f32, the BLAS library
// decides; same shapes and threads give the same bits.
enum class Product : uint8_t { kExact, kLibrary, kBf16 };

// Rows [row, row + rows) of q are positions [past, past + rows) of one
// sequence and attend to positions 0..their own or, without the causal rule,
// to all of them. Without a cache
// (keys == nullptr; then past == 0) keys and values are the same rows of the
// k and v tensors. With one, keys and values are the cache's
// [past + rows, G*D] rows, row_stride numbers apart, f32 or bf16.
struct Segment {
  int64_t row = 0;
  int64_t rows = 0;
  int64_t past = 0;
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t row_stride = 0;
  DType dtype = DType::kF32;  // of the cache
};
struct HeadShape {
  int64_t heads = 0;     // H
  int64_t kv_heads = 0;  // G, divides H
  int64_t head_dim = 0;  // D
  bool causal = true;    // false: segments without a cache, no window
  // How many positions a row sees, its own included; 0 = all before it.
  int64_t window = 0;
  Product product = Product::kExact;  // kBf16: both products round to bf16
};

// Which experts each row may use: bit e of allowed[m]. At most 128 experts.
__extension__ typedef unsigned __int128 ExpertMask;
inline constexpr int kMaxExperts = 128;
constexpr ExpertMask FirstExperts(int64_t experts) {
  return experts >= kMaxExperts ? ~ExpertMask{0}
                                : (ExpertMask{1} << experts) - 1;
}
constexpr int CountExperts(ExpertMask set) {
  return std::popcount(static_cast<uint64_t>(set)) +
         std::popcount(static_cast<uint64_t>(set >> 64));
}

// What a row's choice is bound by; each list has one entry a row.
struct RowLimits {
  // At least one of the E experts each; empty = all.
  std::span<const ExpertMask> allowed;
  // At most this many choices, at least 1; empty = as many as idx has room
  // for.
  std::span<const int32_t> active;
  // Of top_k and null_top_k: chosen by every row that is allowed them, beside
  // the choices that `active` counts. idx has room for them.
  ExpertMask shared = 0;
};

// What anchored routing needs of one layer (METHODS 11). E counts the base.
struct AnchoredLayer {
  Tensor select;     // w_e [E,C] f32
  Tensor offset;     // c_e [E]
  Tensor pair_mean;  // m_e [E,C]; row 0 unused
  Tensor threshold;  // tau_e [E]; tau_0 = +inf
  Tensor precision;  // P [C,C]
  Tensor factor;     // G [R,C]: the gate's metric is G^T G; empty: it is P
  Tensor rows;       // r_e [E,C], the trained router rows
  float smoothing = 0.8f;    // a
  bool prefix_mean = false;  // a = n / (n + 1) after n rows: their mean
  bool gate = true;
  // true: the base and the chosen expert, mixed as its owner trained them;
  // false ("switch"): the chosen expert alone.
  bool pair = true;
  // The constant for a row with n rows before it in its sequence.
  float Smoothing(int64_t n) const {
    return prefix_mean ? static_cast<float>(n) / static_cast<float>(n + 1)
                       : smoothing;
  }
};
// A sequence's state for one layer, kept with its KV cache.
struct AnchoredState {
  float* scores = nullptr;  // S [E]
  float* hidden = nullptr;  // H [C]
  bool* started = nullptr;
};
struct RouteSegment {
  int64_t row = 0;
  int64_t rows = 0;
  ExpertMask allowed = ~ExpertMask{0};
  AnchoredState state;  // in and out
  int64_t past = 0;     // rows of the sequence before these
};

struct AdamWOptions {
  float learning_rate;
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.0f;
  int64_t step;  // from 1
  float gradient_scale = 1.0f;  // from clipping
};

// One expert's share in Combine: rows[i] is the token whose slot[i]-th
// choice this expert is; f [m,C] its outputs, df their gradient (may be
// empty).
struct ExpertRows {
  std::span<const int32_t> rows;
  std::span<const int32_t> slots;
  Tensor f;
  Tensor df;
};

// y = x W^T, one of several.
struct LinearTask {
  Tensor x, w, y;
};

// All functions are pure: they write their outputs and nothing else.
// Parallel inside by OpenMP; results do not depend on the thread count.
struct Kernels {
  const char* name;

  void (*embed)(std::span<const int32_t> ids, const Tensor& table, Tensor y);
  void (*embed_backward)(std::span<const int32_t> ids, const Tensor& dy,
                         Tensor dtable);

  void (*linear)(const Tensor& x, const Tensor& w, Tensor y, Product product);
  // Several products at once, each with the bits that it has alone.
  void (*linears)(std::span<const LinearTask> tasks, Product product);
  void (*linear_backward)(const Tensor& x, const Tensor& w, const Tensor& dy,
                          Tensor dx, Tensor dw, Product product);

  void (*add)(const Tensor& a, const Tensor& b, Tensor y);  // y may alias

  void (*add_bias)(const Tensor& x, const Tensor& b, Tensor y);  // may alias
  void (*add_bias_backward)(const Tensor& dy, Tensor db);

  // a may be empty: zeros. y may alias a. Its own backward: db += s dy.
  void (*add_scaled)(const Tensor& a, float s, const Tensor& b, Tensor y);

  // What goes is drawn by seed and place (dropout.h); rate is its share.
  void (*dropout)(const Tensor& x, double rate, uint64_t seed, Tensor y);
  void (*dropout_backward)(const Tensor& dy, double rate, uint64_t seed,
                           Tensor dx);

  void (*rms_norm)(const Tensor& x, const Tensor& w, float eps, Tensor y,
                   Tensor inverse_rms /* [M], may be empty */);
  void (*rms_norm_backward)(const Tensor& x, const Tensor& w,
                            const Tensor& inverse_rms, const Tensor& dy,
                            Tensor dx, Tensor dw);

  // Of a + (x + bias) in place of x where bias [C] and a [M,C] are not empty;
  // the backward form takes that sum. moments [M,2]: mean and 1 / deviation
  // of each row; may be empty.
  void (*layer_norm)(const Tensor& x, const Tensor& bias, const Tensor& a,
                     const Tensor& w, const Tensor& b, float eps, Tensor y,
                     Tensor moments);
  void (*layer_norm_backward)(const Tensor& x, const Tensor& w,
                              const Tensor& moments, const Tensor& dy,
                              Tensor dx, Tensor dw, Tensor db);

  void (*normalise)(const Tensor& x, Tensor y);
  void (*normalise_backward)(const Tensor& x, const Tensor& dy, Tensor dx);

  // frequencies: radians a position for each pair of a head, D / 2 of them.
  void (*rope)(const Tensor& x, std::span<const int32_t> positions,
               std::span<const double> frequencies,
               Tensor y);  // y may alias x
  void (*rope_backward)(const Tensor& dy, std::span<const int32_t> positions,
                        std::span<const double> frequencies, Tensor dx);

  // lse [M,H]: log-sum-exp of each row and head; may be empty.
  void (*attention)(const Tensor& q, const Tensor& k, const Tensor& v,
                    const HeadShape& shape, std::span<const Segment> segments,
                    Tensor y, Tensor lse);
  // Segments without a cache only.
  void (*attention_backward)(const Tensor& q, const Tensor& k, const Tensor& v,
                             const HeadShape& shape,
                             std::span<const Segment> segments,
                             const Tensor& y, const Tensor& lse,
                             const Tensor& dy, Tensor dq, Tensor dk,
                             Tensor dv);

  void (*swiglu)(const Tensor& gate, const Tensor& up, Tensor y);
  void (*swiglu_backward)(const Tensor& gate, const Tensor& up,
                          const Tensor& dy, Tensor dgate, Tensor dup);

  // Of x + bias where bias [F] is not empty; the backward form takes that
  // sum. y may alias x.
  void (*gelu)(const Tensor& x, const Tensor& bias, Tensor y);
  void (*gelu_backward)(const Tensor& x, const Tensor& dy, Tensor dx);

  // Of a segment, row and rows count; without rows its mean is 0.
  void (*mean_pool)(const Tensor& x, std::span<const Segment> segments,
                    Tensor y);
  void (*mean_pool_backward)(std::span<const Segment> segments,
                             const Tensor& dy, Tensor dx);

  void (*owner_bias)(const Tensor& x, const Tensor& b, Tensor y);
  void (*owner_bias_backward)(const Tensor& b, const Tensor& dy, Tensor dx,
                              Tensor db);

  // idx [M,K] i32 in descending weight, ties to the lowest expert; -1 and
  // weight 0 where the limits leave fewer than K. renormalise: weights of a
  // row sum to 1, which is the softmax taken after the choice.
  void (*top_k)(const Tensor& x, const RowLimits& limits, bool renormalise,
                Tensor idx, Tensor w);
  // Of every choice made by softmax weight: top_p's and null_top_k's too.
  void (*top_k_backward)(const Tensor& x, std::span<const ExpertMask> allowed,
                         bool renormalise, const Tensor& idx, const Tensor& w,
                         const Tensor& dw, Tensor dx);
  // The fewest best experts whose softmax weights reach p together, the one
  // that crosses it included; no more than K or the limits let.
  void (*top_p)(const Tensor& x, const RowLimits& limits, double p,
                bool renormalise, Tensor idx, Tensor w);
  // The k best of experts and nulls, ties to experts; nulls take a choice and
  // cost nothing. idx has the experts chosen, maybe none. Gradients as those
  // of a renormalised top_k; none reaches the nulls.
  void (*null_top_k)(const Tensor& x, const Tensor& nulls,
                     const RowLimits& limits, Tensor idx, Tensor w);

  // Choices beyond an expert's first `capacity` rows become -1 with weight 0.
  // What a row gets depends on the rows before it: for training alone.
  void (*capacity)(const Tensor& idx, const Tensor& w, int64_t capacity,
                   Tensor kept, Tensor kept_w);
  void (*capacity_backward)(const Tensor& kept, const Tensor& dkept_w,
                            Tensor dw);

  void (*gather)(const Tensor& x, std::span<const int32_t> rows, Tensor y);
  void (*gather_backward)(std::span<const int32_t> rows, const Tensor& dy,
                          Tensor dx);

  // experts in ascending order; y is overwritten.
  void (*combine)(const Tensor& w, std::span<const ExpertRows> experts,
                  Tensor y);
  void (*combine_backward)(const Tensor& w,
                           std::span<const ExpertRows> experts,
                           const Tensor& dy, Tensor dw);

  // Returns ce + z * mean lse^2 over rows with target >= 0 (0 when none);
  // parts[0] = ce, parts[1] = mean lse^2 when parts is given. nll [M] and
  // lse [M] may be empty.
  double (*cross_entropy)(const Tensor& logits,
                          std::span<const int32_t> targets, double z_weight,
                          Tensor nll, Tensor lse, double* parts);
  void (*cross_entropy_backward)(const Tensor& logits,
                                 std::span<const int32_t> targets,
                                 double z_weight, const Tensor& lse,
                                 double scale, Tensor dlogits);

  // The loss of logits = h W^T. logits [R,V] is room for R rows of them at a
  // time. count: the rows that the means divide by (all rows with a target
  // when they are one batch; more when they are a piece of one). dh and dw,
  // where not empty, get scale * gradient while the logits are there: there
  // is no second visit.
  double (*head_loss)(const Tensor& h, const Tensor& w,
                      std::span<const int32_t> targets, int64_t count,
                      double z_weight, double scale, Product product,
                      Tensor logits, Tensor dh, Tensor dw, double* parts);

  // Returns mean lse^2 (not weighted).
  double (*router_z)(const Tensor& x);
  void (*router_z_backward)(const Tensor& x, double scale, Tensor dx);

  // E sum_e u_e P_e, not weighted; 1 when balanced. P: mean softmax of these
  // rows. u: gates' mean or, by counts, each expert's share of the choices;
  // over all rows since totals [E+1] were zeros. totals: sums of u by expert
  // and what they divide by, in and out. By counts u has no gradient.
  // Shared experts have no load to balance: E, softmax, gates and choices are
  // of the others.
  double (*load_balance)(const Tensor& x, const Tensor& idx, const Tensor& w,
                         bool counts, ExpertMask shared,
                         std::span<double> totals);
  // totals: as they were when the forward form had run.
  void (*load_balance_backward)(const Tensor& x, const Tensor& idx,
                                const Tensor& w, bool counts,
                                ExpertMask shared,
                                std::span<const double> totals, double scale,
                                Tensor dx, Tensor dw);

  // idx [M,2] i32: {i, -1} with w {1, 0} for one expert alone, else {0, i}
  // with (p_0, p_i) = softmax(r_0.h, r_i.h).
  void (*anchored_route)(const Tensor& h, const AnchoredLayer& layer,
                         std::span<const RouteSegment> segments, Tensor idx,
                         Tensor w);

  void (*adamw)(Tensor parameter, const Tensor& gradient, Tensor m, Tensor v,
                const AdamWOptions& options);
};

const Kernels& Counting();   // compute nothing: to learn how much memory a
                             // model takes; experts share the rows evenly
const Kernels& Reference();  // plain loops, double sums; for tests
const Kernels& Cpu();        // fast forms, picked for this processor
bool HasCuda();              // false in a build without CUDA (no_cuda/)
const Kernels& Cuda();       // ends with a clear error where !HasCuda()

// "avx2", "avx512", "avx512bf16"; MOTET_CPU forces a lower one. Ends with a
// clear error on a processor without AVX2.
const char* InstructionSet();
bool HasBf16();  // of the set in use: Product::kBf16 can run
// out[i] = x[i] rounded to bf16 (NarrowBf16), many at a time.
void NarrowBf16(const float* x, int64_t n, uint16_t* out);
int Threads();
void SetThreads(int threads);

}  // namespace motet::math
