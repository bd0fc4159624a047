// SPDX-License-Identifier: Apache-2.0
// What an adapter is trained on, from texts: queries become ids, documents the
// frozen base's vectors, which are made once and kept in a file, and the
// documents that the base finds although nobody judged them relevant become
// hard negatives. Nothing here leaves the machine.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/adapter_run.h"
#include "compose/retrieve/beir.h"
#include "compose/retrieve/text_encoder.h"

namespace motet::retrieve {

struct AdapterDataOptions {
  int64_t max_queries = 0;     // of each set, drawn by seed; 0: all
  // How many of the base's best that are not judged relevant a query's hard
  // negatives are drawn from; 0: no ranking is made.
  int64_t hard_pool = 0;
  int64_t hard_skip = 0;       // so many best of these are left out: what is
                               // near and not judged may be relevant
  uint64_t seed = 1;
  // Folder of files of document vectors; empty: nothing is kept.
  std::string cache;
  Fraction progress;           // over the documents of all sets
};

// Owns what `data` views.
struct MadeAdapterData {
  learn::AdapterData data;
  std::vector<float> documents;
  int64_t cut_documents = 0, cut_queries = 0;  // beyond the encoder's limit
  // Queries whose judgements name only documents that are missing, without
  // text or not relevant: left out.
  int64_t unanswered = 0;
  int64_t cached = 0;  // sets whose vectors came from a file
};

// One set or several, one after another. A judged document without text is
// no document. InvalidArgument when no query is left.
absl::StatusOr<MadeAdapterData> MakeAdapterData(
    const TextEncoder& base, const std::vector<BeirSet>& sets,
    const AdapterDataOptions& options);

// The base's vectors of texts, from the files in `folder` that are theirs, or
// encoded and kept there, a file each so many texts: what is interrupted goes
// on from the last one, and a corpus that grew keeps those before. A file's
// name is of the encoder, its arithmetic and every text; one that is damaged is
// made again. *cached: all were there. `tokens` is empty.
absl::StatusOr<Vectors> CachedVectors(const TextEncoder& base,
                                      std::span<const std::string> texts,
                                      const std::string& folder,
                                      const Fraction& progress, bool* cached,
                                      size_t texts_a_file = 8192);

}  // namespace motet::retrieve
