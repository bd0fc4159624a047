// SPDX-License-Identifier: Apache-2.0
// The user's wish, in TOML. Unknown keys are errors that name the key, the
// line and the keys that exist.
//   name = "demo"                 # folder under compositions/
//   method = "flexolmo"
//   experts = ["code.example/code@1.0.0", ...]  # "owner/name" = newest
//   [router]
//   kind = "anchored"             # default; or "topk", "topp"
//   k = 2                         # topk
//   null_experts = 0              # topk
//   shared = false                # topk: the base always, k (1) beside it
//   top_p = 0.4                   # topp
//   renormalise = false           # topk, topp; default by the base's block
//   most_active = 3               # topk, topp: what a request may ask for
//   smoothing = 0.8               # anchored; or "prefix"
//   mixing = "pair"               # anchored; or "switch"
//   gate = true                   # anchored
//   quantile = 0.97               # anchored; default: each owner's own
//   gate_rank = 0                 # anchored: of the gate's metric; 0 = full
//   covariance = "public"         # anchored; or "pooled"
//   ridge = 1e-2                  # method "dume"
// or, with method = "btx", whose [router] kinds are "topk" (default), "topp",
// "switch", "soft" and "sample",
//   [btx]
//   rows = "means"                # or "random"
//   chunks = 1                    # that each FFN is cut in: 1, 2, 4 or 8
//   seed = 0                      # of random rows
// or, with method = "bam", whose [router] is of FFNs: kinds "topk" (default,
// k = 1) and "topp", not renormalised,
//   [bam]
//   kv = "experts"                # or "shared"
//   rows = "means"                # or "random"
//   seed = 0                      # of random rows
// or, with method = "merge",
//   [merge]
//   kind = "ties"                 # linear, weighted, slerp, task_arithmetic,
//   weights = [0.5, 0.5]          # ties, dare, pcb, fisher
//   lambda = 1.0
//   density = 0.2                 # docs/methods/merge.md has them all
// flexolmo (with "topk" or "topp"), btx and bam can have their router rows
// tuned when the recipe is applied (docs/methods/flexolmo.md):
//   [tuning]
//   data = ["proxy.jsonl"]        # beside the recipe
//   steps = 200
//   learning_rate = 2e-3
//   warmup_steps = 20             # default: a tenth of the steps, at most 20
//   batch_sequences = 8
//   sequence_tokens = 128
//   k = 4                         # topk, while tuning
//   router_z_weight = 1e-3
//   load_balance_weight = 0.0
//   weight_decay = 0.0
//   seed = 1
//   narrowed = "untuned"          # or "tuned"
//   proxy = true                  # after data or alone: text of the base
//   proxy_documents = 200         # that each owner scored highest
// or, with method = "ensemble",
//   [ensemble]
//   weights = "bayes"             # or "uniform", "prior", "centroid"
//   prior_text = "held-out.jsonl"  # prior; bayes: default no prior
//   temperature = 0.1             # centroid
//   top_k = 2                     # all but uniform; default: every model
//   base = true                   # the base is a model, too; default: false
//   ffn = "trained"               # experts of kind ffn; or "pair", "alone"
// or, with method = "router_retriever",
//   [retriever]
//   similarity = "dot"            # or "cosine"
//   aggregate = "mean"            # or "max", "weighted" by queries, over pilots
//   gate = true                   # far from all pilots: the base answers
//   pilots = ["owner/pilots-name@1.0.0", ...]  # default: each expert's newest
// An option that does not belong to the kind or method is an error, too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace motet::assemble {

struct Recipe {
  std::string name;
  std::string method = "flexolmo";
  std::vector<std::string> experts;
  struct Router {
    std::string kind = "anchored";  // methods dume, btx and bam: "topk"
    int k = 2;  // beside a shared base 1; btx: that * chunks; bam: 1
    int null_experts = 0;
    bool shared = false;
    double top_p = 0.4;
    std::optional<bool> renormalise;
    int most_active = 0;  // 0 = every expert
    double smoothing = 0.8;
    bool prefix_mean = false;
    std::string mixing = "pair";
    bool gate = true;
    double quantile = 0;  // 0 = each owner's own
    int gate_rank = 0;    // 0 = full
    std::string covariance = "public";
    double ridge = 1e-2;
    double temperature = 0.5;  // sample
  } router;
  struct Btx {
    std::string rows = "means";
    int chunks = 1;
    uint64_t seed = 0;
  } btx;
  struct Bam {
    std::string kv = "experts";
    std::string rows = "means";
    uint64_t seed = 0;
  } bam;
  // Null: not asked for.
  struct Tuning {
    std::vector<std::string> data;
    int steps = 200;
    double learning_rate = 2e-3;
    std::optional<int> warmup_steps;
    int batch_sequences = 8;
    int sequence_tokens = 128;
    // The method's own where nobody says.
    std::optional<int> k;
    std::optional<double> router_z_weight, load_balance_weight, weight_decay;
    uint64_t seed = 1;
    std::string narrowed = "untuned";
    bool proxy = false;
    int proxy_documents = 200;  // of each expert
    // Of the text in `data` and of proxy's; whoever reads it says.
    std::string data_sha256;
    uint64_t documents = 0, proxy_taken = 0;
  };
  std::optional<Tuning> tuning;
  // Options that are set although their kind has no use for them are for the
  // plan to refuse.
  struct Merge {
    std::string kind = "linear";
    std::vector<double> weights;  // one an expert; none = equal
    std::optional<double> lambda, density, ratio, epsilon, t;
    std::optional<uint64_t> seed;
  } merge;
  struct Ensemble {
    std::string weights = "bayes";
    int top_k = 0;  // 0 = every model
    bool base = false;
    std::string ffn;                    // "" = "trained"
    std::string prior_text;             // a file; "" = none
    std::optional<double> temperature;  // centroid: 0.1
  } ensemble;
  struct Retriever {
    std::string similarity = "dot";
    std::string aggregate = "mean";
    bool gate = false;
    // In place of the newest of the experts that they are of.
    std::vector<std::string> pilots;
  } retriever;
};
absl::StatusOr<Recipe> ParseRecipe(const std::string& toml,
                                   const std::string& where);

// The recipe's text with `ensemble.prior_text` read from `folder` where it is
// a relative path; as it is where it has none. Comments are lost.
absl::StatusOr<std::string> RecipeFrom(const std::string& toml,
                                       const std::string& folder);

// The recipe's text with these experts in place of its own; for each the
// position that it had there, or -1. Lists with one entry an expert follow
// (a new one's is left out: the plan says what it wants). Comments are lost.
// data: tuning.data from now on; none: as it is.
absl::StatusOr<std::string> RecipeWith(
    const std::string& toml, const std::vector<std::string>& experts,
    const std::vector<int>& positions,
    const std::vector<std::string>& data = {});

// The recipe's text with retriever.pilots as these; none: without the key.
absl::StatusOr<std::string> RecipeWithPilots(
    const std::string& toml, const std::vector<std::string>& pilots);

}  // namespace motet::assemble
