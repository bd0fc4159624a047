// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/ensemble_prior.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "compose/assemble/ensemble.h"
#include "compose/assemble/method.h"
#include "compose/learn/corpus.h"
#include "compose/math/exec.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

// ln p of the tokens after the first.
double LogLikelihood(const model::Scorer& scorer,
                     const std::vector<int32_t>& ids) {
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const model::ScorerInput inputs[] = {{ids, nullptr}};
  const model::RowRange all[] = {{0, static_cast<int64_t>(ids.size()) - 1}};
  double sum = 0;
  scorer.Run(exec, inputs, all, [&](int64_t row, const math::Tensor& logits) {
    const auto width = static_cast<size_t>(logits.cols());
    for (int64_t r = 0; r < logits.rows(); ++r) {
      const std::span<const float> says(logits.f32() + r * logits.cols(),
                                        width);
      sum += says[ids[static_cast<size_t>(row + r) + 1]] - LogSumExp(says);
    }
    return true;
  });
  return sum;
}

// The first documents that can be scored, cut.
absl::StatusOr<std::vector<std::vector<int32_t>>> Sequences(
    const std::string& path, const Composition& models) {
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> documents,
                         learn::ReadJsonl(path));
  const auto most = static_cast<size_t>(
      std::min<int64_t>(kPriorTokens, models.config.max_positions));
  std::vector<std::vector<int32_t>> sequences;
  for (const std::string& document : documents) {
    std::vector<int32_t> ids = models.tokenizer().Encode(document);
    if (ids.size() < 2) continue;
    ids.resize(std::min(ids.size(), most));
    for (const int32_t id : ids) {
      if (id >= 0 && id < models.config.vocabulary) continue;
      return proto::Invalid("tokenizer", absl::StrCat("token id ", id),
                            absl::StrCat("ids below the vocabulary of ",
                                         models.config.vocabulary));
    }
    sequences.push_back(std::move(ids));
    if (sequences.size() == kPriorSequences) break;
  }
  if (sequences.empty()) {
    return proto::Invalid(absl::StrCat("ensemble.prior_text ", path),
                          "no document of two tokens", "held-out text");
  }
  return sequences;
}

}  // namespace

std::vector<double> PriorOf(const v1::PriorLock& prior, math::ExpertMask set) {
  std::vector<const v1::Likelihoods*> models;
  if (prior.base().ln_p_size() > 0) models.push_back(&prior.base());
  for (int e = 0; e < prior.experts_size(); ++e) {
    if (set >> (e + 1) & 1) models.push_back(&prior.experts(e));
  }
  std::vector<double> learnt(models.size(), 1.0 / models.size());
  for (uint32_t s = 0; s < prior.sequences(); ++s) {
    Posterior posterior = Posterior::Uniform(models.size());
    std::vector<double> ln_p;
    for (const auto* model : models) {
      ln_p.push_back(model->ln_p(static_cast<int>(s)));
    }
    posterior.Observe(ln_p);
    UpdatePrior(posterior.Weights(), learnt, prior.rate());
  }
  return learnt;
}

absl::Status LearnEnsemble(const Recipe& recipe, const PackageFolder& folder_of,
                           const BuildProgress& progress,
                           v1::CompositionLock& lock) {
  if (!lock.ensemble().has_prior()) return absl::OkStatus();
  const std::string& path = recipe.ensemble.prior_text;
  MOTET_ASSIGN_OR_RETURN(const auto digest, proto::Sha256File(path));
  // Each model by itself, the base too.
  v1::CompositionLock single = lock;
  single.mutable_ensemble()->set_weights("uniform");
  single.mutable_ensemble()->clear_prior();
  single.mutable_ensemble()->set_top_k(0);
  single.mutable_ensemble()->set_base(false);
  LoadOptions load;
  load.verify = Verify::kFresh;
  MOTET_ASSIGN_OR_RETURN(const auto models,
                         LoadEnsemble(single, folder_of, load));
  MOTET_ASSIGN_OR_RETURN(const auto sequences, Sequences(path, *models));

  v1::PriorLock& prior = *lock.mutable_ensemble()->mutable_prior();
  prior.set_text_sha256(proto::Hex(digest));
  prior.set_sequences(static_cast<uint32_t>(sequences.size()));
  prior.clear_base();
  prior.clear_experts();
  const int first = lock.ensemble().base() ? 0 : 1;
  const double total =
      static_cast<double>(sequences.size()) * (lock.experts_size() + 1 - first);
  double done = 0;
  for (int j = first; j <= lock.experts_size(); ++j) {
    MOTET_ASSIGN_OR_RETURN(const auto scorer,
                           models->ScorerFor(math::ExpertMask{1} << j));
    v1::Likelihoods& of = j == 0 ? *prior.mutable_base() : *prior.add_experts();
    for (const std::vector<int32_t>& ids : sequences) {
      const double ln_p = LogLikelihood(*scorer, ids);
      if (!std::isfinite(ln_p)) {
        return proto::Error(absl::StatusCode::kDataLoss, models->experts[j].id,
                            "a likelihood that is no finite number",
                            "a finite one", "look for NaN in its weights");
      }
      // Rounding may leave a certain sequence a little above certainty.
      of.add_ln_p(std::min(ln_p, 0.0));
      if (progress) progress(++done / total);
    }
  }
  return absl::OkStatus();
}

}  // namespace motet::assemble
