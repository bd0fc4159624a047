// SPDX-License-Identifier: Apache-2.0
// The run of a branch: a copy of the base, resized where it is asked for, in
// the step loop that all runs share.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/branch.h"
#include "compose/learn/hash.h"
#include "compose/learn/loop.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using math::Tensor;

double SquareSum(const float* x, int64_t n, int64_t stride = 1) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += static_cast<double>(x[i * stride]) * x[i * stride];
  }
  return sum;
}

// gate and up [F,C], down [C,F] of one layer, f32.
struct Ffn {
  Tensor gate, up, down;
};

// The F' rows with the largest norm product, in ascending order.
std::vector<int64_t> LoudestRows(const Ffn& ffn, int64_t count) {
  const int64_t f = ffn.gate.rows(), c = ffn.down.rows();
  std::vector<double> loudness(static_cast<size_t>(f));
  for (int64_t i = 0; i < f; ++i) {
    loudness[static_cast<size_t>(i)] =
        std::sqrt(SquareSum(ffn.gate.f32() + i * c, c)) *
        std::sqrt(SquareSum(ffn.up.f32() + i * c, c)) *
        std::sqrt(SquareSum(ffn.down.f32() + i, c, f));
  }
  std::vector<int64_t> rows(static_cast<size_t>(f));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  std::stable_sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
    return loudness[static_cast<size_t>(a)] > loudness[static_cast<size_t>(b)];
  });
  rows.resize(static_cast<size_t>(count));
  std::sort(rows.begin(), rows.end());
  return rows;
}

// from [F,C] into to [F',C]: rows that are kept, then new ones.
void FillRows(const Tensor& from, const std::vector<int64_t>& kept,
              uint64_t stream, Tensor to) {
  const int64_t c = from.cols();
  for (size_t i = 0; i < kept.size(); ++i) {
    const float* row = from.f32() + kept[i] * c;
    std::copy(row, row + c, to.f32() + static_cast<int64_t>(i) * c);
  }
  const int64_t n = to.size(), first = std::ssize(kept) * c;
  const double rms = std::sqrt(SquareSum(from.f32(), from.size()) /
                               static_cast<double>(from.size()));
  for (int64_t i = first; i < n; ++i) {
    to.f32()[i] = static_cast<float>(
        rms * Normal(stream, static_cast<uint64_t>(i - first)));
  }
}

// from [C,F] into to [C,F']: columns that are kept, then zeros.
void FillColumns(const Tensor& from, const std::vector<int64_t>& kept,
                 Tensor to) {
  const int64_t c = from.rows(), f = from.cols(), own = to.cols();
  std::fill(to.f32(), to.f32() + to.size(), 0.0f);
  for (int64_t r = 0; r < c; ++r) {
    for (size_t i = 0; i < kept.size(); ++i) {
      to.f32()[r * own + static_cast<int64_t>(i)] = from.f32()[r * f + kept[i]];
    }
  }
}

}  // namespace

absl::StatusOr<OwnedModel> StartBranch(const package::LoadedModel& base,
                                       int64_t ffn_width, uint64_t seed) {
  if (ffn_width == 0 || ffn_width == base.config.ffn_width) {
    return CopyModel(base.config, base.weights);
  }
  const OwnedModel copy = CopyModel(base.config, base.weights);
  std::map<std::string, Tensor> from;
  model::ModelWeights views = copy.weights;
  VisitWeights(copy.config, views,
               [&](const std::string& name, const math::Shape&,
                   Tensor& tensor) { from[name] = tensor; });
  model::ModelConfig config = base.config;
  config.ffn_width = ffn_width;
  OwnedModel branch = InitialModel(config, seed);
  VisitWeights(
      config, branch.weights,
      [&](const std::string& name, const math::Shape&, Tensor& tensor) {
        const Tensor& old = from.at(name);
        if (!(old.shape == tensor.shape)) return;  // below
        std::copy(old.f32(), old.f32() + old.size(), tensor.f32());
      });
  for (size_t l = 0; l < branch.weights.layers.size(); ++l) {
    const model::FfnWeights& old = copy.weights.layers[l].experts[0];
    model::FfnWeights& own = branch.weights.layers[l].experts[0];
    const std::vector<int64_t> kept =
        LoudestRows({old.gate, old.up, old.down},
                    std::min(ffn_width, base.config.ffn_width));
    const auto stream = [&](const char* name) {
      return Mix(seed ^ Fnv1a(absl::StrCat("wider ", l, " ", name)));
    };
    FillRows(old.gate, kept, stream("gate"), own.gate);
    FillRows(old.up, kept, stream("up"), own.up);
    FillColumns(old.down, kept, own.down);
  }
  return branch;
}

absl::StatusOr<model::Decoder> BranchDecoder(const OwnedModel& branch) {
  model::Router router;
  router.k = std::max<int64_t>(1, branch.config.experts_per_token);
  router.renormalise = branch.config.renormalise;
  return model::Decoder::Create(branch.config, branch.weights, router);
}

absl::StatusOr<OwnedModel> TrainBranch(const package::LoadedModel& base,
                                       const TokenWindows& own,
                                       const TokenWindows& public_text,
                                       const BranchOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result,
                                       const TokenWindows* held_out) {
  MOTET_RETURN_IF_ERROR(CheckRun("the owner's branch", options, base.config,
                                 own, &public_text, held_out));
  const bool sized = options.ffn_width != 0 || options.frozen_trunk;
  if (options.ffn_width < 0 || (sized && base.config.experts > 0)) {
    return proto::Invalid(
        "branch with FFNs of its own width",
        absl::StrCat("width ", options.ffn_width, " beside a base of ",
                     base.config.experts, " experts"),
        "1 or more, beside a base of one FFN a layer",
        "ask for kind \"dense\"");
  }
  MOTET_ASSIGN_OR_RETURN(OwnedModel branch,
                         StartBranch(base, options.ffn_width, options.seed));
  MOTET_ASSIGN_OR_RETURN(model::Decoder decoder, BranchDecoder(branch));
  Run run;
  run.name = "the owner's branch";
  run.decoder = &decoder;
  run.parameters = DenseParameters(branch);
  if (options.frozen_trunk) {
    std::erase_if(run.parameters, [](const Parameter& p) {
      return p.name.find(".mlp.") == std::string::npos;
    });
  }
  run.own = &own;
  run.public_text = &public_text;
  run.held_out = held_out;
  run.description = {
      absl::StrCat("ffn_width = ", branch.config.ffn_width,
                   options.frozen_trunk ? ", trunk frozen" : ""),
      BaseLine(base),
  };
  MOTET_ASSIGN_OR_RETURN(TrainResult trained,
                         RunTraining(std::move(run), options, progress));
  if (result != nullptr) *result = std::move(trained);
  return branch;
}

}  // namespace motet::learn
