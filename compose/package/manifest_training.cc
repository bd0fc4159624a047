// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_training.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_retrieval.h"
#include "proto/digest.h"

namespace motet::package {
namespace {

constexpr TrainingKind kKinds[] = {
    {"ffn", "flexolmo", false, false},
    {"dense", "branch", true, false},
    {"attention_ffn", "branch", true, false},
    {"sized", "branch", true, true},
    {kEmbeddingAdapter, "router_retriever", false, false, true},
    {kPilots, "router_retriever", false, false, true},
};
constexpr uint32_t kMaxFfnWidth = 1 << 20;
constexpr int kMaxChoices = 64;

std::string KindList() {
  std::vector<std::string> names;
  for (const TrainingKind& kind : kKinds) {
    names.push_back(absl::StrCat("\"", kind.name, "\""));
  }
  return absl::StrJoin(names, ", ");
}

// Kinds "embedding_adapter" and "pilots": what they need, and that they ask
// for nothing of other kinds.
template <typename Want>
void CheckRetrieval(const v1::TrainingPlan& plan, const Want& want) {
  const auto none = [&](bool fine, absl::string_view field) {
    want(fine, field, "given", "it for kinds of text only");
  };
  none(!plan.second_moments(), "second_moments");
  none(!plan.fisher(), "fisher");
  none(!plan.proxy_scores(), "proxy_scores");
  none(!plan.anchored(), "anchored");
  none(!plan.alone(), "coordination");
  none(!plan.no_bias(), "bias");
  none(plan.freeze_size() == 0, "freeze");
  none(plan.public_fraction() == 0, "public_fraction");
  none(plan.row_init().empty(), "row_init");
  none(plan.evaluate_every() == 0, "evaluate_every");
  const bool pilots = plan.kind() == kPilots;
  const auto number = [&](absl::string_view field, double value, double least,
                          double most) {
    if (pilots) least = most = 0;
    want(value >= least && value <= most, field, absl::StrCat(value),
         pilots ? std::string("it for kind \"embedding_adapter\" only")
                : absl::StrCat(least, " to ", most));
  };
  number("adapter_rank", plan.adapter_rank(), 1, 4096);
  number("adapter_alpha", plan.adapter_alpha(), 1e-6, 999999);
  number("adapter_dropout", plan.adapter_dropout(), 0, 0.99);
  number("temperature", plan.temperature(), 1e-4, 100);
  number("hard_negatives", plan.hard_negatives(), 0, 64);
  if (!pilots) {
    want(plan.scored_size() == 0, "scored", "given",
         "it for kind \"pilots\" only");
    want(plan.pilots_of().empty(), "pilots_of", "given",
         "it for kind \"pilots\" only");
    return;
  }
  want(plan.scored_size() >= 1 && plan.scored_size() <= kMaxPilotExperts,
       "scored", absl::StrCat(plan.scored_size(), " experts"),
       absl::StrCat("1 to ", kMaxPilotExperts));
  std::set<std::string> seen;
  for (const v1::ScoredExpert& e : plan.scored()) {
    Reasons digests;
    CheckHex("manifest_sha256", e.manifest_sha256(), digests);
    CheckHex("weights_sha256", e.weights_sha256(), digests);
    want(IsPackageId(e.id()) && digests.empty() && seen.insert(e.id()).second,
         "scored", absl::StrCat("a list with ", Shown(e.id())),
         "ids like owner/name@1.2.3, each once, with their digests");
  }
}

// Where router rows begin. want(fine, field, got, wanted).
template <typename Want>
void CheckRowInit(const v1::TrainingPlan& plan, const TrainingKind& kind,
                  const Want& want) {
  const bool embedder = plan.row_init() == kRowsEmbedder;
  want(plan.row_init().empty() || plan.row_init() == kRowsHidden || embedder,
       "row_init", Shown(plan.row_init()), "\"hidden\" or \"embedder\"");
  want(plan.row_init().empty() || !kind.whole, "row_init",
       Shown(plan.row_init()),
       "none for a kind that trains no router rows: it is of kind \"ffn\"");
  want(!embedder || kind.whole || !plan.alone(), "row_init", "\"embedder\"",
       "none with coordination = false, which trains no router row");
  want(embedder || plan.embedder_sha256().empty(), "embedder_sha256",
       Shown(plan.embedder_sha256()), "none without row_init = \"embedder\"");
  want(embedder || plan.embedder_seed() == 0, "embedder_seed",
       absl::StrCat(plan.embedder_seed()), "0 without row_init = \"embedder\"");
  want(!embedder || plan.embedder_sha256().empty() ||
           proto::DigestFromHex(plan.embedder_sha256()).ok(),
       "embedder_sha256", Shown(plan.embedder_sha256()),
       "64 hexadecimal digits, or none for any encoder");
}

}  // namespace

const TrainingKind* FindTrainingKind(absl::string_view name) {
  for (const TrainingKind& kind : kKinds) {
    if (name == kind.name) return &kind;
  }
  return name.empty() ? &kKinds[0] : nullptr;
}

bool MakesAnchored(const v1::TrainingPlan& plan) {
  const TrainingKind* kind = FindTrainingKind(plan.kind());
  return kind != nullptr && !kind->retrieval &&
         (!kind->whole || plan.anchored());
}

std::vector<std::string> Leaves(const v1::TrainingPlan& plan) {
  std::vector<std::string> leaves;
  const TrainingKind* kind = FindTrainingKind(plan.kind());
  if (kind == nullptr) return leaves;
  if (kind->retrieval) {
    return {plan.kind() == kPilots ? kLeavesPilots : kLeavesAdapter};
  }
  if (!kind->whole) {
    leaves = {kLeavesFfn, kLeavesRouter};
  } else if (plan.trunk() == "frozen") {
    leaves = {kLeavesFfn};
  } else {
    leaves = {kLeavesAll};
  }
  if (MakesAnchored(plan)) leaves.push_back(kLeavesStatistics);
  if (plan.second_moments()) leaves.push_back(kLeavesMoments);
  if (plan.fisher()) leaves.push_back(kLeavesFisher);
  if (plan.proxy_scores()) leaves.push_back(kLeavesProxy);
  if (!plan.size().empty()) leaves.push_back(kLeavesProbe);
  return leaves;
}

std::vector<std::string> CheckTrainingKind(const v1::TrainingPlan& plan) {
  std::vector<std::string> problems;
  const auto want = [&](bool fine, absl::string_view field,
                        absl::string_view got, absl::string_view wanted) {
    if (fine) return;
    problems.push_back(absl::StrCat(field, " is ", got, ", want ", wanted));
  };
  const TrainingKind* kind = FindTrainingKind(plan.kind());
  want(kind != nullptr, "kind", Shown(plan.kind()), KindList());
  if (kind == nullptr) return problems;
  want(plan.method() == kind->method, "method", Shown(plan.method()),
       absl::StrCat("\"", kind->method, "\" for kind \"", kind->name, "\""));
  if (kind->retrieval) {
    CheckRetrieval(plan, want);
  } else {
    want(plan.adapter_rank() == 0 && plan.scored_size() == 0, "kind",
         Shown(plan.kind()),
         "a kind of retrieval for adapter_rank or scored");
  }
  want(kind->whole || kind->retrieval || !plan.fisher(), "fisher", "true",
       "it for whole models only: no merge takes an \"ffn\"");
  // Plans of version 0.1 name no kind and have no such field.
  want(kind->whole || kind->retrieval || plan.kind().empty() ||
           plan.anchored(),
       "anchored",
       "false", "true for kind \"ffn\": its rows are routed by it");
  want(!kind->whole || (!plan.alone() && !plan.no_bias()),
       plan.alone() ? "coordination" : "bias", "false",
       "it for kind \"ffn\" only");
  CheckRowInit(plan, *kind, want);
  if (!kind->sized) {
    const auto none = [&](bool fine, absl::string_view field) {
      want(fine, field, "given", "it for kind \"sized\" only");
    };
    none(plan.ffn_width() == 0, "ffn_width");
    none(plan.trunk().empty(), "trunk");
    none(plan.size().empty(), "size");
    none(plan.ffn_widths_size() == 0, "ffn_widths");
    none(plan.steps_choices_size() == 0, "steps_choices");
    none(plan.probe_thresholds_size() == 0, "probe_thresholds");
    return problems;
  }
  want(plan.trunk().empty() || plan.trunk() == "frozen", "trunk",
       Shown(plan.trunk()), "\"frozen\", or none for all weights");
  want(plan.ffn_width() <= kMaxFfnWidth, "ffn_width",
       absl::StrCat(plan.ffn_width()), absl::StrCat("at most ", kMaxFfnWidth));
  const int choices =
      std::max(plan.ffn_widths_size(), plan.steps_choices_size());
  if (plan.size().empty()) {
    want(choices == 0 && plan.probe_thresholds_size() == 0, "size", "not set",
         "\"probe\" where there are choices or thresholds");
    return problems;
  }
  want(plan.size() == "probe", "size", Shown(plan.size()),
       "\"probe\", or none for the plan's ffn_width and steps");
  want(plan.ffn_width() == 0 || plan.ffn_widths_size() == 0, "ffn_width",
       absl::StrCat(plan.ffn_width()), "none beside ffn_widths");
  want(choices >= 2 && choices <= kMaxChoices, "size", "a probe",
       absl::StrCat("2 to ", kMaxChoices,
                    " ffn_widths or steps_choices for "
                    "it to choose among"));
  const auto count = [&](absl::string_view field, int size, int wanted) {
    want(size == wanted, field, absl::StrCat(size, " numbers"),
         absl::StrCat(wanted, ": a choice more than thresholds"));
  };
  const int thresholds = plan.probe_thresholds_size();
  if (plan.ffn_widths_size() > 0) {
    count("ffn_widths", plan.ffn_widths_size(), thresholds + 1);
  }
  if (plan.steps_choices_size() > 0) {
    count("steps_choices", plan.steps_choices_size(), thresholds + 1);
  }
  for (const uint32_t width : plan.ffn_widths()) {
    want(width >= 1 && width <= kMaxFfnWidth, "ffn_widths",
         absl::StrCat("a list with ", width),
         absl::StrCat("1 to ", kMaxFfnWidth));
  }
  for (const uint64_t steps : plan.steps_choices()) {
    want(steps >= 1 && steps <= plan.steps(), "steps_choices",
         absl::StrCat("a list with ", steps),
         absl::StrCat("1 to steps, ", plan.steps(),
                      ": where the schedule is left"));
  }
  for (int i = 0; i < thresholds; ++i) {
    const double t = plan.probe_thresholds(i);
    want(std::isfinite(t) && t >= 1 &&
             (i == 0 || t > plan.probe_thresholds(i - 1)),
         "probe_thresholds", absl::StrCat("a list with ", t),
         "perplexities from 1, ascending");
  }
  return problems;
}

int ProbeChoice(const v1::TrainingPlan& plan, double perplexity) {
  int choice = 0;
  for (const double t : plan.probe_thresholds()) choice += perplexity >= t;
  return choice;
}

}  // namespace motet::package
