// SPDX-License-Identifier: Apache-2.0
// What stands before the step loop: options with their defaults filled in,
// everything that is wrong with them in one error, and the words in which a
// checkpoint says which run it belongs to.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/hash.h"
#include "compose/learn/loop.h"
#include "compose/learn/schedule.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

// documents: where they begin counts too.
std::string WindowsLine(const std::string& name, const TokenWindows* windows,
                        bool documents) {
  if (windows == nullptr) return absl::StrCat(name, " = none");
  Fingerprint sum;
  for (int64_t i = 0; i < windows->count(); ++i) {
    const std::span<const int32_t> ids = windows->at(i);
    sum.Add(ids.data(), static_cast<int64_t>(ids.size_bytes()));
    if (!documents) continue;
    for (std::span<const int32_t> part : windows->documents(i)) {
      sum.Add(static_cast<uint64_t>(part.size()));
    }
  }
  return absl::StrCat(name, " = ", windows->count(), " windows ", sum.Hex());
}

bool AllBelow(const TokenWindows& windows, int64_t vocabulary) {
  for (int64_t i = 0; i < windows.count(); ++i) {
    for (int32_t id : windows.at(i)) {
      if (id < 0 || id >= vocabulary) return false;
    }
  }
  return true;
}

}  // namespace

TrainOptions Resolved(TrainOptions options) {
  if (options.warmup_steps < 0) {
    options.warmup_steps = DefaultWarmupSteps(options.steps);
  }
  return options;
}

Description Describe(const Run& run, const TrainOptions& options) {
  const auto exact = [](double value) {
    return absl::StrFormat("%.17g", value);
  };
  Description lines = {
      absl::StrCat("run = ", run.name),
      absl::StrCat("steps = ", options.steps),
      absl::StrCat("batch_sequences = ", options.batch_sequences),
      absl::StrCat("sequence_tokens = ", options.sequence_tokens),
      absl::StrCat("learning_rate = ", exact(options.learning_rate)),
      absl::StrCat("warmup_steps = ", options.warmup_steps),
      absl::StrCat("final_lr_fraction = ", exact(options.final_lr_fraction)),
      absl::StrCat("clip_norm = ", exact(options.clip_norm)),
      absl::StrCat("weight_decay = ", exact(options.weight_decay)),
      absl::StrCat("router_z_weight = ", exact(options.router_z_weight)),
      absl::StrCat("lm_z_weight = ", exact(options.lm_z_weight)),
      absl::StrCat("public_fraction = ", exact(options.public_fraction)),
      absl::StrCat("seed = ", options.seed),
      WindowsLine("text", run.own, options.document_boundaries),
      WindowsLine("public_text", run.public_text,
                  options.document_boundaries),
  };
  // Lines of what is younger stand only where it is used, so that a
  // checkpoint made without it still fits.
  const auto line = [&](bool used, const auto&... text) {
    if (used) lines.push_back(absl::StrCat(text...));
  };
  line(options.schedule != ScheduleShape::kCosine, "schedule = ",
       Name(options.schedule));
  line(options.schedule == ScheduleShape::kWarmupStableDecay,
       "decay_fraction = ", exact(options.decay_fraction));
  line(options.stop_step > 0, "stop_step = ", options.stop_step);
  line(options.accumulation != 1, "accumulation = ", options.accumulation);
  line(options.document_boundaries, "document_boundaries = true");
  line(options.spike_sigma != 6 || options.spike_window != 128,
       "spikes = ", exact(options.spike_sigma), " of ", options.spike_window);
  // Evaluating moves no bit of the weights; stopping by it does.
  line(options.evaluate_every > 0, "evaluate_every = ",
       options.evaluate_every, ", ",
       WindowsLine("held_out", run.held_out, options.document_boundaries),
       ", of them ", options.evaluate_windows, ", patience ",
       options.patience);
  line(options.load_balance_weight != 0, "load_balance_weight = ",
       exact(options.load_balance_weight),
       options.load_balance_counts ? " by counts" : " by gates");
  line(options.product == math::Product::kBf16, "arithmetic = bf16");
  line(!options.freeze.empty(), "freeze = ",
       absl::StrJoin(options.freeze, " "));
  std::vector<math::Tensor> start;
  for (const Parameter& p : run.parameters) start.push_back(p.value);
  lines.push_back(DigestLine("start", start));
  lines.insert(lines.end(), run.description.begin(), run.description.end());
  return lines;
}

std::string DigestLine(const std::string& name,
                       const std::vector<math::Tensor>& tensors) {
  Fingerprint sum;
  for (const math::Tensor& t : tensors) sum.Add(t.data, t.bytes());
  return absl::StrCat(name, " = ", sum.Hex());
}

std::string BaseLine(const package::LoadedModel& base) {
  std::vector<math::Tensor> tensors;
  model::ModelWeights views = base.weights;
  VisitWeights(base.config, views,
               [&](const std::string&, const math::Shape&,
                   math::Tensor& tensor) { tensors.push_back(tensor); });
  return DigestLine("base", tensors);
}

absl::Status CheckRun(const std::string& name, const TrainOptions& asked,
                      const model::ModelConfig& config,
                      const TokenWindows& own,
                      const TokenWindows* public_text,
                      const TokenWindows* held_out) {
  const TrainOptions options = Resolved(asked);
  std::vector<std::string> reasons;
  const auto want = [&](bool fine, const auto&... reason) {
    if (!fine) reasons.push_back(absl::StrCat(reason...));
  };
  const auto fraction = [](double f) { return f >= 0 && f <= 1; };
  const int64_t length = options.sequence_tokens;
  want(options.steps >= 1, options.steps, " steps (want at least 1)");
  want(options.stop_step >= 0 && options.stop_step <= options.steps,
       "a stop after step ", options.stop_step, " of ", options.steps);
  want(options.batch_sequences >= 1, "batches of ", options.batch_sequences,
       " sequences (want at least 1)");
  want(length >= 2, "sequences of ", length, " tokens (want at least 2)");
  want(config.max_positions <= 0 || length <= config.max_positions,
       "sequences of ", length, " tokens (the model takes at most ",
       config.max_positions, ")");
  want(std::isfinite(options.learning_rate) && options.learning_rate > 0,
       "learning rate ", options.learning_rate, " (want above 0)");
  want(fraction(options.decay_fraction) && options.decay_fraction > 0,
       "decay_fraction ", options.decay_fraction, " (want above 0, to 1)");
  want(options.accumulation >= 1 &&
           options.accumulation <=
               std::max<int64_t>(1, options.batch_sequences),
       "batches of ", options.batch_sequences, " sequences in ",
       options.accumulation, " pieces (want 1 to as many as sequences)");
  want(options.recompute_layers >= -1, options.recompute_layers,
       " layers to recompute (want 0 or more; -1 for all)");
  want(fraction(options.final_lr_fraction), "final_lr_fraction ",
       options.final_lr_fraction, " (want 0 to 1)");
  want(options.weight_decay >= 0, "weight decay ", options.weight_decay);
  want(options.load_balance_weight >= 0, "load_balance_weight ",
       options.load_balance_weight, " (want 0 or more)");
  want(options.load_balance_weight == 0 ||
           (options.recompute_layers == 0 && options.memory_bytes == 0),
       "load_balance_weight with layers that run again (want one of the two)");
  want(fraction(options.public_fraction), "public_fraction ",
       options.public_fraction, " (want 0 to 1)");
  want(options.checkpoint_every <= 0 || !options.checkpoint_path.empty(),
       "checkpoint_every without a checkpoint_path");
  want(own.count() > 0, "text of ", own.tokens(), " tokens, fewer than one ",
       "window of ", own.window());
  want(own.window() == length, "windows of ", own.window(),
       " tokens for sequences of ", length);
  want(AllBelow(own, config.vocabulary),
       "token ids beyond the model's vocabulary of ", config.vocabulary);
  const bool mixes = options.public_fraction > 0;
  want(!mixes || (public_text != nullptr && public_text->count() > 0),
       "public_fraction ", options.public_fraction,
       " but not one window of public text");
  if (public_text != nullptr && public_text->count() > 0) {
    want(public_text->window() == length, "public windows of ",
         public_text->window(), " tokens for sequences of ", length);
    want(AllBelow(*public_text, config.vocabulary),
         "public token ids beyond the model's vocabulary of ",
         config.vocabulary);
  }
  want(options.evaluate_every >= 0 && options.evaluate_windows >= 0 &&
           options.patience >= 0,
       "negative evaluate_every, evaluate_windows or patience");
  want(options.patience <= 0 || options.evaluate_every > 0, "patience ",
       options.patience, " without evaluate_every");
  want(std::isfinite(options.spike_sigma) && options.spike_window >= 2,
       "spikes by ", options.spike_sigma, " deviations of ",
       options.spike_window, " losses (want a number, at least 2)");
  if (options.evaluate_every > 0) {
    const bool text = held_out != nullptr && held_out->count() > 0;
    want(text, "evaluate_every ", options.evaluate_every,
         " but not one window of held-out text");
    want(!text || (held_out->window() == length &&
                   AllBelow(*held_out, config.vocabulary)),
         "held-out windows that are not like those of the training text");
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid(absl::StrCat("training of ", name),
                        absl::StrJoin(reasons, "; "),
                        "options and text that fit the model",
                        "correct the training plan");
}

}  // namespace motet::learn
