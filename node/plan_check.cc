// SPDX-License-Identifier: Apache-2.0
#include "node/plan_check.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/schedule.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/manifest_training.h"
#include "google/protobuf/util/json_util.h"
#include "node/row_start.h"
#include "proto/digest.h"
#include "proto/identity.h"

namespace motet::node {
namespace {

// Kinds of plans that a number is of.
enum Of : unsigned { kText = 1, kAdapters = 2, kOfPilots = 4 };
constexpr unsigned kTrained = kText | kAdapters;
constexpr unsigned kRetrieval = kAdapters | kOfPilots;

// One row a number of the plan: where it lies and what it may be. The limits
// are wide; the owner's own, narrower ones are in policy.toml.
struct Bound {
  const char* field;
  double (*value)(const v1::TrainingPlan&);
  double least, most;
  unsigned of = kText;
};

template <auto Getter>
double Get(const v1::TrainingPlan& plan) {
  return static_cast<double>((plan.*Getter)());
}

using P = v1::TrainingPlan;
constexpr Bound kBounds[] = {
    {"steps", Get<&P::steps>, 1, 1e8, kTrained},
    {"batch_sequences", Get<&P::batch_sequences>, 1, 65536, kTrained},
    {"sequence_tokens", Get<&P::sequence_tokens>, 2, 131072},
    {"sequence_tokens", Get<&P::sequence_tokens>, 0, 131072, kRetrieval},
    {"max_queries", Get<&P::max_queries>, 0, 1e9, kRetrieval},
    {"learning_rate", Get<&P::learning_rate>, 1e-9, 1, kTrained},
    {"warmup_steps", Get<&P::warmup_steps>, 0, 1e8, kTrained},
    {"final_lr_fraction", Get<&P::final_lr_fraction>, 0, 1},
    {"clip_norm", Get<&P::clip_norm>, 1e-6, 1e6, kTrained},
    {"weight_decay", Get<&P::weight_decay>, 0, 1, kTrained},
    {"router_z_weight", Get<&P::router_z_weight>, 0, 1},
    {"lm_z_weight", Get<&P::lm_z_weight>, 0, 1},
    {"public_fraction", Get<&P::public_fraction>, 0, 0.95},
    {"checkpoint_every", Get<&P::checkpoint_every>, 0, 1e8, kTrained},
    {"gate_quantile", Get<&P::gate_quantile>, 0.5, 1},
    {"smoothing", Get<&P::smoothing>, 0, 0.9999},
    {"statistics_tokens", Get<&P::statistics_tokens>, 1, 1e10},
    {"decay_fraction", Get<&P::decay_fraction>, 0, 1},
    {"evaluate_every", Get<&P::evaluate_every>, 0, 1e8},
    {"evaluate_windows", Get<&P::evaluate_windows>, 0, 1e8},
    {"spike_sigma", Get<&P::spike_sigma>, 0, 1e6},
    {"spike_window", Get<&P::spike_window>, 0, 1e5},
};
constexpr double kMaxBatchTokens = 1 << 22;
constexpr double kEncoderTokens = 512;  // where the encoder's limit counts

unsigned OfKind(const v1::TrainingPlan& plan) {
  const package::TrainingKind* kind = package::FindTrainingKind(plan.kind());
  if (kind == nullptr || !kind->retrieval) return kText;
  return plan.kind() == package::kPilots ? kOfPilots : kAdapters;
}

double SequenceTokens(const v1::TrainingPlan& plan) {
  return plan.sequence_tokens() == 0 ? kEncoderTokens : plan.sequence_tokens();
}

constexpr int kMaxTextBytes = 200;
constexpr int kMaxListEntries = 1000;

// Text of the plan as a message may show it: bounded, printable.
std::string Shown(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 60)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return out + (text.size() > 60 ? "…\"" : "\"");
}

bool IsVersion(absl::string_view text) {
  int dots = 0, digits = 0;
  for (const char c : text) {
    if (c == '.') {
      if (digits == 0) return false;
      ++dots;
      digits = 0;
    } else if (c >= '0' && c <= '9') {
      if (++digits > 9) return false;
    } else {
      return false;
    }
  }
  return dots == 2 && digits > 0;
}

// How kind "sized" differs from the base; empty where it does not.
std::string SizeText(const v1::TrainingPlan& plan) {
  std::string text;
  const auto add = [&](absl::string_view part) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", part);
  };
  if (plan.ffn_width() > 0) {
    add(absl::StrCat("FFN width ", plan.ffn_width()));
  }
  if (plan.trunk() == "frozen") add("FFNs alone, the rest stays the base's");
  if (plan.size().empty()) return text;
  if (plan.ffn_widths_size() > 0) {
    add(absl::StrCat("FFN width ", absl::StrJoin(plan.ffn_widths(), ", ")));
  }
  if (plan.steps_choices_size() > 0) {
    add(absl::StrCat("steps ", absl::StrJoin(plan.steps_choices(), ", ")));
  }
  add(absl::StrCat("chosen by the base's perplexity on your held-out text, at ",
                   absl::StrJoin(plan.probe_thresholds(), ", ")));
  return text;
}

}  // namespace

bool IsPlanId(absl::string_view id) {
  if (id.empty() || id.size() > 64) return false;
  for (const char c : id) {
    if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-') {
      return false;
    }
  }
  return true;
}

std::vector<std::string> CheckPlan(const v1::TrainingPlan& plan,
                                   const std::string& federation,
                                   const std::string& owner) {
  std::vector<std::string> problems;
  const auto want = [&](bool fine, absl::string_view field,
                        absl::string_view got, absl::string_view wanted) {
    if (!fine) {
      problems.push_back(
          absl::StrCat(field, " is ", got, ", want ", wanted));
    }
  };
  want(IsPlanId(plan.id()), "id", Shown(plan.id()),
       "1 to 64 of a-z, 0-9 and '-'");
  for (std::string& problem : package::CheckTrainingKind(plan)) {
    problems.push_back(std::move(problem));
  }
  want(plan.expert_name().empty() ||
           proto::CheckName("expert_name", plan.expert_name()).ok(),
       "expert_name", Shown(plan.expert_name()),
       "a name of a-z, 0-9, '.' and '-'");
  want(IsVersion(plan.expert_version()), "expert_version",
       Shown(plan.expert_version()), "a version like 1.0.0");
  for (const auto& [field, hex] :
       {std::pair{"base.manifest_sha256", plan.base().manifest_sha256()},
        std::pair{"base.weights_sha256", plan.base().weights_sha256()},
        std::pair{"base.tokenizer_sha256", plan.base().tokenizer_sha256()}}) {
    want(proto::DigestFromHex(hex).ok(), field, Shown(hex),
         "64 hexadecimal digits");
  }
  want(plan.base().id().size() <= kMaxTextBytes, "base.id",
       Shown(plan.base().id()), "at most 200 bytes");
  const unsigned of = OfKind(plan);
  for (const Bound& b : kBounds) {
    if ((b.of & of) == 0) continue;
    const double value = b.value(plan);
    // Written so that NaN is a problem too.
    want(value >= b.least && value <= b.most, b.field,
         absl::StrFormat("%g", value),
         absl::StrFormat("%g to %g", b.least, b.most));
  }
  want(plan.arithmetic().empty() || plan.arithmetic() == "f32" ||
           plan.arithmetic() == "bf16" || plan.arithmetic() == "auto",
       "arithmetic", Shown(plan.arithmetic()),
       "\"f32\", \"bf16\" or \"auto\"");
  const double batch_tokens = static_cast<double>(plan.batch_sequences()) *
                              SequenceTokens(plan);
  want(batch_tokens <= kMaxBatchTokens, "batch_sequences * sequence_tokens",
       absl::StrFormat("%g", batch_tokens),
       absl::StrFormat("at most %g", kMaxBatchTokens));
  want(plan.warmup_steps() <= plan.steps(), "warmup_steps",
       absl::StrCat(plan.warmup_steps()),
       absl::StrCat("at most steps, ", plan.steps()));
  learn::ScheduleShape shape;
  want(plan.schedule().empty() || learn::FindSchedule(plan.schedule(), &shape),
       "schedule", Shown(plan.schedule()),
       absl::StrJoin(learn::ScheduleNames(), ", "));
  want(plan.accumulation() <= std::max(1u, plan.batch_sequences()),
       "accumulation",
       absl::StrCat(plan.accumulation()),
       absl::StrCat("at most batch_sequences, ", plan.batch_sequences()));
  want(plan.patience() == 0 || plan.evaluate_every() > 0, "patience",
       absl::StrCat(plan.patience()), "0 without evaluate_every");
  want(plan.freeze_size() <= kMaxListEntries, "freeze",
       absl::StrCat(plan.freeze_size(), " entries"), "at most 1000");
  for (const std::string& pattern : plan.freeze()) {
    want(pattern.size() <= kMaxTextBytes, "freeze", Shown(pattern),
         "at most 200 bytes");
  }
  want(plan.publishes_size() > 0 && plan.publishes_size() <= kMaxListEntries,
       "publishes", absl::StrCat(plan.publishes_size(), " entries"),
       "1 to 1000: a plan says what would leave the node");
  for (const std::string& what : plan.publishes()) {
    want(what.size() <= kMaxTextBytes, "publishes", Shown(what),
         "at most 200 bytes");
  }
  const auto issuer = proto::ParseSpiffeId(plan.issued_by());
  want(issuer.ok() && issuer->role == "coordinator" &&
           issuer->federation == federation,
       "issued_by", Shown(plan.issued_by()),
       absl::StrCat("a coordinator of federation ", federation));
  want(plan.owners_size() <= kMaxListEntries, "owners",
       absl::StrCat(plan.owners_size(), " entries"), "at most 1000");
  bool for_us = plan.owners_size() == 0;
  for (const std::string& o : plan.owners()) for_us |= o == owner;
  want(for_us, "owners", "a list without this owner",
       absl::StrCat("one with ", owner));
  if (of == kOfPilots && plan.scored_size() <= package::kMaxPilotExperts) {
    want(OwnScored(plan, owner) != nullptr, "scored",
         plan.pilots_of().empty()
             ? absl::StrCat("a list without one adapter of ", owner,
                            ", or with several and no pilots_of")
             : absl::StrCat("a list without ", owner, "/",
                            Shown(plan.pilots_of())),
         "the owner's own adapter among them");
  }
  return problems;
}

double PlanTokens(const v1::TrainingPlan& plan) {
  return static_cast<double>(plan.steps()) *
         static_cast<double>(plan.batch_sequences()) * SequenceTokens(plan);
}

std::vector<std::string> WouldPublish(const v1::TrainingPlan& plan) {
  std::set<std::string> all(plan.publishes().begin(), plan.publishes().end());
  for (std::string& what : package::Leaves(plan)) all.insert(std::move(what));
  return {all.begin(), all.end()};
}

const v1::ScoredExpert* OwnScored(const v1::TrainingPlan& plan,
                                  const std::string& owner) {
  const v1::ScoredExpert* found = nullptr;
  for (const v1::ScoredExpert& e : plan.scored()) {
    const bool own =
        plan.pilots_of().empty()
            ? absl::StartsWith(e.id(), absl::StrCat(owner, "/"))
            : absl::StartsWith(
                  e.id(), absl::StrCat(owner, "/", plan.pilots_of(), "@"));
    if (!own) continue;
    if (found != nullptr) return nullptr;
    found = &e;
  }
  return found;
}

std::string PackageId(const v1::TrainingPlan& plan, const Settings& settings) {
  std::string name =
      plan.expert_name().empty() ? settings.domain : plan.expert_name();
  if (OfKind(plan) == kOfPilots && plan.expert_name().empty()) {
    if (const auto* own = OwnScored(plan, settings.owner)) {
      name = own->id().substr(settings.owner.size() + 1);
      name.resize(name.find('@'));
    }
    name = absl::StrCat("pilots-", name);
  }
  return absl::StrCat(settings.owner, "/", name, "@", plan.expert_version());
}

namespace {

using Line =
    std::function<void(absl::string_view name, absl::string_view value)>;

// What is done with an owner's queries, and what of it leaves.
void DescribeRetrieval(const v1::TrainingPlan& plan,
                       const absl::StatusOr<Policy>& policy,
                       const Line& line) {
  const std::string most =
      plan.max_queries() == 0
          ? "all of your training queries"
          : absl::StrCat("at most ", plan.max_queries(),
                         " of your training queries");
  if (OfKind(plan) == kAdapters) {
    line("trains",
         absl::StrFormat("a LoRA adapter of rank %d (alpha %g, dropout %g) of "
                         "the query encoder, on %s and the documents that "
                         "answer them; %d steps of %d queries",
                         plan.adapter_rank(), plan.adapter_alpha(),
                         plan.adapter_dropout(), most, plan.steps(),
                         plan.batch_sequences()));
    line("optimiser",
         absl::StrFormat("AdamW, rate %g after %d warm-up steps, then in a "
                         "line to 0; clip %g; decay %g; temperature %g; %d "
                         "hard negatives a query; seed %d",
                         plan.learning_rate(), plan.warmup_steps(),
                         plan.clip_norm(), plan.weight_decay(),
                         plan.temperature(), plan.hard_negatives(),
                         plan.seed()));
    line("leaves", "the adapter: its two factors for the query and value "
                   "projections of every layer, and the number of queries; "
                   "no query, no document and no vector of one");
    return;
  }
  std::vector<std::string> ids;
  for (const v1::ScoredExpert& e : plan.scored()) ids.push_back(e.id());
  line("ranks", absl::StrCat(most, " against your documents with each of ",
                             ids.size(), " adapters, fetched from the "
                             "registry: ", absl::StrJoin(ids, ", ")));
  line("leaves",
       absl::StrFormat(
           "at most %d mean vectors, one for each adapter that ranks best for "
           "enough of your queries, each with the number of queries behind "
           "it and its reach, the cosine to the mean that nine tenths of them "
           "have or exceed, and how many groups were too small; no query, no "
           "document and no ranking",
           plan.scored_size()));
  if (!policy.ok()) return;
  line("", absl::StrFormat("each is of %d queries at least%s (policy.toml, "
                           "[pilots])",
                           policy->min_queries,
                           policy->pilot_noise > 0
                               ? absl::StrFormat(", with noise of standard "
                                                 "deviation %g on every number",
                                                 policy->pilot_noise)
                               : ", without noise"));
}

}  // namespace

std::string DescribePlan(const v1::TrainingPlan& plan,
                         const Settings& settings,
                         const absl::StatusOr<Policy>& policy,
                         const std::string& indent) {
  std::string out;
  const auto line = [&](absl::string_view name, absl::string_view value) {
    absl::StrAppend(&out, indent, absl::StrFormat("%-12s", name), value, "\n");
  };
  line("plan", plan.id());
  line("method", absl::StrCat(plan.method(), ", kind ",
                              plan.kind().empty() ? "ffn" : plan.kind()));
  if (const std::string size = SizeText(plan); !size.empty()) {
    line("size", size);
  }
  line("issued", absl::StrCat("by ", plan.issued_by(), " at ",
                              plan.issued_at()));
  line("base", absl::StrCat(plan.base().id(), " (manifest ",
                            plan.base().manifest_sha256().substr(0, 16),
                            "…)"));
  line("makes", PackageId(plan, settings));
  const auto unread = [&] {
    if (policy.ok()) return;
    line("", absl::StrCat("policy.toml could not be read, so neither noise nor "
                          "floors are known; nothing runs before it can: ",
                          policy.status().message()));
  };
  if (OfKind(plan) != kText) {
    DescribeRetrieval(plan, policy, line);
    line("publishes", absl::StrJoin(WouldPublish(plan), "; "));
    unread();
    return out;
  }
  line("trains", absl::StrFormat(
                     "%d steps of %d sequences of %d tokens, %.3g tokens in "
                     "all; %.0f %% public text",
                     plan.steps(), plan.batch_sequences(),
                     plan.sequence_tokens(), PlanTokens(plan),
                     plan.public_fraction() * 100));
  line("optimiser",
       absl::StrFormat("AdamW, rate %g after %d warm-up steps, to %g of it; "
                       "clip %g; decay %g; seed %d",
                       plan.learning_rate(), plan.warmup_steps(),
                       plan.final_lr_fraction(), plan.clip_norm(),
                       plan.weight_decay(), plan.seed()));
  if (plan.alone()) line("", "the own FFN alone, no public one beside it");
  if (plan.no_bias()) line("", "without the owner's bias");
  if (plan.row_init() == package::kRowsEmbedder) {
    line("rows", absl::StrFormat(
                     "router rows begin with the mean vector of up to %d of "
                     "your documents less that of public ones, by %s, turned "
                     "by seed %d; trained from there, they leave as below",
                     kRowDocuments,
                     plan.embedder_sha256().empty()
                         ? "node.toml's embedder"
                         : absl::StrCat("the encoder ",
                                        plan.embedder_sha256().substr(0, 16),
                                        "… as node.toml's embedder"),
                     plan.embedder_seed()));
  }
  if (plan.proxy_scores()) {
    line("proxy", "a classifier of your text against the base's public text is "
                  "trained here; one score a public document leaves, neither "
                  "the classifier nor your text");
  }
  line("publishes", absl::StrJoin(WouldPublish(plan), "; "));
  if (package::MakesAnchored(plan)) {
    line("statistics",
         absl::StrFormat("means over up to %d tokens; thresholds at the %g "
                         "quantile",
                         plan.statistics_tokens(), plan.gate_quantile()));
    if (policy.ok() && policy->noise > 0) {
      line("", absl::StrFormat("noise of %g standard deviations is added to "
                               "the means (policy.toml)",
                               policy->noise));
    }
  }
  unread();
  return out;
}

std::string PlanJson(const v1::TrainingPlan& plan) {
  std::string json;
  // Fails only on strings that are not UTF-8, which protobuf refuses to
  // parse in the first place.
  (void)google::protobuf::util::MessageToJsonString(plan, &json);
  return json;
}

}  // namespace motet::node
