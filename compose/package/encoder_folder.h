// SPDX-License-Identifier: Apache-2.0
// BERT encoders on disk: Hugging Face folders, with or without the files of
// sentence-transformers that say how vectors are made of hidden states.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/model/encoder.h"
#include "compose/package/weight_files.h"

namespace motet::package {

// An encoder ready to run. F32 weights are used where they lie; BF16 and F16
// ones are widened, exactly, into `copies`.
struct LoadedEncoder {
  model::EncoderConfig config;
  model::EncoderWeights weights;
  bool normalise = false;  // vectors have length 1
  int64_t max_tokens = 0;  // texts are cut to so many, [CLS] and [SEP] included
  WeightFiles files;       // keep mapped
  std::deque<std::vector<float>> copies;
};

// Reads config.json and the weights of a BertModel or BertForMaskedLM, names
// with or without "bert."; a pooler and a head may lie there and are not
// used. modules.json, 1_Pooling/config.json and sentence_bert_config.json
// are obeyed where they are: mean pooling, normalised or not; without them
// mean pooling, not normalised. InvalidArgument names whatever else they ask
// for, every missing, unknown or ill-shaped tensor, and tensors with
// infinities or NaN.
absl::StatusOr<std::unique_ptr<LoadedEncoder>> LoadEncoder(
    const std::string& folder);

// Writes what stock transformers and sentence-transformers load; config.json
// last. Each file is written atomically.
absl::Status SaveEncoder(const std::string& folder,
                         const model::EncoderConfig& config,
                         const model::EncoderWeights& weights, bool normalise,
                         int64_t max_tokens);

}  // namespace motet::package
