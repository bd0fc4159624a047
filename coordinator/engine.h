// SPDX-License-Identifier: Apache-2.0
// Runs admitted requests on one model, one after another, in order of
// arrival; the queue is bounded. Tokens go out through a sink as they are
// made. Never decides who may use what: that is the gate's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "compose/assemble/served_model.h"
#include "coordinator/policy.h"
#include "generation.pb.h"

namespace motet::coordinator {

struct EngineOptions {
  int max_waiting = 64;         // requests in the queue, beyond: overloaded
  int prefill_rows = 256;       // tokens a forward pass
  math::Product product = math::Product::kExact;
  // Of what a request carries from token to token: a KV cache, or as many as
  // models answer together. A longer request is refused before it runs.
  int64_t state_bytes = int64_t{8} << 30;
};

// false stops the generation (the client went away).
using EventSink = std::function<bool(const v1::GenerationEvent&)>;

class Engine {
 public:
  Engine(const assemble::ServedModel& model, EngineOptions options);

  // The request's prompt as ids, after every check that needs no expert:
  // empty prompt, ids outside the vocabulary, a prompt longer than the
  // context. Sampling options out of range are errors too.
  absl::StatusOr<std::vector<int32_t>> Prepare(
      const v1::GenerationRequest& request) const;

  // Blocks until the request has run. ResourceExhausted at once when too many
  // wait; Cancelled when the sink said so. The last event is `end`.
  absl::Status Generate(const v1::GenerationRequest& request,
                        const Admission& admission, const EventSink& sink);

 private:
  absl::Status Run(const v1::GenerationRequest& request,
                   const std::vector<int32_t>& prompt,
                   const Admission& admission, const EventSink& sink);

  const assemble::ServedModel& model_;
  const EngineOptions options_;
  absl::Mutex mutex_;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t serving_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace motet::coordinator
