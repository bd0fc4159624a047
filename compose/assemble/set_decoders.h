// SPDX-License-Identifier: Apache-2.0
// Decoders of expert sets whose weights depend on the set (merges, averaged
// trunks): made when a query first asks for a set, kept for the sets used
// last while there is room.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "compose/assemble/served_model.h"
#include "compose/model/decoder.h"

namespace motet::assemble {

// A decoder with what it reads; a method's own derives from it.
struct SetDecoder {
  virtual ~SetDecoder() = default;
  std::unique_ptr<model::Decoder> decoder;
  int64_t bytes = 0;  // of memory that was taken for this set
};

class SetDecoders {
 public:
  // To be asked before memory is taken: ResourceExhausted where so much can
  // never be had. Other sets go for it, those unused for longest first; a
  // query in progress keeps its own.
  using Room = std::function<absl::Status(int64_t bytes)>;
  using Make = std::function<absl::StatusOr<std::shared_ptr<SetDecoder>>(
      math::ExpertMask set, const Room& room)>;
  // method: for messages.
  SetDecoders(std::string method, int64_t most_bytes, Make make);

  // Unavailable, whatever stood in the way: the query is right, and may be
  // answered when there is room or the package is back. `experts` gives the
  // names of those that are not in the set.
  absl::StatusOr<std::shared_ptr<const model::Decoder>> For(
      math::ExpertMask set, const std::vector<ServedExpert>& experts);

 private:
  absl::Status MakeRoom(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string method_;
  const int64_t most_bytes_;
  const Make make_;
  absl::Mutex mutex_;
  std::map<math::ExpertMask, std::pair<std::shared_ptr<SetDecoder>, uint64_t>>
      sets_ ABSL_GUARDED_BY(mutex_);  // with when it was last used
  uint64_t uses_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace motet::assemble
