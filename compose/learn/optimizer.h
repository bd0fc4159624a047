// SPDX-License-Identifier: Apache-2.0
// From gradients to new weights: the list of what is trained, the global
// gradient norm, clipping and AdamW. The moments live here; the gradients
// lie in the tape, the weights where the model reads them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "compose/learn/tape.h"
#include "compose/math/operators.h"

namespace motet::learn {

// One trained tensor.
struct Parameter {
  std::string name;
  math::Tensor value;    // f32; AdamW writes here and nowhere else
  math::Tensor watched;  // the tensor that the model reads; value lies in it
                         // (one row of a router, say)
  bool decay = false;    // weight decay applies
};

class Optimizer {
 public:
  struct Item {
    Parameter parameter;
    math::Tensor gradient, m, v;  // as large as parameter.value
  };
  // Watches every parameter on the tape, which must outlive this. Moments
  // start at zero. beta2: the share of the old in AdamW's second moment.
  Optimizer(std::vector<Parameter> parameters, Tape& tape,
            float beta2 = 0.95f);

  // The Euclidean norm over all gradients, summed in double in a fixed order
  // whatever the thread count is. Not finite when any gradient is not.
  double GradientNorm() const;

  // One AdamW step. Gradients are scaled by clip / (norm + 1e-6) when that
  // is below 1 (torch.nn.utils.clip_grad_norm_); clip <= 0: never.
  void Step(const math::Kernels& kernels, double learning_rate,
            double weight_decay, double norm, double clip);

  std::vector<Item>& items() { return items_; }
  const std::vector<Item>& items() const { return items_; }
  int64_t updates() const { return updates_; }  // AdamW steps taken
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  std::vector<Item> items_;
  std::vector<std::unique_ptr<float[]>> storage_;
  float beta2_;
  int64_t updates_ = 0;
};

}  // namespace motet::learn
