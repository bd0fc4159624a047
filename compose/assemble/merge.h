// SPDX-License-Identifier: Apache-2.0
// Merges of whole models [METHODS 6], streamed: tensors in, pieces of merged
// tensors out, in memory of a few pieces whatever the models' size. Where
// statistics are over a whole tensor (slerp, ties) or over all parameters
// (pcb), the numbers pass by again. Knows nothing of packages and files.
//
// The result is a function of the rule and the tensors: not of threads, nor
// of how pieces were cut.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "compose/math/tensor.h"

namespace motet::assemble {

enum class MergeKind : uint8_t {
  kLinear,          // the plain mean
  kWeighted,        // a mean by weights that sum to 1
  kSlerp,           // two models, on the arc between them
  kTaskArithmetic,  // base + lambda sum w tau
  kTies,
  kDare,
  kPcb,
  kFisher,
};

// Everything a merge depends on besides the numbers. One weight and one key
// a model.
struct MergeRule {
  MergeKind kind = MergeKind::kLinear;
  std::vector<double> weights;
  double lambda = 1;       // task_arithmetic, ties, dare, pcb
  double density = 1;      // ties: share kept; dare: probability kept
  double ratio = 0.1;      // pcb: share of scores kept, r
  double epsilon = 1e-4;   // pcb: share of largest magnitudes clipped
  double t = 0.5;          // slerp: 0 = the first model
  uint64_t seed = 0;       // dare
  std::vector<uint64_t> keys;  // dare: what tells the models apart
};

// One tensor of all parties, of one shape; F32, BF16 or F16 each.
struct MergeTensor {
  std::string name;
  math::Tensor base;
  std::vector<math::Tensor> models;   // [J]
  std::vector<math::Tensor> fishers;  // [J], F32; kind fisher only
};
// Of the result: the models' where they agree, else F32; without models the
// base's.
math::DType MergedDType(const MergeTensor& tensor);

struct MergeStream {
  // Takes the result's bytes, tensor after tensor.
  std::function<absl::Status(absl::string_view bytes)> sink;
  // Pieces that were read and may leave memory. May be null.
  std::function<void(const math::Tensor& piece)> let_go;
  // Bytes read of those that will be, over all passes. May be null.
  std::function<void(int64_t done, int64_t total)> progress;
};
// Without models the result is the base; with one, kinds that average are
// that model. What the sink says ends the merge; DataLoss names a tensor that
// would not be finite.
absl::Status MergeTensors(const MergeRule& rule,
                          const std::vector<MergeTensor>& tensors,
                          const MergeStream& stream);

}  // namespace motet::assemble
