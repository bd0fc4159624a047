// SPDX-License-Identifier: Apache-2.0
#include "coordinator/training_plan.h"

#include <toml++/toml.h>

#include <cmath>
#include <span>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/schedule.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/manifest_training.h"
#include "proto/error.h"
#include "proto/identity.h"

namespace motet::coordinator {
namespace {

// One number of a plan: its key, default, range and meaning. METHODS 1 and 9
// have the sources of the defaults.
struct Number {
  const char* key;
  double value;
  double least, most;
  const char* meaning;
  const char* field = nullptr;  // of the plan; null: as the key
  const char* Field() const { return field == nullptr ? key : field; }
};
constexpr Number kTextNumbers[] = {
    {"steps", 200, 1, 1e8, "optimiser steps"},
    {"batch_sequences", 16, 1, 65536, "sequences a step"},
    {"sequence_tokens", 128, 8, 65536, "tokens a sequence"},
    {"learning_rate", 1e-3, 1e-9, 1, "at the top of the schedule"},
    {"warmup_steps", 20, 0, 1e8, "linear; default a tenth, at most 20"},
    {"final_lr_fraction", 0.1, 0, 1, "of the learning rate, at the end"},
    {"clip_norm", 1.0, 1e-6, 1e6, "of the gradient"},
    {"weight_decay", 0.0, 0, 1, "decoupled"},
    {"router_z_weight", 1e-3, 0, 1, "router z-loss"},
    {"lm_z_weight", 1e-5, 0, 1, "language-model z-loss"},
    {"public_fraction", 1.0 / 3, 0, 0.95, "public text in a batch"},
    {"seed", 1, 0, 9e15, "of the batches"},
    {"checkpoint_every", 50, 1, 1e8, "steps"},
    {"gate_quantile", 0.97, 0.5, 1, "q of the typicality gate"},
    {"smoothing", 0.8, 0, 0.999, "a of the anchored router"},
    {"statistics_tokens", 65536, 256, 1e10, "behind the published means"},
    {"decay_fraction", 0.2, 1e-3, 1, "of warmup-stable-decay"},
    {"accumulation", 1, 1, 65536, "pieces that a batch is computed in"},
    {"recompute_layers", 0, 0, 1e6, "run again, to save memory"},
    {"evaluate_every", 0, 0, 1e8, "steps, on held-out text; 0 = never"},
    {"evaluate_windows", 64, 0, 1e8, "held-out ones; 0 = all"},
    {"patience", 0, 0, 1e6, "evaluations; 0 = to the end"},
    {"spike_sigma", 6, 0, 1e6, "deviations of a spike; 0 = none is"},
    {"spike_window", 128, 2, 1e5, "losses that a spike is held against"},
    {"ffn_width", 0, 0, 1048576, "of kind \"sized\"; 0 = the base's"},
    {"embedder_seed", 0, 0, 9e15, "of row_init = \"embedder\""},
};
constexpr Number kAdapterNumbers[] = {
    {"steps", 200, 1, 1e8, "optimiser steps"},
    {"batch", 256, 1, 65536, "queries a step", "batch_sequences"},
    {"query_tokens", 0, 0, 65536, "of one query; 0 = the encoder's limit",
     "sequence_tokens"},
    {"max_queries", 0, 0, 1e9, "of the owner's, drawn by seed; 0 = all"},
    {"rank", 8, 1, 4096, "of the adapter", "adapter_rank"},
    {"alpha", 32, 1e-6, 999999, "scale = alpha / rank", "adapter_alpha"},
    {"dropout", 0.1, 0, 0.99, "of the adapter's input", "adapter_dropout"},
    {"temperature", 0.05, 1e-4, 100, "of the contrastive loss"},
    {"hard_negatives", 0, 0, 64, "a query, from the base's ranking"},
    {"learning_rate", 1e-4, 1e-9, 1, "after the warm-up, then in a line to 0"},
    {"warmup_steps", 20, 0, 1e8, "linear; default a tenth"},
    {"clip_norm", 1.0, 1e-6, 1e6, "of the gradient"},
    {"weight_decay", 0.0, 0, 1, "decoupled"},
    {"seed", 1, 0, 9e15, "of adapter and batches"},
    {"checkpoint_every", 50, 1, 1e8, "steps"},
};
constexpr Number kPilotNumbers[] = {
    {"max_queries", 0, 0, 1e9, "of the owner's, drawn by seed; 0 = all"},
    {"seed", 1, 0, 9e15, "of the queries drawn"},
};

std::span<const Number> NumbersOf(absl::string_view kind) {
  if (kind == package::kEmbeddingAdapter) return kAdapterNumbers;
  if (kind == package::kPilots) return kPilotNumbers;
  return kTextNumbers;
}

// Everything else: what a key takes, as a field of the plan has it.
struct Other {
  const char* key;
  const char* got;   // "text", as in "that is no text"
  const char* want;
};
constexpr char kText[] = "text", kTruth[] = "truth value",
               kTexts[] = "list of texts", kCounts[] = "list of counts",
               kReals[] = "list of numbers";
constexpr Other kOthers[] = {
    {"id", kText, "a string"},
    {"kind", kText, "a string"},
    {"method", kText, "a string"},
    {"expert_name", kText, "a string"},
    {"expert_version", kText, "a string"},
    {"owners", kTexts, "[\"owner.example\", …]"},
    {"schedule", kText, "a string"},
    {"arithmetic", kText, "a string"},
    {"freeze", kTexts, "[\"layers.0.*\", …]"},
    {"document_boundaries", kTruth, "true or false"},
    {"anchored", kTruth, "true or false"},
    {"second_moments", kTruth, "true or false"},
    {"fisher", kTruth, "true or false"},
    {"proxy_scores", kTruth, "true or false"},
    {"row_init", kText, "a string"},
    {"embedder_sha256", kText, "a string"},
    {"trunk", kText, "a string"},
    {"size", kText, "a string"},
    {"ffn_widths", kCounts, "[768, 1024, …]"},
    {"steps_choices", kCounts, "[300, 400, …]"},
    {"probe_thresholds", kReals, "[20.5, 30, …]"},
};

// Truth values of which the plan has the opposite, so that a plan of an older
// coordinator says yes.
struct Negated {
  const char* key;
  const char* field;
};
constexpr Negated kNegated[] = {{"coordination", "alone"}, {"bias", "no_bias"}};

const Negated* FindNegated(const std::string& key) {
  for (const Negated& n : kNegated) {
    if (key == n.key) return &n;
  }
  return nullptr;
}

const google::protobuf::FieldDescriptor* FieldOf(const char* name) {
  return v1::TrainingPlan::descriptor()->FindFieldByName(name);
}

const Other* FindOther(const std::string& key) {
  for (const Other& o : kOthers) {
    if (key == o.key) return &o;
  }
  return nullptr;
}

// Keys of kind "pilots" whose fields are others.
constexpr char kExperts[] = "experts", kOf[] = "of";

// False when the value is of another type than the key takes.
bool Set(v1::TrainingPlan& plan, const Other& other, const toml::node& value) {
  const auto* field =
      v1::TrainingPlan::descriptor()->FindFieldByName(other.key);
  const auto* reflection = plan.GetReflection();
  if (other.got == kText) {
    const auto text = value.value_exact<std::string>();
    if (text) reflection->SetString(&plan, field, *text);
    return text.has_value();
  }
  if (other.got == kTruth) {
    const auto truth = value.value_exact<bool>();
    if (truth) reflection->SetBool(&plan, field, *truth);
    return truth.has_value();
  }
  const toml::array* list = value.as_array();
  if (list == nullptr) return false;
  using F = google::protobuf::FieldDescriptor;
  for (const toml::node& entry : *list) {
    if (other.got == kTexts) {
      const auto text = entry.value_exact<std::string>();
      if (!text) return false;
      reflection->AddString(&plan, field, *text);
    } else if (other.got == kReals) {
      if (!entry.is_number()) return false;
      reflection->AddDouble(&plan, field, *entry.value<double>());
    } else {
      const auto count = entry.value_exact<int64_t>();
      if (!count || *count < 0 || *count > (int64_t{1} << 31)) return false;
      if (field->cpp_type() == F::CPPTYPE_UINT64) {
        reflection->AddUInt64(&plan, field, static_cast<uint64_t>(*count));
      } else {
        reflection->AddUInt32(&plan, field, static_cast<uint32_t>(*count));
      }
    }
  }
  return true;
}

// Ids alone; digests come when they are looked up.
bool SetExperts(v1::TrainingPlan& plan, const toml::node& value) {
  const toml::array* list = value.as_array();
  if (list == nullptr) return false;
  for (const toml::node& entry : *list) {
    const auto id = entry.value_exact<std::string>();
    if (!id) return false;
    plan.add_scored()->set_id(*id);
  }
  return true;
}

void SetNumber(v1::TrainingPlan& plan, const std::string& key, double value) {
  const auto* field = v1::TrainingPlan::descriptor()->FindFieldByName(key);
  const auto* reflection = plan.GetReflection();
  using F = google::protobuf::FieldDescriptor;
  if (field->cpp_type() == F::CPPTYPE_UINT64) {
    reflection->SetUInt64(&plan, field, static_cast<uint64_t>(value));
  } else if (field->cpp_type() == F::CPPTYPE_UINT32) {
    reflection->SetUInt32(&plan, field, static_cast<uint32_t>(value));
  } else {
    reflection->SetDouble(&plan, field, value);
  }
}

// Of what is counted, a fraction would be cut off in silence.
bool IsInteger(const std::string& field) {
  return v1::TrainingPlan::descriptor()->FindFieldByName(field)->cpp_type() !=
         google::protobuf::FieldDescriptor::CPPTYPE_DOUBLE;
}

double GetNumber(const v1::TrainingPlan& plan, const std::string& key) {
  const auto* field = v1::TrainingPlan::descriptor()->FindFieldByName(key);
  const auto* reflection = plan.GetReflection();
  using F = google::protobuf::FieldDescriptor;
  if (field->cpp_type() == F::CPPTYPE_UINT64) {
    return static_cast<double>(reflection->GetUInt64(plan, field));
  }
  if (field->cpp_type() == F::CPPTYPE_UINT32) {
    return reflection->GetUInt32(plan, field);
  }
  return reflection->GetDouble(plan, field);
}

}  // namespace

absl::StatusOr<v1::TrainingPlan> ParseTrainingPlan(const std::string& text,
                                                   const std::string& where) {
  v1::TrainingPlan plan;
  plan.set_kind("ffn");
  plan.set_expert_version("1.0.0");
  plan.set_arithmetic("f32");
  std::span<const Number> numbers = kTextNumbers;
  bool retrieval = false;
  bool warmup_given = false, share_given = false;
  std::vector<std::string> problems;
  try {
    const toml::table table = toml::parse(text, where);
    // The kind first: keys and defaults are the kind's.
    if (const auto kind = table["kind"].value_exact<std::string>()) {
      plan.set_kind(*kind);
    }
    numbers = NumbersOf(plan.kind());
    const auto* rules = package::FindTrainingKind(plan.kind());
    retrieval = rules != nullptr && rules->retrieval;
    if (!retrieval) {
      plan.set_anchored(true);
      plan.set_schedule("cosine");
    }
    for (const Number& n : numbers) SetNumber(plan, n.Field(), n.value);
    for (const auto& [key_node, value] : table) {
      const std::string key(key_node.str());
      const auto line = value.source().begin.line;
      const auto bad = [&](const std::string& got, const std::string& want) {
        problems.push_back(absl::StrCat("line ", line, ": got ", key, " ", got,
                                        ", want ", want));
      };
      if (const Negated* negated = FindNegated(key)) {
        if (const auto truth = value.value_exact<bool>()) {
          plan.GetReflection()->SetBool(&plan, FieldOf(negated->field),
                                        !*truth);
        } else {
          bad("that is no truth value", "true or false");
        }
        continue;
      }
      if (plan.kind() == package::kPilots && key == kExperts) {
        if (!SetExperts(plan, value)) {
          bad("that is no list of texts", "[\"owner/name@1.0.0\", …]");
        }
        continue;
      }
      if (plan.kind() == package::kPilots && key == kOf) {
        if (const auto name = value.value_exact<std::string>()) {
          plan.set_pilots_of(*name);
        } else {
          bad("that is no text", "a string");
        }
        continue;
      }
      if (const Other* other = FindOther(key)) {
        if (!Set(plan, *other, value)) {
          bad(absl::StrCat("that is no ", other->got), other->want);
        }
        continue;
      }
      bool known = false;
      for (const Number& n : numbers) {
        if (key != n.key) continue;
        known = true;
        const double number =
            value.is_number() ? value.value<double>().value_or(NAN) : NAN;
        const bool integer = IsInteger(n.Field());
        if (!(number >= n.least && number <= n.most) ||
            (integer && number != std::floor(number))) {
          bad(std::isnan(number) ? "that is no number" : absl::StrCat(number),
              absl::StrFormat("%s from %.15g to %.15g",
                              integer ? "an integer" : "a number", n.least,
                              n.most));
        } else {
          SetNumber(plan, n.Field(), number);
          warmup_given = warmup_given || key == "warmup_steps";
          share_given = share_given || key == "public_fraction";
        }
      }
      if (!known) {
        std::vector<std::string> keys;
        for (const Other& o : kOthers) keys.push_back(o.key);
        for (const Negated& n : kNegated) keys.push_back(n.key);
        for (const Number& n : numbers) keys.push_back(n.key);
        if (plan.kind() == package::kPilots) {
          keys.insert(keys.end(), {kExperts, kOf});
        }
        bad("(unknown key)",
            absl::StrCat("one of ", absl::StrJoin(keys, ", ")));
      }
    }
  } catch (const toml::parse_error& e) {
    return proto::Invalid(absl::StrCat(where, ":", e.source().begin.line),
                          std::string(e.description()), "TOML",
                          "correct the line");
  }
  if (!proto::CheckName(where, plan.id()).ok()) {
    problems.push_back(absl::StrCat("got id \"", plan.id(),
                                    "\", want lower-case letters, digits and "
                                    "dashes"));
  }
  const package::TrainingKind* kind = package::FindTrainingKind(plan.kind());
  if (plan.method().empty() && kind != nullptr) {
    plan.set_method(kind->method);
  }
  // Whoever offers the plan knows the experts' digests, and all of them where
  // none is named: held against the kind's rules then.
  const bool resolved = plan.kind() != package::kPilots;
  for (std::string& problem : package::CheckTrainingKind(plan)) {
    if (!resolved && absl::StartsWith(problem, "scored ")) continue;
    problems.push_back(std::move(problem));
  }
  if (plan.arithmetic() != "f32" && plan.arithmetic() != "bf16" &&
      plan.arithmetic() != "auto") {
    problems.push_back(absl::StrCat("got arithmetic \"", plan.arithmetic(),
                                    "\", want \"f32\", \"bf16\" or "
                                    "\"auto\""));
  }
  // A row must learn from public text when to be silent; alone there is none.
  if (plan.alone() && !share_given) plan.set_public_fraction(0);
  if (retrieval) {
    if (!warmup_given) plan.set_warmup_steps(plan.steps() / 10);
  } else if (!warmup_given) {
    plan.set_warmup_steps(static_cast<uint64_t>(learn::DefaultWarmupSteps(
        static_cast<int64_t>(plan.steps()))));
  }
  learn::ScheduleShape shape;
  if (retrieval ? !plan.schedule().empty()
                : !learn::FindSchedule(plan.schedule(), &shape)) {
    problems.push_back(
        absl::StrCat("got schedule \"", plan.schedule(), "\", want ",
                     retrieval ? "none: this kind's falls in a line to 0"
                               : absl::StrCat("one of ",
                                              absl::StrJoin(
                                                  learn::ScheduleNames(),
                                                  ", "))));
  }
  if (!retrieval && plan.accumulation() > plan.batch_sequences()) {
    problems.push_back(absl::StrCat("got ", plan.accumulation(),
                                    " pieces of a batch of ",
                                    plan.batch_sequences(),
                                    " sequences, want at most as many"));
  }
  if (plan.patience() > 0 && plan.evaluate_every() == 0) {
    problems.push_back(absl::StrCat("got patience ", plan.patience(),
                                    " without evaluate_every, want both"));
  }
  if (plan.warmup_steps() > plan.steps()) {
    problems.push_back(absl::StrCat("got ", plan.warmup_steps(),
                                    " warm-up steps of ", plan.steps(),
                                    ", want at most as many"));
  }
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("[", where, "] ", absl::StrJoin(problems, "; "),
                     "; correct the plan"));
  }
  for (const std::string& what : package::Leaves(plan)) {
    plan.add_publishes(what);
  }
  return plan;
}

std::string DescribePlan(const v1::TrainingPlan& plan) {
  std::string out = absl::StrFormat(
      "plan %s: %s, kind %s, beside %s\n", plan.id(), plan.method(),
      plan.kind(), plan.base().id());
  for (const Number& n : NumbersOf(plan.kind())) {
    absl::StrAppend(&out,
                    absl::StrFormat("  %-18s %-10g %s\n", n.key,
                                    GetNumber(plan, n.Field()), n.meaning));
  }
  for (const v1::ScoredExpert& e : plan.scored()) {
    absl::StrAppend(&out, "  scores with        ", e.id(), "\n");
  }
  absl::StrAppend(&out, "  arithmetic         ", plan.arithmetic(),
                  "\n");
  if (!plan.schedule().empty()) {
    absl::StrAppend(&out, "  schedule           ", plan.schedule(),
                  plan.document_boundaries() ? ", documents apart" : "",
                  plan.freeze().empty()
                      ? ""
                      : absl::StrCat(", frozen: ",
                                     absl::StrJoin(plan.freeze(), " ")),
                  "\n");
  }
  if (plan.alone() || plan.no_bias()) {
    absl::StrAppend(&out, "  ablations          ",
                    plan.alone() ? "coordination = false" : "",
                    plan.alone() && plan.no_bias() ? ", " : "",
                    plan.no_bias() ? "bias = false" : "", "\n");
  }
  if (plan.row_init() == package::kRowsEmbedder) {
    absl::StrAppend(&out, "  router rows        begin with the embedder ",
                    plan.embedder_sha256().empty() ? "that each node names"
                                                   : plan.embedder_sha256(),
                    "\n");
  }
  absl::StrAppend(&out, "  would publish      ",
                  absl::StrJoin(plan.publishes(), "; "), "\n");
  return out;
}

}  // namespace motet::coordinator
