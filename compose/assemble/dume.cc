// SPDX-License-Identifier: Apache-2.0
// Parts stay apart: the base's sums, made once from its anchor, and every
// owner's where its file is mapped. A set's rows are a function of the parts
// of the set, added in the composition's order (docs/methods/dume.md).
#include "compose/assemble/dume.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/solved_rows.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

using learn::MomentsView;
using math::ExpertMask;
using math::Shape;
using math::Tensor;
using package::SafetensorsFile;

// Rows kept for sets, in all; four sets at least.
constexpr int64_t kRowBytes = int64_t{64} << 20;
constexpr size_t kLeastSets = 4;

// One set's rows and the memory they lie in.
struct Made {
  std::vector<float> numbers;
  model::RowSource::Rows rows;
};

class SolvedRows : public model::RowSource {
 public:
  SolvedRows(Solved what, int64_t width, double ridge)
      : what_(what), width_(width), ridge_(ridge) {}

  // parts_[layer][expert]
  std::vector<std::vector<MomentsView>> parts_;
  std::vector<std::vector<double>> base_;  // what the base's views show
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;

  std::shared_ptr<const Rows> For(ExpertMask set) override {
    const std::lock_guard lock(mutex_);
    const auto it =
        std::find_if(kept_.begin(), kept_.end(),
                     [set](const auto& entry) { return entry.first == set; });
    if (it != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, it);
    } else {
      kept_.emplace_front(set, Solve(set));
      const auto bytes =
          static_cast<int64_t>(kept_.front().second->numbers.size() * 4);
      const size_t most =
          std::max<size_t>(kLeastSets, static_cast<size_t>(kRowBytes / bytes));
      if (kept_.size() > most) kept_.pop_back();
    }
    const std::shared_ptr<const Made>& made = kept_.front().second;
    return {made, &made->rows};
  }

 private:
  std::shared_ptr<const Made> Solve(ExpertMask set) const {
    const auto experts = static_cast<int64_t>(parts_[0].size());
    const bool rows_only = what_ == Solved::kRows;
    const auto size =
        static_cast<size_t>(experts * (rows_only ? width_ : width_ + 1));
    auto made = std::make_shared<Made>();
    made->numbers.resize(parts_.size() * size);
    for (size_t l = 0; l < parts_.size(); ++l) {
      std::vector<MomentsView> chosen;
      std::vector<int64_t> who;
      for (int64_t e = 0; e < experts; ++e) {
        if ((set >> e & 1) == 0) continue;
        chosen.push_back(parts_[l][static_cast<size_t>(e)]);
        who.push_back(e);
      }
      learn::Discriminants solved;
      if (rows_only) {
        solved.w = learn::SolveRows(chosen, width_, ridge_);
      } else {
        solved = learn::SolveDiscriminants(chosen, width_, ridge_);
      }
      float* out = made->numbers.data() + l * size;
      float* offsets = out + experts * width_;
      for (size_t i = 0; i < who.size(); ++i) {
        const auto from = solved.w.begin() + static_cast<int64_t>(i) * width_;
        std::copy(from, from + width_, out + who[i] * width_);
        if (!rows_only) offsets[who[i]] = static_cast<float>(solved.c[i]);
      }
      Tensor tensor;
      tensor.data = out;
      tensor.shape = {experts, width_};
      made->rows.rows.push_back(tensor);
      if (rows_only) continue;
      tensor.data = offsets;
      tensor.shape = {experts};
      made->rows.offsets.push_back(tensor);
    }
    return made;
  }

  const Solved what_;
  const int64_t width_;
  const double ridge_;
  std::mutex mutex_;
  std::list<std::pair<ExpertMask, std::shared_ptr<const Made>>> kept_;
};

template <typename Number>
bool Finite(const void* data, int64_t size) {
  const auto* numbers = static_cast<const Number*>(data);
  return std::all_of(numbers, numbers + size,
                     [](Number x) { return std::isfinite(x); });
}

absl::StatusOr<const void*> Find(const SafetensorsFile& file,
                                 const std::string& name, math::DType dtype,
                                 const Shape& shape) {
  const Tensor t = file.Find(name);
  std::string got;
  if (t.empty()) {
    got = absl::StrCat("no tensor ", name);
  } else if (t.dtype != dtype || !(t.shape == shape)) {
    got = absl::StrCat(name, " ", math::Name(t.dtype), " ",
                       t.shape.ToString());
  } else if (dtype == math::DType::kF64 ? !Finite<double>(t.data, t.size())
                                        : !Finite<float>(t.data, t.size())) {
    got = absl::StrCat(name, " with numbers that are not finite");
  } else {
    return t.data;
  }
  return proto::Invalid(file.path(), got,
                        absl::StrCat("finite ", math::Name(dtype), " ",
                                     shape.ToString()),
                        "fetch the package again or ask its owner");
}

// N (Sigma + mu mu^T), lower triangle, then N mu.
std::vector<double> Sums(const float* covariance, const float* mean,
                         int64_t width, double tokens) {
  std::vector<double> sums;
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      sums.push_back(tokens * (double{covariance[i * width + j]} +
                               double{mean[i]} * mean[j]));
    }
  }
  for (int64_t i = 0; i < width; ++i) sums.push_back(tokens * mean[i]);
  return sums;
}

}  // namespace

absl::StatusOr<std::shared_ptr<model::RowSource>> MakeSolvedRows(
    Solved what, const model::ModelConfig& config,
    const SafetensorsFile& anchor, uint64_t anchor_tokens,
    std::vector<std::shared_ptr<const SafetensorsFile>> statistics,
    const std::vector<uint64_t>& tokens, double ridge) {
  const int64_t width = config.width, triangle = width * (width + 1) / 2;
  auto source = std::make_shared<SolvedRows>(what, width, ridge);
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string prefix = absl::StrCat("layers.", l, ".");
    MOTET_ASSIGN_OR_RETURN(const void* covariance,
                           Find(anchor, prefix + "covariance",
                                math::DType::kF32, {width, width}));
    MOTET_ASSIGN_OR_RETURN(
        const void* mean,
        Find(anchor, prefix + "mean", math::DType::kF32, {width}));
    source->base_.push_back(Sums(static_cast<const float*>(covariance),
                                 static_cast<const float*>(mean), width,
                                 static_cast<double>(anchor_tokens)));
    const double* base = source->base_.back().data();
    std::vector<MomentsView> parts = {
        {base, base + triangle, static_cast<double>(anchor_tokens)}};
    for (size_t e = 0; e < statistics.size(); ++e) {
      const auto& file = statistics[e];
      MOTET_ASSIGN_OR_RETURN(const void* products,
                             Find(*file, prefix + "products",
                                  math::DType::kF64, {triangle}));
      MOTET_ASSIGN_OR_RETURN(
          const void* sum,
          Find(*file, prefix + "sum", math::DType::kF64, {width}));
      parts.push_back({static_cast<const double*>(products),
                       static_cast<const double*>(sum),
                       static_cast<double>(tokens[e])});
    }
    source->parts_.push_back(std::move(parts));
  }
  source->files_ = std::move(statistics);
  return source;
}

}  // namespace motet::assemble
