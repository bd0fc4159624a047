// SPDX-License-Identifier: Apache-2.0
// The list of kernel functions, once: reference/ and cpu/ declare theirs from
// it and fill their Kernels table by it, so that neither can miss one. Only
// for the implementations; callers include operators.h.
#pragma once

#include <type_traits>

#include "compose/math/operators.h"

// X(member of Kernels, function name)
#define MOTET_KERNELS(X)                           \
  X(embed, Embed)                                  \
  X(embed_backward, EmbedBackward)                 \
  X(linear, Linear)                                \
  X(linears, Linears)                              \
  X(linear_backward, LinearBackward)               \
  X(add, Add)                                      \
  X(add_bias, AddBias)                             \
  X(add_bias_backward, AddBiasBackward)            \
  X(add_scaled, AddScaled)                         \
  X(dropout, Dropout)                              \
  X(dropout_backward, DropoutBackward)             \
  X(rms_norm, RmsNorm)                             \
  X(rms_norm_backward, RmsNormBackward)            \
  X(layer_norm, LayerNorm)                         \
  X(layer_norm_backward, LayerNormBackward)        \
  X(normalise, Normalise)                          \
  X(normalise_backward, NormaliseBackward)         \
  X(rope, Rope)                                    \
  X(rope_backward, RopeBackward)                   \
  X(attention, Attention)                          \
  X(attention_backward, AttentionBackward)         \
  X(swiglu, SwiGlu)                                \
  X(swiglu_backward, SwiGluBackward)               \
  X(gelu, Gelu)                                    \
  X(gelu_backward, GeluBackward)                   \
  X(mean_pool, MeanPool)                           \
  X(mean_pool_backward, MeanPoolBackward)          \
  X(owner_bias, OwnerBias)                         \
  X(owner_bias_backward, OwnerBiasBackward)        \
  X(top_k, TopK)                                   \
  X(top_k_backward, TopKBackward)                  \
  X(top_p, TopP)                                   \
  X(null_top_k, NullTopK)                          \
  X(capacity, Capacity)                            \
  X(capacity_backward, CapacityBackward)           \
  X(gather, Gather)                                \
  X(gather_backward, GatherBackward)               \
  X(combine, Combine)                              \
  X(combine_backward, CombineBackward)             \
  X(cross_entropy, CrossEntropy)                   \
  X(cross_entropy_backward, CrossEntropyBackward)  \
  X(head_loss, HeadLoss)                           \
  X(router_z, RouterZ)                             \
  X(router_z_backward, RouterZBackward)            \
  X(load_balance, LoadBalance)                     \
  X(load_balance_backward, LoadBalanceBackward)    \
  X(anchored_route, AnchoredRoute)                 \
  X(adamw, AdamW)

#define MOTET_DECLARE_KERNEL(member, function) \
  std::remove_pointer_t<decltype(Kernels::member)> function;

namespace motet::math::reference {
MOTET_KERNELS(MOTET_DECLARE_KERNEL)
}  // namespace motet::math::reference

namespace motet::math::cpu {
MOTET_KERNELS(MOTET_DECLARE_KERNEL)
}  // namespace motet::math::cpu
