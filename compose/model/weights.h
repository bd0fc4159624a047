// SPDX-License-Identifier: Apache-2.0
// The weights table: every tensor of a decoder once, with its Hugging Face
// name and shape. Import, export, initialisation, training and counting walk
// this one list.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "compose/math/tensor.h"
#include "compose/model/config.h"

namespace motet::model {

struct FfnWeights {
  math::Tensor gate;  // [F,C]
  math::Tensor up;    // [F,C]
  math::Tensor down;  // [C,F]
};
struct AttentionWeights {
  math::Tensor q, k, v, o;              // [HD,C], [GD,C], [GD,C], [C,HD]
  math::Tensor q_bias, k_bias, v_bias;  // [HD], [GD], [GD]; with qkv_bias
  math::Tensor q_norm, k_norm;          // [HD], [GD], or both [D] by head
};
// Its own attention is what experts have not for themselves: all of it, k and
// v, or nothing.
struct LayerWeights : AttentionWeights {
  // Pre-norm: input_layernorm, post_attention_layernorm. Post-norm:
  // post_attention_layernorm, post_feedforward_layernorm. Parallel:
  // input_layernorm alone.
  math::Tensor attention_norm, ffn_norm;            // [C]
  std::vector<AttentionWeights> attention_experts;  // E or none
  math::Tensor attention_router;                    // [E,C]
  std::vector<FfnWeights> experts;        // one when dense
  math::Tensor router;                    // [E,C]; empty when dense
  math::Tensor owner_bias;                // [E-1]; owners' training only
};
struct ModelWeights {
  math::Tensor embed;       // [V,C]
  math::Tensor final_norm;  // [C]
  math::Tensor head;        // [V,C]; the same view as embed when tied
  std::vector<LayerWeights> layers;
};

// Makes w's vectors as long as config says and calls visit(name, shape,
// tensor) for every tensor of a Hugging Face file, in the order of the data.
// A tied head and owner_bias are not visited: the caller lets a tied head
// view the embedding. Names are those of transformers.
void VisitWeights(
    const ModelConfig& config, ModelWeights& w,
    const std::function<void(const std::string& name, const math::Shape& shape,
                             math::Tensor& tensor)>& visit);
// What stands between the layer's name and an expert's number: "mlp.experts"
// or Mixtral's "block_sparse_moe.experts".
const char* ExpertsName(const ModelConfig& config);
int64_t CountParameters(const ModelConfig& config);
// OK when every tensor is there with a fitting shape and dtype: matrices f32,
// bf16 or f16, vectors f32. Experts may have FFN widths of their own. Otherwise
// InvalidArgument lists every tensor that does not fit.
absl::Status CheckWeights(const ModelConfig& config, const ModelWeights& w);

}  // namespace motet::model
