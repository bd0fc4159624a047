// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/exclusion.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "compose/math/exec.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

constexpr int64_t kChunk = 64;

void AddLogits(math::Exec& exec, const model::Scorer& scorer,
               std::span<const int32_t> ids, model::ScorerState* state,
               proto::Sha256Stream& stream) {
  const model::ScorerInput inputs[] = {{ids, state}};
  const model::RowRange all[] = {{0, static_cast<int64_t>(ids.size())}};
  scorer.Run(exec, inputs, all, [&](int64_t, const math::Tensor& logits) {
    stream.Update({static_cast<const char*>(logits.data),
                   static_cast<size_t>(logits.bytes())});
    return true;
  });
}

}  // namespace

std::string LogitsSha256(const model::Scorer& scorer,
                         std::span<const int32_t> ids, int64_t chunk,
                         math::Product product) {
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, product);
  proto::Sha256Stream stream;
  const int64_t length = static_cast<int64_t>(ids.size());
  if (chunk == 0) {
    AddLogits(exec, scorer, ids, nullptr, stream);
    return proto::Hex(stream.Finish());
  }
  const auto state = scorer.NewState(length);
  // A single token, then growing pieces: decode and prefill paths both run.
  int64_t size = 1;
  for (int64_t at = 0; at < length;) {
    const int64_t n = std::min(size, length - at);
    AddLogits(exec, scorer, ids.subspan(at, n), state.get(), stream);
    at += n;
    size = size >= chunk ? 1 : std::min(chunk, size * 2 + 1);
  }
  return proto::Hex(stream.Finish());
}

std::string LogitsSha256(const model::Decoder& decoder,
                         std::span<const int32_t> ids, math::ExpertMask allowed,
                         int64_t chunk, math::Product product) {
  return LogitsSha256(model::DecoderScorer(decoder, allowed), ids, chunk,
                      product);
}

absl::StatusOr<std::vector<ExclusionProof>> ProveExclusion(
    const v1::CompositionLock& lock,
    const assemble::PackageFolder& folder_of, const std::vector<int>& experts,
    std::span<const int32_t> ids,
    const std::function<void(double, const std::string&)>& progress,
    math::Product product, const std::string& folder) {
  if (ids.empty()) {
    return proto::Invalid("exclusion", "an empty prompt", "some text");
  }
  assemble::LoadOptions load;
  load.folder = folder;
  MOTET_ASSIGN_OR_RETURN(const auto whole,
                         assemble::LoadComposition(lock, folder_of, load));
  if (static_cast<int64_t>(ids.size()) > whole->config.max_positions) {
    return proto::Invalid("exclusion", absl::StrCat(ids.size(), " tokens"),
                          absl::StrCat("at most the model's context of ",
                                       whole->config.max_positions));
  }
  MOTET_ASSIGN_OR_RETURN(const auto all, whole->ScorerFor(whole->All()));
  const std::string included = LogitsSha256(*all, ids, 0, product);
  std::vector<ExclusionProof> proofs;
  for (const int e : experts) {
    if (e < 1 || e > lock.experts_size()) {
      return proto::Invalid("exclusion", absl::StrCat("expert position ", e),
                            absl::StrCat("1 to ", lock.experts_size()));
    }
    ExclusionProof proof;
    proof.expert = lock.experts(e - 1).id();
    proof.included_sha256 = included;
    if (progress) {
      progress(static_cast<double>(proofs.size()) / experts.size(),
               proof.expert);
    }
    const math::ExpertMask rest =
        whole->All() & ~(math::ExpertMask{1} << e);
    MOTET_ASSIGN_OR_RETURN(const auto without, whole->ScorerFor(rest));
    proof.excluded_sha256 = LogitsSha256(*without, ids, 0, product);
    proof.excluded_chunked_sha256 =
        LogitsSha256(*without, ids, kChunk, product);

    assemble::LoadOptions options;
    options.all = false;
    for (int other = 1; other <= lock.experts_size(); ++other) {
      if (other != e) options.only.push_back(other);
    }
    MOTET_ASSIGN_OR_RETURN(
        const auto never, assemble::LoadComposition(lock, folder_of, options));
    MOTET_ASSIGN_OR_RETURN(const auto alone, never->ScorerFor(never->All()));
    proof.never_composed_sha256 = LogitsSha256(*alone, ids, 0, product);
    proof.never_composed_chunked_sha256 =
        LogitsSha256(*alone, ids, kChunk, product);
    proofs.push_back(std::move(proof));
  }
  return proofs;
}

}  // namespace motet::measure
