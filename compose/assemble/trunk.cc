// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/trunk.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/merge_math.h"
#include "compose/assemble/merge_piece.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

using math::Tensor;

// A tensor of the trunk: what each member has, and where the mean goes.
struct Averaged {
  std::string name;
  std::vector<Tensor> members;
  Tensor* to = nullptr;
  bool same = false;     // all members have it at the same address
  int64_t numbers = 0;   // of memory that the result takes
};

std::vector<Averaged> Tensors(const model::ModelConfig& config,
                              const DenseParts& parts, math::ExpertMask set,
                              const OwnTensor& own,
                              model::ModelWeights& weights) {
  std::vector<Averaged> tensors;
  model::VisitWeights(
      config, weights,
      [&](const std::string& name, const math::Shape& shape, Tensor& tensor) {
        if (own(name)) return;
        Averaged averaged;
        averaged.name = name;
        averaged.to = &tensor;
        for (size_t m = 0; m <= parts.branches.size(); ++m) {
          if ((set >> m & 1) != 0) {
            averaged.members.push_back(parts.Find(m, name));
          }
        }
        const std::vector<Tensor>& members = averaged.members;
        MOTET_CHECK(!members.empty());
        averaged.same =
            std::all_of(members.begin(), members.end(), [&](const Tensor& t) {
              MOTET_CHECK(t.shape == shape);  // OpenDenseParts has seen it
              return t.data == members[0].data;
            });
        // The decoder wants vectors in f32.
        const bool view =
            averaged.same && (shape.rank > 1 ||
                              members[0].dtype == math::DType::kF32);
        averaged.numbers = view ? 0 : shape.size();
        tensors.push_back(std::move(averaged));
      });
  return tensors;
}

// A run of a tensor's numbers, for one thread.
struct Run {
  const Averaged* tensor;
  int64_t from, count;
};

// mean_m t_m, element by element, in double.   false: not finite.
bool Mean(const Run& run) {
  const std::vector<Tensor>& members = run.tensor->members;
  float* out = run.tensor->to->f32() + run.from;
  if (run.tensor->same) {
    Widen(members[0], run.from, run.count, out);
    return AllFinite(out, run.count, math::DType::kF32);
  }
  std::vector<float> numbers(members.size() * run.count);
  std::vector<const float*> rows;
  for (size_t m = 0; m < members.size(); ++m) {
    float* row = numbers.data() + m * run.count;
    Widen(members[m], run.from, run.count, row);
    rows.push_back(row);
  }
  const std::vector<double> weights(
      members.size(), 1.0 / static_cast<double>(members.size()));
  WeightedSum(nullptr, 0, rows, weights, run.count, out);
  return AllFinite(out, run.count, math::DType::kF32);
}

}  // namespace

int64_t TrunkBytes(const model::ModelConfig& config, const DenseParts& parts,
                   math::ExpertMask set, const OwnTensor& own) {
  model::ModelWeights weights;
  int64_t numbers = 0;
  for (const Averaged& t : Tensors(config, parts, set, own, weights)) {
    numbers += t.numbers;
  }
  return numbers * int64_t{sizeof(float)};
}

absl::StatusOr<Trunk> AverageTrunk(const model::ModelConfig& config,
                                   const DenseParts& parts,
                                   math::ExpertMask set,
                                   const OwnTensor& own) {
  Trunk trunk;
  const std::vector<Averaged> tensors =
      Tensors(config, parts, set, own, trunk.weights);
  std::vector<Run> runs;
  for (const Averaged& t : tensors) {
    *t.to = t.members[0];
    if (t.numbers == 0) continue;
    trunk.storage.push_back(
        std::make_unique<float[]>(static_cast<size_t>(t.numbers)));
    trunk.bytes += t.numbers * int64_t{sizeof(float)};
    t.to->data = trunk.storage.back().get();
    t.to->dtype = math::DType::kF32;
    for (int64_t at = 0; at < t.numbers; at += kMostPiece) {
      runs.push_back({&t, at, std::min(kMostPiece, t.numbers - at)});
    }
  }
  const auto count = static_cast<int64_t>(runs.size());
  std::vector<char> finite(runs.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t r = 0; r < count; ++r) {
    finite[r] = Mean(runs[r]) ? 1 : 0;
  }
  std::vector<std::string> bad;
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::string& name = runs[r].tensor->name;
    if (finite[r] == 0 && (bad.empty() || bad.back() != name)) {
      bad.push_back(name);
    }
  }
  if (bad.empty()) return trunk;
  return proto::Error(absl::StatusCode::kDataLoss, "averaged trunk",
                      absl::StrCat("numbers that are not finite in ",
                                   absl::StrJoin(bad, ", ")),
                      "finite ones", "ask the owners for correct models");
}

}  // namespace motet::assemble
