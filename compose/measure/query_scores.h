// SPDX-License-Identifier: Apache-2.0
// How well one encoder ranks each query of a set: what pilots are made from,
// and what a best-of-all oracle is (METHODS 9).
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/model/encoder_weights.h"
#include "compose/retrieve/beir.h"
#include "compose/retrieve/text_encoder.h"

namespace motet::measure {

// nDCG@10 of every query of set.queries, in their order: documents by the
// exact order of inner products with the base's vectors, the query by the
// base, or the base with lora. documents: [N,C], the base's vectors of
// set.documents; one without text is never found. A query without a relevant
// document scores 0. What a query scores does not depend on the others.
absl::StatusOr<std::vector<double>> QueryScores(
    const retrieve::TextEncoder& base, const model::Lora* lora,
    const retrieve::BeirSet& set, std::span<const float> documents);

}  // namespace motet::measure
