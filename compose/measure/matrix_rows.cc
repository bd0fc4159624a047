// SPDX-License-Identifier: Apache-2.0
// Rows of a matrix from compositions and model directories.
#include <algorithm>
#include <bit>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/tuning.h"
#include "compose/measure/matrix.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

int Count(math::ExpertMask set) {
  return std::popcount(static_cast<uint64_t>(set)) +
         std::popcount(static_cast<uint64_t>(set >> 64));
}

// The base alone is FFN 0 with weight 1 under either router, and top-k
// depends on (k, set) only, unless null experts or solved rows take part.
// pair: under a pair's router in place of the composition's.
std::string ArithmeticOf(const v1::CompositionLock& lock,
                         const model::Router* router, bool pair,
                         math::ExpertMask allowed) {
  std::string key = lock.base().manifest_sha256();
  if (allowed == 1) return key;
  if (lock.has_ensemble()) {
    absl::StrAppend(&key, " ", lock.ensemble().SerializeAsString());
  } else if (!lock.has_router()) {
    absl::StrAppend(&key, " ", lock.merge().SerializeAsString());
  } else if (router->kind == model::Router::Kind::kTopK &&
             router->null_experts == 0 && router->rows == nullptr &&
             !lock.has_tuning() && !lock.has_btx() && !lock.has_bam()) {
    // A shared base chooses for itself only where some are left out.
    const int64_t most = router->k + (router->shared ? 1 : 0);
    absl::StrAppend(&key, " topk ", std::min<int64_t>(most, Count(allowed)),
                    router->shared && most < Count(allowed) ? " shared " : " ",
                    router->renormalise, " ", lock.router().rows());
  } else {  // all that its lock says of it, and the router that is run
    absl::StrAppend(&key, " ", lock.router().SerializeAsString(), " ",
                    lock.tuning().SerializeAsString(), " ",
                    lock.btx().SerializeAsString(), " ",
                    lock.bam().SerializeAsString());
    absl::StrAppend(&key, pair ? " pair " : " whole ",
                    static_cast<int>(router->kind), " ", router->k, " ",
                    router->top_p, " ", router->most_active);
  }
  absl::StrAppend(&key, " ", lock.method());
  for (int e = 0; e < lock.experts_size(); ++e) {
    if (allowed >> (e + 1) & 1) {
      absl::StrAppend(&key, " ", lock.experts(e).manifest_sha256());
    }
  }
  return key;
}

// A short name of each expert: its domain, or its id where that is not one.
std::vector<std::string> Labels(const v1::CompositionLock& lock) {
  std::map<std::string, int> uses;
  for (const v1::LockedExpert& e : lock.experts()) ++uses[e.domain()];
  std::vector<std::string> labels;
  for (const v1::LockedExpert& e : lock.experts()) {
    const bool clear = !e.domain().empty() && uses[e.domain()] == 1;
    labels.push_back(clear ? e.domain() : e.id());
  }
  return labels;
}

MatrixRow RowOf(std::shared_ptr<const assemble::Composition> composition,
                std::shared_ptr<const model::Decoder> decoder,
                const std::string& name, const char* kind,
                math::ExpertMask allowed) {
  const v1::CompositionLock& lock = composition->lock;
  const model::Decoder* whole =
      decoder ? decoder.get() : composition->decoder.get();
  return {name,
          kind,
          composition,
          decoder,
          allowed,
          ArithmeticOf(lock, whole ? &whole->router() : nullptr,
                       whole != composition->decoder.get(), allowed),
          lock.base().tokenizer_sha256()};
}

// What runs the composition: null where the weights depend on the set.
std::shared_ptr<const model::Decoder> WholeOf(
    const std::shared_ptr<const assemble::Composition>& composition) {
  const v1::CompositionLock& lock = composition->lock;
  if (!lock.has_router() || lock.has_btx() || lock.has_bam()) return nullptr;
  return {composition, composition->decoder.get()};
}

}  // namespace

absl::StatusOr<std::vector<MatrixRow>> PairRows(
    std::shared_ptr<const assemble::Composition> composition) {
  const v1::CompositionLock& lock = composition->lock;
  const bool routed = lock.has_router();
  const bool beside = routed || lock.ensemble().base();
  std::shared_ptr<const model::Decoder> decoder = WholeOf(composition);
  // Rows solved for a set have no trained pair to show: the pair's own set.
  if (decoder != nullptr && lock.router().rows() != "solved") {
    // A view only: it shares the composition's weights.
    model::Router pair;
    pair.k = 2;
    pair.renormalise = lock.router().renormalise();
    // The weights' rows are the packages', or else tuned ones. What an
    // anchored router solves for a set are no rows to choose by.
    if (lock.has_tuning()) {
      pair.rows = assemble::UntunedRows(*decoder->router().rows);
    }
    MOTET_ASSIGN_OR_RETURN(
        model::Decoder view,
        model::Decoder::Create(decoder->config(), decoder->weights(), pair));
    decoder = std::make_shared<const model::Decoder>(std::move(view));
  }

  std::vector<MatrixRow> rows = {
      RowOf(composition, decoder, "base", "base", 1)};
  const std::vector<std::string> labels = Labels(lock);
  for (size_t i = 0; i < labels.size(); ++i) {
    rows.push_back(RowOf(composition, decoder,
                         absl::StrCat(beside ? "base + " : "only ", labels[i]),
                         beside ? "pair" : "only",
                         math::ExpertMask{1} | math::ExpertMask{2} << i));
  }
  return rows;
}

absl::StatusOr<std::vector<MatrixRow>> CompositionRows(
    std::shared_ptr<const assemble::Composition> composition, bool named) {
  MOTET_ASSIGN_OR_RETURN(std::vector<MatrixRow> rows, PairRows(composition));
  const v1::CompositionLock& lock = composition->lock;
  const std::shared_ptr<const model::Decoder> decoder = WholeOf(composition);
  const math::ExpertMask all = composition->All();
  rows.push_back(RowOf(composition, decoder,
                       named ? lock.name() : "composition", "composition",
                       all));
  const std::vector<std::string> labels = Labels(lock);
  for (size_t i = 0; i < labels.size(); ++i) {
    rows.push_back(RowOf(
        composition, decoder,
        absl::StrCat(named ? lock.name() + " " : "", "without ", labels[i]),
        "without", all & ~(math::ExpertMask{2} << i)));
  }
  return rows;
}

std::vector<MatrixRow> DirectoryRows(
    std::shared_ptr<const assemble::ServedModel> model,
    const std::string& weights_key, const std::string& tokenizer_key) {
  MatrixRow row;
  row.name = model->name;
  row.kind = "model";
  row.decoder = std::shared_ptr<const model::Decoder>(model,
                                                      model->decoder.get());
  row.model = std::move(model);
  row.arithmetic = weights_key;
  row.tokenizer = tokenizer_key;
  return {row};
}

absl::Status KeepKinds(const std::vector<std::string>& kinds,
                       std::vector<MatrixRow>& rows) {
  std::set<std::string> there;
  for (const MatrixRow& row : rows) there.insert(row.kind);
  std::erase_if(rows, [&](const MatrixRow& row) {
    return std::find(kinds.begin(), kinds.end(), row.kind) == kinds.end();
  });
  if (!rows.empty()) return absl::OkStatus();
  return proto::Invalid("rows",
                        absl::StrCat("kinds ", absl::StrJoin(kinds, ", ")),
                        absl::StrCat("one of ", absl::StrJoin(there, ", "),
                                     ", which these models have"));
}

}  // namespace motet::measure
