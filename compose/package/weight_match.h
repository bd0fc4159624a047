// SPDX-License-Identifier: Apache-2.0
// Which tensor of a folder's files is which weight of the model. Matrices stay
// where they lie; short vectors that are not f32 are widened; experts that a
// file keeps in one tensor become views of it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "compose/model/config.h"
#include "compose/model/weights.h"
#include "compose/package/weight_files.h"

namespace motet::package {

using WidenedVectors = std::vector<std::unique_ptr<float[]>>;

// Fills weights; returns every disagreement as a phrase ("NAME is missing").
std::vector<std::string> MatchWeights(const model::ModelConfig& config,
                                      const WeightFiles& files,
                                      model::ModelWeights& weights,
                                      WidenedVectors& widened);

// OK when no weight is NaN or infinite; otherwise DataLoss lists the tensors
// that have such values, with the first one's place. Reads every number once,
// on all threads: as fast as the memory, or the disk where the file is not
// cached. One of the threads calls `beside` first, where there is one: for
// other work that need not wait.
absl::Status CheckFinite(const model::ModelConfig& config,
                         const model::ModelWeights& weights,
                         const std::function<void()>& beside = nullptr);

}  // namespace motet::package
