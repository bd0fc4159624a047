// SPDX-License-Identifier: Apache-2.0
// Hugging Face directories in and out, and model directories of packages.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/model/decoder.h"
#include "compose/model/tokenizer.h"
#include "compose/package/safetensors.h"

namespace motet::package {

// A model on disk, ready to run: weights are used where they lie.
struct LoadedModel {
  model::ModelConfig config;
  model::ModelWeights weights;
  std::vector<std::shared_ptr<const SafetensorsFile>> files;  // keep mapped
  std::vector<std::unique_ptr<float[]>> widened;  // norms and biases
  std::unique_ptr<model::Tokenizer> tokenizer;  // null when none lies there
};
// Reads config.json, model.safetensors (or weights.safetensors, or the files
// of model.safetensors.index.json) and, when present, tokenizer.json. Weights
// may be F32, BF16 or F16: matrices stay where they lie, vectors are widened
// to F32. Experts may lie one by one or fused (transformers 5). All missing, unknown or
// ill-shaped tensors are listed in one error. kFinite refuses NaN and infinity
// as well (CheckFinite), which one thread does while another reads the
// tokenizer.
enum class Numbers { kAny, kFinite };
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(
    const std::string& folder, Numbers numbers = Numbers::kAny);
// Writes model.safetensors, config.json (last) and, when tokenizer_json is not
// empty, tokenizer.json, so that stock transformers loads the folder (with a
// tokenizer_config.json for it unless weights_name says that this is a
// package). The config names the dtype of the matrices: F32 unless all are BF16
// or all are F16. Each file is written atomically, tensor by tensor, what lies
// in one of `mapped` from file to file, so that a model of any size needs
// little memory. An expert's FFN that is narrower than config's is
// padded with zeros, which is exact for SwiGLU [METHODS 1, Export].
struct SaveOptions {
  std::vector<std::shared_ptr<const SafetensorsFile>> mapped;
  std::function<void(double fraction)> progress;  // may be null
};
absl::Status SaveModel(const std::string& folder,
                       const model::ModelConfig& config,
                       const model::ModelWeights& weights,
                       const std::string& tokenizer_json,
                       const std::string& weights_name = "model.safetensors",
                       const SaveOptions& options = {});

}  // namespace motet::package
