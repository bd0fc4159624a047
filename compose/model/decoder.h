// SPDX-License-Identifier: Apache-2.0
// The decoder, defined once: training, evaluation and serving run these
// steps. Forward only; a recorder in the Exec makes it differentiable.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/math/exec.h"
#include "compose/model/cache.h"
#include "compose/model/config.h"
#include "compose/model/weights.h"

namespace motet::model {

struct BtxRouter;

// Router rows made for one expert set, or an anchored router's selection.
// For() may be called from several threads; what it gives stays as it is while
// it is held.
class RowSource {
 public:
  // Of each layer; those of experts outside the set are zeros.
  struct Rows {
    std::vector<math::Tensor> rows;     // [E,C]; anchored: w_e
    std::vector<math::Tensor> offsets;  // anchored: c_e [E]
  };
  virtual ~RowSource() = default;
  virtual std::shared_ptr<const Rows> For(math::ExpertMask set) = 0;
};

// How an expert FFN chooses. Dense models ignore it.
struct Router {
  enum class Kind { kTopK, kTopP, kAnchored } kind = Kind::kTopK;
  int64_t k = 2;  // top-k: clamped to the experts allowed
  // Top-k: the base, all of its chunks, is chosen for every token, and k
  // chooses among the others. Asks for base_always.
  bool shared = false;
  bool renormalise = false;
  // Top-k: this many choices of logit 0 beside the experts, which cost
  // nothing (AdaMoE); weights are then of the experts chosen and sum to 1.
  int64_t null_experts = 0;
  double top_p = 0.4;  // top-p: the weight that a row's experts reach
  // The most experts a token that a sequence may ask for; 0 = all.
  int64_t most_active = 0;
  // Consecutive FFNs that are one expert's: an FFN cut in so many chunks.
  // Expert sets name experts; k, top_p and most_active choose FFNs.
  int64_t chunks = 1;
  // Expert 0 is the public base and in every set, as in federated compositions
  // and FlexOlmo. Otherwise (imported mixtures) it can be left out like any
  // other. The anchored kind always has its base.
  bool base_always = true;
  // In place of the weights' rows, or of the anchored layers' selection, where
  // these depend on the expert set; for inference alone.
  std::shared_ptr<RowSource> rows;
  // In place of the kind, for training alone: choices that draw or that drop
  // rows (mixture.h), of all experts whatever the set. Its owner may change
  // it between batches; each layer draws by a seed of its own.
  std::shared_ptr<const BtxRouter> training;
  std::vector<math::AnchoredLayer> anchored;  // one a layer
};
// Whether a sequence may say how many experts a token are active.
bool TakesActive(const Router& router);
// The FFNs that every token runs, whatever the router says.
math::ExpertMask SharedFfns(const Router& router);
// The router of a model as its config says it: top-k.
Router RouterOf(const ModelConfig& config);

// One sequence's next tokens. Without a cache, past is 0 and the tokens are
// the whole sequence. Bits of `allowed` beyond E mean nothing; one within must
// be set unless the router adds the base.
// A cache belongs to one `allowed` from its first token to Clear().
struct SequenceInput {
  std::span<const int32_t> ids;    // each in [0, V)
  SequenceCache* cache = nullptr;  // appended to; in one sequence of a batch
  math::ExpertMask allowed = ~math::ExpertMask{0};
  // Experts a token: top-k's k (so beside a shared base), the most that top-p
  // takes. 0 = as the router says. Stays the same for a cache, as `allowed`
  // does.
  int32_t active = 0;
};

// Rows of all sequences after one another, with what the operators need of
// them. Takes the caches' lengths as they are now, so one Forward a batch
// when there are caches. Must outlive a backward pass over it.
class Batch {
 public:
  explicit Batch(std::span<const SequenceInput> sequences);
  int64_t rows() const { return static_cast<int64_t>(ids_.size()); }
  std::span<const SequenceInput> sequences() const { return sequences_; }
  std::span<const int32_t> ids() const { return ids_; }
  std::span<const int32_t> positions() const { return positions_; }
  std::span<const math::ExpertMask> allowed() const { return allowed_; }
  int64_t first_row(size_t sequence) const { return first_[sequence]; }

 private:
  std::vector<SequenceInput> sequences_;
  std::vector<int32_t> ids_, positions_;
  std::vector<math::ExpertMask> allowed_;
  std::vector<int64_t> first_;
};

// What a caller may watch, by layer; filled when given to Forward. Views into
// the Exec's arena. Router logits are empty where there are none: in a dense
// FFN (whose input is still called router input) and in an anchored one.
// Where a recorder recomputes a layer, nothing but its logits is left.
struct Trace {
  // When set: called after each layer with what is below, of that layer alone
  // (hidden is its input); its memory is given back afterwards.
  std::function<void(int64_t layer)> visit;
  std::vector<math::Tensor> hidden;         // L + 1: embedding, blocks;
                                            // the last after the final norm
  std::vector<math::Tensor> router_input;   // [M,C]
  std::vector<math::Tensor> router_logits;  // [M,E], owner bias included
  std::vector<math::Routing> routing;
  std::vector<math::Routing> attention;     // of attention experts: soft
};

class Decoder {
 public:
  // Weights must fit the config (InvalidArgument lists every tensor that
  // does not) and outlive the decoder.
  static absl::StatusOr<Decoder> Create(const ModelConfig& config,
                                        ModelWeights weights, Router router);

  // Hidden states after the final norm, [M,C], in the Exec's arena. Appends
  // to the caches. With neither recorder nor trace, a layer's memory is given
  // back before the next layer begins.
  math::Tensor Forward(math::Exec& exec, const Batch& batch,
                       Trace* trace = nullptr) const;
  // [rows,V] of [rows,C].
  math::Tensor Logits(math::Exec& exec, const math::Tensor& hidden) const;

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  ModelWeights& weights() { return weights_; }
  const Router& router() const { return router_; }

 private:
  Decoder(ModelConfig config, ModelWeights weights, Router router);
  math::Tensor Layer(math::Exec& exec, const Batch& batch, int64_t layer,
                     const math::Tensor& x, Trace* trace) const;
  math::Tensor RecomputedLayer(math::Exec& exec, const Batch& batch,
                               int64_t layer, const math::Tensor& x,
                               Trace* trace) const;
  math::Tensor Attend(math::Exec& exec, const Batch& batch, int64_t layer,
                      const math::Tensor& x, Trace* trace) const;
  math::Tensor AttendExperts(math::Exec& exec, const Batch& batch,
                             int64_t layer, const math::Tensor& x,
                             Trace* trace) const;
  math::Routing AttentionGates(math::Exec& exec, const Batch& batch,
                               int64_t layer, const math::Tensor& x,
                               std::span<const math::ExpertMask> sets) const;
  math::HeadShape Heads(int64_t layer) const;
  math::Tensor FeedForward(math::Exec& exec, const Batch& batch, int64_t layer,
                           const math::Tensor& x, Trace* trace) const;
  math::ExpertMask SetOf(const SequenceInput& sequence) const;
  math::Tensor RouterLogits(math::Exec& exec, const Batch& batch,
                            int64_t layer, const math::Tensor& x) const;
  math::RowLimits Limits(math::Exec& exec, const Batch& batch,
                         int64_t* most) const;
  math::Routing Anchored(math::Exec& exec, const Batch& batch, int64_t layer,
                         const math::Tensor& x) const;
  math::Routing Route(math::Exec& exec, const Batch& batch, int64_t layer,
                      const math::Tensor& x, math::Tensor* logits) const;

  ModelConfig config_;
  ModelWeights weights_;
  Router router_;
  std::vector<double> rope_frequencies_;
};

}  // namespace motet::model
