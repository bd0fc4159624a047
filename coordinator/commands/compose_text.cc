// SPDX-License-Identifier: Apache-2.0
// A lock's method in words, for plan, show and tables.
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/merge_kinds.h"
#include "coordinator/commands/compose_parts.h"

namespace motet::coordinator {
namespace {

std::string RouterText(const v1::RouterLock& router) {
  if (router.kind() != "anchored") {
    std::string text =
        router.kind() == "topp" ? absl::StrCat("top-p, p = ", router.top_p())
        : router.kind() == "topk" ? absl::StrCat("top-", router.k())
                                  : router.kind();
    if (router.shared()) absl::StrAppend(&text, " beside the base");
    if (router.null_experts() > 0) {
      absl::StrAppend(&text, " with ", router.null_experts(), " null experts");
    }
    absl::StrAppend(&text, " over the ", router.rows(), " rows");
    if (router.most_active() > 0) {
      absl::StrAppend(&text, ", at most ", router.most_active(), " for one");
    }
    return text;
  }
  return absl::StrCat("anchored",
                      router.mixing() == "switch" ? " by switching" : "",
                      ", smoothing ",
                      router.prefix_mean() ? "by the prefix's mean"
                                           : absl::StrCat(router.smoothing()),
                      router.covariance() == "pooled" ? ", pooled covariance"
                                                      : "",
                      router.gate() ? ", typicality gate on"
                                    : ", typicality gate off",
                      router.gate_rank() > 0
                          ? absl::StrCat(", of rank ", router.gate_rank())
                          : "");
}

std::string MergeText(const v1::MergeLock& merge) {
  const assemble::MergeKindRow* row = assemble::FindMergeKind(merge.kind());
  std::vector<std::string> parts = {absl::StrCat("merge ", merge.kind())};
  const auto add = [&](bool has, const char* name, double value) {
    if (has) parts.push_back(absl::StrFormat("%s %g", name, value));
  };
  add(row->lambda, "lambda", merge.lambda());
  add(row->density, "density", merge.density());
  add(row->ratio, "ratio", merge.ratio());
  add(row->epsilon, "epsilon", merge.epsilon());
  add(row->t, "t", merge.t());
  add(row->seed, "seed", static_cast<double>(merge.seed()));
  if (merge.weights_size() > 0) {
    parts.push_back(
        absl::StrCat("weights ", absl::StrJoin(merge.weights(), " ")));
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace

std::string TimeLeft(double fraction, absl::Duration since) {
  const double seconds = absl::ToDoubleSeconds(since);
  if (fraction < 0.01 || seconds < 0.5) return "";
  return absl::StrFormat("%.0f s left", seconds * (1 - fraction) / fraction);
}

std::string MethodText(const v1::CompositionLock& lock) {
  if (lock.has_ensemble()) {
    const v1::EnsembleLock& e = lock.ensemble();
    return absl::StrCat(
        "ensemble by ", e.weights(), " weights",
        e.has_prior() && e.weights() == "bayes" ? " from a learnt prior" : "",
        e.top_k() > 0 ? absl::StrCat(", top ", e.top_k()) : "",
        e.base() ? ", the base among them" : "");
  }
  if (lock.has_retriever()) {
    const v1::RetrieverLock& r = lock.retriever();
    return absl::StrCat("pilots of ", r.pilots_size(), " owners by ",
                        r.similarity() == "cosine" ? "cosine" : "dot product",
                        ", the ",
                        r.aggregate() == "weighted" ? "weighted mean"
                                                    : r.aggregate(),
                        " of each expert's",
                        r.gate() ? ", gated" : "");
  }
  if (lock.has_merge() &&
      assemble::FindMergeKind(lock.merge().kind()) != nullptr) {
    return MergeText(lock.merge());
  }
  const std::string router =
      absl::StrCat("router ", RouterText(lock.router()));
  if (lock.has_bam()) {
    return absl::StrCat(router, ", attention experts with ",
                        lock.bam().kv() == "shared" ? "shared" : "their own",
                        " keys and values");
  }
  return lock.btx().chunks() > 1
             ? absl::StrCat(router, ", FFNs in ", lock.btx().chunks(),
                            " chunks")
             : router;
}

}  // namespace motet::coordinator
