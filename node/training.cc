// SPDX-License-Identifier: Apache-2.0
#include "node/training.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "compose/learn/fisher.h"
#include "compose/math/processor.h"
#include "compose/measure/perplexity.h"
#include "compose/package/manifest_training.h"
#include "proto/error.h"
#include "proto/random.h"

namespace motet::node {
namespace {

// Where a plan leaves it to the node.
constexpr int64_t kCheckpointEvery = 50;

}  // namespace

learn::OwnerOptions OptionsOf(const v1::TrainingPlan& plan,
                              const std::string& checkpoint_path) {
  learn::OwnerOptions o;
  o.steps = static_cast<int64_t>(plan.steps());
  o.batch_sequences = plan.batch_sequences();
  o.sequence_tokens = plan.sequence_tokens();
  o.learning_rate = plan.learning_rate();
  o.warmup_steps = static_cast<int64_t>(plan.warmup_steps());
  o.final_lr_fraction = plan.final_lr_fraction();
  o.clip_norm = plan.clip_norm();
  o.weight_decay = plan.weight_decay();
  o.router_z_weight = plan.router_z_weight();
  o.lm_z_weight = plan.lm_z_weight();
  o.public_fraction = plan.public_fraction();
  o.seed = plan.seed();
  if (plan.arithmetic() == "bf16" ||
      (plan.arithmetic() == "auto" && math::FastBf16())) {
    o.product = math::Product::kBf16;
  }
  o.checkpoint_every = plan.checkpoint_every() == 0
                           ? kCheckpointEvery
                           : static_cast<int64_t>(plan.checkpoint_every());
  o.checkpoint_path = checkpoint_path;
  // What a plan of an older coordinator does not say is left at its default;
  // its spikes are none, as they were.
  learn::FindSchedule(plan.schedule(), &o.schedule);  // checked before
  if (plan.decay_fraction() > 0) o.decay_fraction = plan.decay_fraction();
  o.accumulation = std::max<int64_t>(1, plan.accumulation());
  o.recompute_layers = plan.recompute_layers();
  o.freeze.assign(plan.freeze().begin(), plan.freeze().end());
  o.document_boundaries = plan.document_boundaries();
  o.evaluate_every = static_cast<int64_t>(plan.evaluate_every());
  o.evaluate_windows = static_cast<int64_t>(plan.evaluate_windows());
  o.patience = plan.patience();
  o.spike_sigma = plan.spike_sigma();
  if (plan.spike_window() > 0) o.spike_window = plan.spike_window();
  o.alone = plan.alone();
  o.bias = !plan.no_bias();
  return o;
}

std::vector<learn::OwnerGate> FurtherGates(const v1::TrainingPlan& plan,
                                           int64_t width) {
  std::vector<learn::OwnerGate> gates;
  for (const learn::OwnerGate& way :
       {learn::OwnerGate{plan.smoothing(), false}, learn::OwnerGate{0, false},
        learn::OwnerGate{0, true}}) {
    if (!gates.empty() && !way.prefix_mean && plan.smoothing() == 0) continue;
    for (const double quantile : {0.9, 0.97, 0.995}) {
      gates.push_back({way.smoothing, way.prefix_mean, quantile, 0});
    }
  }
  const std::vector<learn::OwnerGate> full = gates;
  for (const int64_t rank : {8, 16, 32}) {
    if (rank >= width) continue;
    bool own = false;  // the plan's quantile is among those
    for (learn::OwnerGate gate : full) {
      gate.rank = rank;
      gates.push_back(gate);
      own |= gate.quantile == plan.gate_quantile();
    }
    if (own) continue;
    gates.push_back({plan.smoothing(), false, plan.gate_quantile(), rank});
  }
  return gates;
}

namespace {

// What kind and size come to here: the plan's, or what the base's perplexity
// on the held-out text picks. The same at every resume, as the text is.
absl::StatusOr<Size> SizeOf(const v1::TrainingPlan& plan, const Base& base,
                            const learn::TokenWindows& held_out) {
  Size size;
  size.ffn_width = plan.ffn_width();
  if (plan.size().empty()) return size;
  if (held_out.count() < 1) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, "corpus",
        absl::StrCat(held_out.tokens(), " held-out tokens"),
        absl::StrCat("at least one sequence of ", held_out.window(),
                     " tokens, for the plan's probe"),
        "import more text with `motet-node corpus import`");
  }
  MOTET_ASSIGN_OR_RETURN(const model::Decoder decoder,
                         learn::BaseDecoder(*base.model));
  measure::ScoreOptions options;
  options.max_tokens =
      static_cast<int64_t>(plan.evaluate_windows()) * held_out.window();
  MOTET_ASSIGN_OR_RETURN(const measure::Score score,
                         measure::ScoreWindows(decoder, held_out, options));
  size.probe_perplexity = score.Perplexity();
  const int choice = package::ProbeChoice(plan, size.probe_perplexity);
  if (plan.ffn_widths_size() > 0) size.ffn_width = plan.ffn_widths(choice);
  if (plan.steps_choices_size() > 0) {
    size.stop_step = static_cast<int64_t>(plan.steps_choices(choice));
  }
  return size;
}

// Scaled to norm 1, as a row of an expert trained alone is.
void FillUnitRow(const std::vector<float>& mean, math::Tensor row) {
  double square = 0;
  for (const float x : mean) square += double{x} * x;
  const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
  for (size_t c = 0; c < mean.size(); ++c) {
    row.f32()[c] = static_cast<float>(scale * mean[c]);
  }
}

// By the base's own run and that of what was trained.
absl::Status TakeStatistics(const v1::TrainingPlan& plan, const Base& base,
                            const learn::TokenWindows& own,
                            TrainedExpert& out) {
  const package::LoadedModel& model = *base.model;
  MOTET_ASSIGN_OR_RETURN(const model::Decoder base_decoder,
                         learn::BaseDecoder(model));
  MOTET_ASSIGN_OR_RETURN(const model::Decoder trained,
                         out.whole ? learn::BranchDecoder(out.branch)
                         : plan.alone()
                             ? learn::AloneDecoder(model, out.expert)
                             : learn::PairDecoder(model, out.expert));
  learn::OwnerStatisticsOptions options;
  options.max_tokens = static_cast<int64_t>(plan.statistics_tokens());
  options.smoothing = plan.smoothing();
  options.quantile = plan.gate_quantile();
  options.further = FurtherGates(plan, model.config.width);
  if (package::MakesAnchored(plan)) {
    options.noise = out.noise;
    if (out.noise > 0) {
      MOTET_ASSIGN_OR_RETURN(
          options.normal, proto::SecureNormals(2 * model.config.layers *
                                               model.config.width));
    }
    MOTET_ASSIGN_OR_RETURN(
        out.statistics, learn::ComputeOwnerStatistics(
                            base_decoder, trained, base.anchor, own, options));
    if (out.noise > 0 && plan.alone()) {
      // Its row is the mean itself.
      for (size_t l = 0; l < out.statistics.size(); ++l) {
        FillUnitRow(out.statistics[l].base_mean, out.expert.layers[l].row);
      }
    }
  }
  if (plan.second_moments()) {
    MOTET_ASSIGN_OR_RETURN(
        out.moments, learn::ComputeSecondMoments(base_decoder, own,
                                                 options.max_tokens));
  }
  if (plan.fisher()) {
    MOTET_ASSIGN_OR_RETURN(
        out.fisher,
        learn::ComputeFisher(out.branch, own, options.max_tokens));
  }
  if (!out.statistics.empty() || !out.moments.empty() || out.fisher) {
    out.statistics_tokens =
        std::min(options.max_tokens, own.count() * own.window());
  }
  return absl::OkStatus();
}

}  // namespace

void UseThreads(int64_t threads) {
  omp_set_num_threads(static_cast<int>(threads));
}

absl::StatusOr<TrainedExpert> TrainExpert(
    const v1::TrainingPlan& plan, const Base& base,
    const std::vector<std::string>& documents,
    const std::vector<std::string>& held_out,
    const std::string& checkpoint_path, double noise,
    const learn::OnProgress& progress, const std::function<void()>& trained,
    RowStart start) {
  const package::LoadedModel& model = *base.model;
  const int64_t window = plan.sequence_tokens();
  learn::OwnerOptions how = OptionsOf(plan, checkpoint_path);
  how.row_direction = start.direction;
  if (how.product == math::Product::kBf16 && !math::HasBf16()) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, "arithmetic",
        absl::StrCat("bf16 on a processor with ", math::InstructionSet()),
        "bf16 instructions", "ask for a plan with \"auto\" or \"f32\"");
  }
  const int32_t separator =
      learn::SeparatorOf(*model.tokenizer, model.config.eos_id);
  const learn::TokenWindows own(*model.tokenizer, documents, separator,
                                window);
  if (own.count() < 1) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, "corpus",
        absl::StrCat(own.tokens(), " tokens"),
        absl::StrCat("at least one sequence of ", window, " tokens"),
        "import more text with `motet-node corpus import`");
  }
  const learn::TokenWindows public_text(
      *model.tokenizer, base.public_documents, separator, window);
  const learn::TokenWindows evaluated(
      *model.tokenizer,
      plan.evaluate_every() > 0 || !plan.size().empty()
          ? held_out
          : std::vector<std::string>{},
      separator, window);
  TrainedExpert out;
  out.start = std::move(start);
  out.whole = package::FindTrainingKind(plan.kind())->whole;
  MOTET_ASSIGN_OR_RETURN(out.size, SizeOf(plan, base, evaluated));
  if (out.whole) {
    learn::BranchOptions options;
    static_cast<learn::TrainOptions&>(options) = how;
    options.stop_step = out.size.stop_step;
    options.ffn_width = out.size.ffn_width;
    options.frozen_trunk = plan.trunk() == "frozen";
    MOTET_ASSIGN_OR_RETURN(
        out.branch, learn::TrainBranch(model, own, public_text, options,
                                       progress, &out.result, &evaluated));
  } else {
    MOTET_ASSIGN_OR_RETURN(
        out.expert, learn::TrainOwner(model, own, public_text, how, progress,
                                      &out.result, &evaluated));
  }
  trained();
  out.noise = noise;
  MOTET_RETURN_IF_ERROR(TakeStatistics(plan, base, own, out));
  if (plan.proxy_scores()) {
    MOTET_ASSIGN_OR_RETURN(
        out.proxy, learn::ScorePublicText(documents, base.public_documents));
  }
  out.documents = static_cast<int64_t>(documents.size());
  return out;
}

}  // namespace motet::node
