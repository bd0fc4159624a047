// SPDX-License-Identifier: Apache-2.0
// Training of an embedding adapter: a LoRA adapter of a query encoder whose
// base is frozen, by queries and the documents that answer them [METHODS 9].
// Documents are vectors already, the base's, made once. What one step does
// stands in adapter_step.h; texts become AdapterData in
// compose/retrieve/adapter_data.h.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/adapter_step.h"
#include "compose/learn/contrastive_loop.h"
#include "compose/learn/trainer.h"
#include "compose/model/encoder.h"

namespace motet::learn {

struct AdapterOptions : ContrastiveOptions {
  int64_t batch_queries = 256;  // B; fewer where there are fewer
  int64_t query_tokens = 0;     // longer ones are cut, their last token
                                // ([SEP]) stays; 0: none is
  int64_t rank = 8;
  double alpha = 32;
  double dropout = 0.1;  // of the adapter's input
  std::vector<std::string> targets = {"query", "value"};
  int64_t hard_negatives = 0;  // a query, drawn anew each time from its own
  // Batches of queries of one set alone, sets by their share of all queries;
  // false: any queries together.
  bool one_set_a_batch = false;
};

// All of it must outlive the call.
struct AdapterData {
  std::vector<std::vector<int32_t>> queries;   // with [CLS] and [SEP]
  std::span<const float> documents;            // [N,C]
  std::vector<std::vector<int64_t>> relevant;  // rows, ascending; of each query
  std::vector<std::vector<int64_t>> hard;      // likewise; may be empty
  // Queries of sets one after another: how many each has; empty: one set.
  std::vector<int64_t> sets;
};

// An adapter that owns its numbers.
struct OwnedLora {
  model::Lora lora;
  std::vector<std::unique_ptr<float[]>> storage;
};
// As PEFT starts: A uniform within 1 / sqrt(fan in), B zero. The config must
// have passed CheckLoraConfig.
OwnedLora InitialLora(const model::EncoderConfig& config,
                      const model::LoraConfig& lora, uint64_t seed);

// The queries of a step (from 0), each with one of its documents, in an order
// that is new each time round. A function of seed and step.
AdapterBatch AdapterBatchAt(const AdapterData& data,
                            const AdapterOptions& options, int64_t step);

// From nothing, or a checkpoint, to a trained adapter. The same bits for the
// same data and options, on any number of threads, however often it was
// interrupted. InvalidArgument lists everything that is wrong with data and
// options; Cancelled when progress said so, after a checkpoint. The result's
// tokens are those of queries; it has no memory plan and no evaluations.
absl::StatusOr<OwnedLora> TrainAdapter(const model::Encoder& base,
                                       const AdapterData& data,
                                       const AdapterOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result);

}  // namespace motet::learn
