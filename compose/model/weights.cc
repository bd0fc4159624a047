// SPDX-License-Identifier: Apache-2.0
#include "compose/model/weights.h"

#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using math::Shape;
using math::Tensor;

using Visit = std::function<void(const std::string&, const Shape&, Tensor&)>;

// Where the families' names differ.
struct Names {
  const char* attention_norm;
  const char* ffn_norm;
  const char* router;   // before ".weight"
  const char* experts;  // before the expert's number
  const char* gate;
  const char* up;
  const char* down;
};

// Mixtral alone names its experts in its own way; every other mixture, those
// without a name in transformers included, goes by OLMoE's names.
bool IsMixtral(const ModelConfig& config) {
  return config.experts > 0 && config.block == Block::kPreNorm &&
         config.qk_norm == QkNorm::kNone && !config.qkv_bias &&
         config.attention_experts == AttentionExperts::kNone;
}

Names NamesOf(const ModelConfig& config) {
  Names names = {"input_layernorm", "post_attention_layernorm",
                 "mlp.gate",        "mlp.experts",
                 "gate_proj",       "up_proj",
                 "down_proj"};
  if (config.block == Block::kPostNorm) {
    names.attention_norm = "post_attention_layernorm";
    names.ffn_norm = "post_feedforward_layernorm";
  }
  if (IsMixtral(config)) {
    names.router = "block_sparse_moe.gate";
    names.experts = "block_sparse_moe.experts";
    names.gate = "w1";
    names.up = "w3";
    names.down = "w2";
  }
  return names;
}

void VisitFfn(const ModelConfig& config, const Names& names,
              const std::string& prefix, FfnWeights& ffn, const Visit& visit) {
  const int64_t width = config.width, ffn_width = config.ffn_width;
  visit(absl::StrCat(prefix, names.gate, ".weight"), {ffn_width, width},
        ffn.gate);
  visit(absl::StrCat(prefix, names.up, ".weight"), {ffn_width, width}, ffn.up);
  visit(absl::StrCat(prefix, names.down, ".weight"), {width, ffn_width},
        ffn.down);
}

// Which of an attention's tensors: those of q and o, those of k and v.
struct Parts {
  bool queries = true;
  bool keys = true;
};

void VisitAttention(const ModelConfig& config, const std::string& prefix,
                    Parts parts, AttentionWeights& w, const Visit& visit) {
  const int64_t width = config.width;
  const int64_t q_width = config.heads * config.head_dim;
  const int64_t kv_width = config.kv_heads * config.head_dim;
  const auto tensor = [&](bool own, const char* name, const Shape& shape,
                          Tensor& t) {
    if (own) visit(absl::StrCat(prefix, name), shape, t);
  };
  tensor(parts.queries, "q_proj.weight", {q_width, width}, w.q);
  tensor(parts.keys, "k_proj.weight", {kv_width, width}, w.k);
  tensor(parts.keys, "v_proj.weight", {kv_width, width}, w.v);
  tensor(parts.queries, "o_proj.weight", {width, q_width}, w.o);
  if (config.qkv_bias) {
    tensor(parts.queries, "q_proj.bias", {q_width}, w.q_bias);
    tensor(parts.keys, "k_proj.bias", {kv_width}, w.k_bias);
    tensor(parts.keys, "v_proj.bias", {kv_width}, w.v_bias);
  }
  if (config.qk_norm != QkNorm::kNone) {
    const bool whole = config.qk_norm == QkNorm::kWhole;
    tensor(parts.queries, "q_norm.weight",
           {whole ? q_width : config.head_dim}, w.q_norm);
    tensor(parts.keys, "k_norm.weight", {whole ? kv_width : config.head_dim},
           w.k_norm);
  }
}

// One attention, or the experts' behind a router; no family has the latter,
// so the names are ours.
void VisitAttentions(const ModelConfig& config, const std::string& prefix,
                     LayerWeights& layer, const Visit& visit) {
  if (config.attention_experts == AttentionExperts::kNone) {
    VisitAttention(config, prefix, {}, layer, visit);
    return;
  }
  const bool shared = config.attention_experts == AttentionExperts::kSharedKv;
  if (shared) VisitAttention(config, prefix, {.queries = false}, layer, visit);
  visit(absl::StrCat(prefix, "gate.weight"), {config.experts, config.width},
        layer.attention_router);
  layer.attention_experts.resize(config.experts);
  for (int64_t e = 0; e < config.experts; ++e) {
    VisitAttention(config, absl::StrCat(prefix, "experts.", e, "."),
                   {.keys = !shared}, layer.attention_experts[e], visit);
  }
}

void VisitLayer(const ModelConfig& config, const std::string& prefix,
                LayerWeights& layer, const Visit& visit) {
  const Names names = NamesOf(config);
  const int64_t width = config.width;
  const auto weight = [&](const char* name, const Shape& shape,
                          Tensor& tensor) {
    visit(absl::StrCat(prefix, name, ".weight"), shape, tensor);
  };
  weight(names.attention_norm, {width}, layer.attention_norm);
  VisitAttentions(config, absl::StrCat(prefix, "self_attn."), layer, visit);
  if (config.block != Block::kParallel) {
    weight(names.ffn_norm, {width}, layer.ffn_norm);
  }
  if (config.experts == 0) {
    layer.experts.resize(1);
    VisitFfn(config, names, absl::StrCat(prefix, "mlp."), layer.experts[0],
             visit);
    return;
  }
  weight(names.router, {config.experts, width}, layer.router);
  layer.experts.resize(config.experts);
  for (int64_t e = 0; e < config.experts; ++e) {
    VisitFfn(config, names, absl::StrCat(prefix, names.experts, ".", e, "."),
             layer.experts[e], visit);
  }
}

// What is wrong with one tensor; empty when nothing is.
std::string Complaint(const std::string& name, const Shape& want,
                      const Tensor& tensor) {
  if (tensor.empty()) return absl::StrCat(name, " absent");
  if (!(tensor.shape == want)) {
    return absl::StrCat(name, " of shape ", tensor.shape.ToString(), " (want ",
                        want.ToString(), ")");
  }
  const bool vector = want.rank == 1;
  if (tensor.dtype == math::DType::kF32 ||
      (!vector && (tensor.dtype == math::DType::kBF16 ||
                   tensor.dtype == math::DType::kF16))) {
    return "";
  }
  return absl::StrCat(name, " of dtype ", math::Name(tensor.dtype),
                      vector ? " (want F32)" : " (want F32, BF16 or F16)");
}

// The shape asked of an expert's matrix, with the expert's own FFN width (as
// its gate has it) in place of the config's.
Shape OwnWidth(const FfnWeights& ffn, const Tensor& tensor, int64_t width) {
  const int64_t own = ffn.gate.shape.dim[0];
  return &tensor == &ffn.down ? Shape{width, own} : Shape{own, width};
}

}  // namespace

void VisitWeights(const ModelConfig& config, ModelWeights& w,
                  const Visit& visit) {
  w.layers.resize(config.layers);
  const Shape table = {config.vocabulary, config.width};
  visit("model.embed_tokens.weight", table, w.embed);
  for (int64_t l = 0; l < config.layers; ++l) {
    VisitLayer(config, absl::StrCat("model.layers.", l, "."), w.layers[l],
               visit);
  }
  visit("model.norm.weight", {config.width}, w.final_norm);
  if (!config.tied_head) visit("lm_head.weight", table, w.head);
}

const char* ExpertsName(const ModelConfig& config) {
  return NamesOf(config).experts;
}

int64_t CountParameters(const ModelConfig& config) {
  ModelWeights weights;
  int64_t count = 0;
  VisitWeights(config, weights,
               [&](const std::string&, const Shape& shape, Tensor&) {
                 count += shape.size();
               });
  return count;
}

absl::Status CheckWeights(const ModelConfig& config, const ModelWeights& w) {
  std::vector<std::string> reasons;
  const auto count = [&](absl::string_view what, size_t got, int64_t want) {
    if (static_cast<int64_t>(got) == want) return;
    reasons.push_back(absl::StrCat(got, " ", what, " (want ", want, ")"));
  };
  // The walk below makes the vectors fit, so their lengths are looked at
  // first.
  count("layers", w.layers.size(), config.layers);
  for (size_t l = 0; l < w.layers.size(); ++l) {
    count(absl::StrCat("FFNs in layer ", l), w.layers[l].experts.size(),
          config.experts == 0 ? 1 : config.experts);
    count(absl::StrCat("attention experts in layer ", l),
          w.layers[l].attention_experts.size(),
          config.attention_experts == AttentionExperts::kNone
              ? 0
              : config.experts);
  }
  ModelWeights views = w;
  std::unordered_map<const Tensor*, const FfnWeights*> own_width;
  for (const LayerWeights& layer : views.layers) {
    for (size_t e = 1; e < layer.experts.size(); ++e) {
      const FfnWeights& ffn = layer.experts[e];
      if (ffn.gate.shape.rank != 2 || ffn.gate.shape.dim[0] < 1) continue;
      for (const Tensor* t : {&ffn.gate, &ffn.up, &ffn.down}) {
        own_width[t] = &ffn;
      }
    }
  }
  const auto check = [&](const std::string& name, Shape want, Tensor& tensor) {
    const auto it = own_width.find(&tensor);
    if (it != own_width.end()) {
      want = OwnWidth(*it->second, tensor, config.width);
    }
    std::string complaint = Complaint(name, want, tensor);
    if (!complaint.empty()) reasons.push_back(std::move(complaint));
  };
  if (reasons.empty()) VisitWeights(config, views, check);
  if (reasons.empty()) {
    if (config.tied_head && w.head.data != w.embed.data) {
      reasons.push_back(
          "a head apart from the embedding (want the same, as "
          "tie_word_embeddings says)");
    }
    for (size_t l = 0; l < w.layers.size(); ++l) {
      const Tensor& bias = w.layers[l].owner_bias;
      if (bias.empty()) continue;
      std::string complaint = Complaint(absl::StrCat("owner bias of layer ", l),
                                        {config.experts - 1}, bias);
      if (!complaint.empty()) reasons.push_back(std::move(complaint));
    }
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("weights", absl::StrJoin(reasons, ", "),
                        "the tensors that the config describes",
                        "check that config and weights belong together");
}

}  // namespace motet::model
