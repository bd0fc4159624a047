// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/exclusion.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "compose/math/exec.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

constexpr int64_t kLogitFloats = int64_t{4} << 20;
constexpr int64_t kChunk = 64;

void AddLogits(math::Exec& exec, const model::Decoder& decoder,
               const math::Tensor& hidden, proto::Sha256Stream& stream) {
  const int64_t step =
      std::max<int64_t>(16, kLogitFloats / decoder.config().vocabulary);
  for (int64_t row = 0; row < hidden.rows(); row += step) {
    const int64_t rows = std::min(step, hidden.rows() - row);
    const math::Arena::Mark mark = exec.arena().mark();
    const math::Tensor logits =
        decoder.Logits(exec, hidden.RowSlice(row, rows));
    stream.Update({static_cast<const char*>(logits.data),
                   static_cast<size_t>(logits.bytes())});
    exec.arena().Release(mark);
  }
}

}  // namespace

std::string LogitsSha256(const model::Decoder& decoder,
                         std::span<const int32_t> ids,
                         math::ExpertMask allowed, int64_t chunk,
                         math::Product product) {
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, product);
  proto::Sha256Stream stream;
  const int64_t length = static_cast<int64_t>(ids.size());
  if (chunk == 0) {
    const model::SequenceInput inputs[] = {{ids, nullptr, allowed}};
    const model::Batch batch(inputs);
    AddLogits(exec, decoder, decoder.Forward(exec, batch), stream);
    return proto::Hex(stream.Finish());
  }
  model::SequenceCache cache(decoder.config(), length,
                             std::max<int64_t>(1, decoder.config().experts));
  // A single token, then growing pieces: decode and prefill paths both run.
  int64_t size = 1;
  for (int64_t at = 0; at < length;) {
    const int64_t n = std::min(size, length - at);
    arena.Reset();
    const model::SequenceInput inputs[] = {
        {ids.subspan(at, n), &cache, allowed}};
    const model::Batch batch(inputs);
    AddLogits(exec, decoder, decoder.Forward(exec, batch), stream);
    at += n;
    size = size >= chunk ? 1 : std::min(chunk, size * 2 + 1);
  }
  return proto::Hex(stream.Finish());
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
  const std::string included =
      LogitsSha256(*whole->decoder, ids, whole->All(), 0, product);
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
    MOTET_ASSIGN_OR_RETURN(const auto without, whole->DecoderFor(rest));
    proof.excluded_sha256 = LogitsSha256(*without, ids, rest, 0, product);
    proof.excluded_chunked_sha256 =
        LogitsSha256(*without, ids, rest, kChunk,
                                                 product);

    assemble::LoadOptions options;
    options.all = false;
    for (int other = 1; other <= lock.experts_size(); ++other) {
      if (other != e) options.only.push_back(other);
    }
    MOTET_ASSIGN_OR_RETURN(
        const auto never, assemble::LoadComposition(lock, folder_of, options));
    proof.never_composed_sha256 =
        LogitsSha256(*never->decoder, ids, never->All(), 0, product);
    proof.never_composed_chunked_sha256 =
        LogitsSha256(*never->decoder, ids, never->All(), kChunk, product);
    proofs.push_back(std::move(proof));
  }
  return proofs;
}

}  // namespace motet::measure
