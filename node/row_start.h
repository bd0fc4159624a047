// SPDX-License-Identifier: Apache-2.0
// Where an owner's router rows begin when a plan says row_init = "embedder"
// (METHODS 1, step 2): an encoder of the node's reads some of the owner's
// documents and of the base's public ones, and the difference of their mean
// vectors, brought to the model's width, is the direction of every layer's
// row. What the encoder reads stays here; the row leaves as trained.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/retrieve/text_encoder.h"
#include "manifest.pb.h"
#include "node/settings.h"
#include "training.pb.h"

namespace motet::node {

// At most so many documents of either side are read, evenly out of all.
inline constexpr int64_t kRowDocuments = 1000;

struct RowStart {
  std::vector<double> direction;  // [C]; empty: by the base's hidden states
  v1::EmbedderRecord embedder;    // for the manifest, where there is one
};

// Null where the plan needs none. FailedPrecondition where the node names none
// or another one than the plan.
absl::StatusOr<std::unique_ptr<retrieve::TextEncoder>> OpenEmbedder(
    const v1::TrainingPlan& plan, const Settings& settings);

//   direction = P (mean_own e(d) - mean_public e(d)),   |e(d)| = 1
// P: learn::Orthonormal of the plan's seed, [width, the encoder's width]. The
// same bits at every resume. go_on: asked between batches; false: Cancelled.
absl::StatusOr<RowStart> StartOf(
    const retrieve::TextEncoder& encoder, uint64_t seed, int64_t width,
    const std::vector<std::string>& own,
    const std::vector<std::string>& public_text,
    const std::function<bool(double fraction)>& go_on);

}  // namespace motet::node
