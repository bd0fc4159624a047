// SPDX-License-Identifier: Apache-2.0
#include "coordinator/training_plan.h"

#include <toml++/toml.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/schedule.h"
#include "proto/error.h"
#include "proto/identity.h"

namespace motet::coordinator {
namespace {

// One number of a plan: its key, default, range and meaning. METHODS 1 has
// the sources of the defaults.
struct Number {
  const char* key;
  double value;
  double least, most;
  const char* meaning;
};
constexpr Number kNumbers[] = {
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
};

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
bool IsInteger(const std::string& key) {
  return v1::TrainingPlan::descriptor()->FindFieldByName(key)->cpp_type() !=
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
  plan.set_method("flexolmo");
  plan.set_expert_version("1.0.0");
  plan.set_schedule("cosine");
  plan.set_arithmetic("f32");
  for (const Number& n : kNumbers) SetNumber(plan, n.key, n.value);
  bool warmup_given = false;
  std::vector<std::string> problems;
  try {
    const toml::table table = toml::parse(text, where);
    for (const auto& [key_node, value] : table) {
      const std::string key(key_node.str());
      const auto line = value.source().begin.line;
      const auto bad = [&](const std::string& got, const std::string& want) {
        problems.push_back(absl::StrCat("line ", line, ": got ", key, " ", got,
                                        ", want ", want));
      };
      if (key == "id" || key == "method" || key == "expert_version" ||
          key == "expert_name" || key == "schedule" ||
          key == "arithmetic") {
        const auto s = value.value<std::string>();
        if (!s) {
          bad("that is no text", "a string");
        } else if (key == "id") {
          plan.set_id(*s);
        } else if (key == "method") {
          plan.set_method(*s);
        } else if (key == "expert_name") {
          plan.set_expert_name(*s);
        } else if (key == "schedule") {
          plan.set_schedule(*s);
        } else if (key == "arithmetic") {
          plan.set_arithmetic(*s);
          if (*s != "f32" && *s != "bf16" && *s != "auto") {
            bad(absl::StrCat("\"", *s, "\""),
                "\"f32\", \"bf16\" or \"auto\"");
          }
        } else {
          plan.set_expert_version(*s);
        }
        continue;
      }
      if (key == "second_moments") {
        if (const auto b = value.value_exact<bool>()) {
          plan.set_second_moments(*b);
        } else {
          bad("that is no truth value", "true or false");
        }
        continue;
      }
      if (key == "document_boundaries") {
        const auto b = value.value_exact<bool>();
        if (b) {
          plan.set_document_boundaries(*b);
        } else {
          bad("that is neither", "true or false");
        }
        continue;
      }
      if (key == "freeze") {
        const toml::array* list = value.as_array();
        if (list == nullptr ||
            !(list->empty() || list->is_homogeneous<std::string>())) {
          bad("that is no list of texts", "[\"layers.0.*\", …]");
          continue;
        }
        for (const auto& pattern : *list) {
          plan.add_freeze(*pattern.value<std::string>());
        }
        continue;
      }
      if (key == "owners") {
        const toml::array* list = value.as_array();
        if (list == nullptr ||
            !(list->empty() || list->is_homogeneous<std::string>())) {
          bad("that is no list of texts", "[\"owner.example\", …]");
          continue;
        }
        for (const auto& owner : *list) {
          plan.add_owners(*owner.value<std::string>());
        }
        continue;
      }
      bool known = false;
      for (const Number& n : kNumbers) {
        if (key != n.key) continue;
        known = true;
        const double number =
            value.is_number() ? value.value<double>().value_or(NAN) : NAN;
        const bool integer = IsInteger(key);
        if (!(number >= n.least && number <= n.most) ||
            (integer && number != std::floor(number))) {
          bad(std::isnan(number) ? "that is no number" : absl::StrCat(number),
              absl::StrFormat("%s from %.15g to %.15g",
                              integer ? "an integer" : "a number", n.least,
                              n.most));
        } else {
          SetNumber(plan, key, number);
          warmup_given = warmup_given || key == "warmup_steps";
        }
      }
      if (!known) {
        std::vector<std::string> keys = {"id", "method", "expert_name",
                                         "expert_version", "owners",
                                         "schedule", "document_boundaries",
                                         "second_moments",
                                         "freeze", "arithmetic"};
        for (const Number& n : kNumbers) keys.push_back(n.key);
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
  if (plan.method() != "flexolmo") {
    problems.push_back(absl::StrCat("got method \"", plan.method(),
                                    "\", want \"flexolmo\""));
  }
  if (!warmup_given) {
    plan.set_warmup_steps(static_cast<uint64_t>(learn::DefaultWarmupSteps(
        static_cast<int64_t>(plan.steps()))));
  }
  learn::ScheduleShape shape;
  if (!learn::FindSchedule(plan.schedule(), &shape)) {
    problems.push_back(
        absl::StrCat("got schedule \"", plan.schedule(), "\", want one of ",
                     absl::StrJoin(learn::ScheduleNames(), ", ")));
  }
  if (plan.accumulation() > plan.batch_sequences()) {
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
  plan.add_publishes("ffn weights");
  plan.add_publishes("router row and bias");
  plan.add_publishes("per-layer means and thresholds");
  if (plan.second_moments()) {
    plan.add_publishes("second moments of router inputs");
  }
  return plan;
}

std::string DescribePlan(const v1::TrainingPlan& plan) {
  std::string out = absl::StrFormat(
      "plan %s: %s beside %s\n", plan.id(), plan.method(), plan.base().id());
  for (const Number& n : kNumbers) {
    absl::StrAppend(&out, absl::StrFormat("  %-18s %-10g %s\n", n.key,
                                          GetNumber(plan, n.key), n.meaning));
  }
  absl::StrAppend(&out, "  arithmetic         ", plan.arithmetic(),
                  "\n");
  absl::StrAppend(&out, "  schedule           ", plan.schedule(),
                  plan.document_boundaries() ? ", documents apart" : "",
                  plan.freeze().empty()
                      ? ""
                      : absl::StrCat(", frozen: ",
                                     absl::StrJoin(plan.freeze(), " ")),
                  "\n");
  absl::StrAppend(&out, "  would publish      ",
                  absl::StrJoin(plan.publishes(), "; "), "\n");
  return out;
}

}  // namespace motet::coordinator
