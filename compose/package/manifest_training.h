// SPDX-License-Identifier: Apache-2.0
// What a training plan asks of a node by its kind, one row each: the method
// that an owner consents to, and what would leave the node, in the words that
// plans, policies and packages share. Coordinator and node read the same
// table, so that neither can promise what the other does not do.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "training.pb.h"

namespace motet::package {

struct TrainingKind {
  const char* name;    // of the plan, and of the package that it makes
  const char* method;  // of the plan, and of policies
  bool whole;          // trains a branch of its own; else FFNs beside the base
  bool sized;          // by a width, a number of steps or a probe
  bool retrieval = false;  // of a BEIR corpus, beside an encoder (METHODS 9)
};
// Of the plan's kind; empty is "ffn". Null when there is no such kind.
const TrainingKind* FindTrainingKind(absl::string_view name);

inline constexpr char kLeavesFfn[] = "ffn weights";
inline constexpr char kLeavesRouter[] = "router row and bias";
inline constexpr char kLeavesAll[] = "all weights";
inline constexpr char kLeavesStatistics[] = "per-layer means and thresholds";
inline constexpr char kLeavesMoments[] = "second moments of router inputs";
inline constexpr char kLeavesFisher[] = "Fisher information";
inline constexpr char kLeavesProxy[] =
    "scores of public documents by likeness to own text";
inline constexpr char kLeavesProbe[] =
    "perplexity of the base on held-out text";
inline constexpr char kLeavesAdapter[] = "adapter weights";
inline constexpr char kLeavesPilots[] =
    "mean vectors of groups of queries, with counts and reach";

// Values of a plan's row_init; empty is the first.
inline constexpr char kRowsHidden[] = "hidden";
inline constexpr char kRowsEmbedder[] = "embedder";

// What the plan's kind and options make leave the node, listed or not.
std::vector<std::string> Leaves(const v1::TrainingPlan& plan);

// Whether means and thresholds are made.
bool MakesAnchored(const v1::TrainingPlan& plan);

// What is wrong with kind, method and the fields of kind "sized" and of those
// of retrieval, each as "field is X, want Y".
std::vector<std::string> CheckTrainingKind(const v1::TrainingPlan& plan);

// The rule of size = "probe": which of the choices a perplexity picks, which
// is the number of thresholds that it reaches.
//   i = |{ t in probe_thresholds : perplexity >= t }|
int ProbeChoice(const v1::TrainingPlan& plan, double perplexity);

}  // namespace motet::package
