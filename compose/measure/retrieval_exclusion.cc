// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/retrieval_exclusion.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

using math::ExpertMask;

constexpr int64_t kDepth = 10;
constexpr int kEverySet = 4;  // experts up to which every set is proved

template <typename T>
absl::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

absl::Status Check(const v1::CompositionLock& lock,
                   const std::vector<ExpertMask>& without,
                   std::span<const std::string> queries) {
  if (queries.empty()) {
    return proto::Invalid("exclusion", "no query", "one or more");
  }
  // Of the base and all experts.
  const ExpertMask all = (ExpertMask{2} << lock.experts_size()) - 1;
  for (const ExpertMask set : without) {
    if (set != 0 && (set & 1) == 0 && (set & ~all) == 0) continue;
    return proto::Invalid("exclusion", absl::StrCat("a set of bits ", static_cast<uint64_t>(set)),
                          absl::StrCat("experts 1 to ", lock.experts_size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> RetrievalSha256(
    const retrieve::QueryEncoder& encoder, const retrieve::Index& index,
    std::span<const std::string> queries) {
  MOTET_RETURN_IF_ERROR(index.CheckBase(encoder.base()));
  MOTET_ASSIGN_OR_RETURN(const auto encoded, encoder.Encode(queries));
  const auto& values = encoded.vectors.values;
  MOTET_ASSIGN_OR_RETURN(const auto rankings,
                         index.SearchVectors(values, kDepth));
  const size_t width = values.size() / queries.size();
  proto::Sha256Stream stream;
  for (size_t q = 0; q < queries.size(); ++q) {
    stream.Update(absl::StrCat(encoded.experts[q], "\n"));
    stream.Update({reinterpret_cast<const char*>(values.data() + q * width),
                   width * sizeof(float)});
    stream.Update(absl::StrCat(rankings[q].size(), "\n"));
    for (const retrieve::Hit& hit : rankings[q]) {
      stream.Update(BytesOf(hit.row));
      stream.Update(BytesOf(hit.score));
    }
  }
  return proto::Hex(stream.Finish());
}

std::vector<ExpertMask> SetsToLeaveOut(const v1::CompositionLock& lock) {
  std::vector<ExpertMask> sets;
  if (lock.experts_size() <= kEverySet) {
    for (ExpertMask set = 1; set < ExpertMask{1} << lock.experts_size();
         ++set) {
      sets.push_back(set << 1);
    }
    return sets;
  }
  std::map<std::string, size_t> places;
  for (int e = 1; e <= lock.experts_size(); ++e) {
    const std::string& id = lock.experts(e - 1).id();
    const auto [at, added] =
        places.emplace(id.substr(0, id.find('/')), sets.size());
    if (added) sets.push_back(0);
    sets[at->second] |= ExpertMask{1} << e;
  }
  return sets;
}

absl::StatusOr<std::vector<RetrievalProof>> ProveRetrievalExclusion(
    const v1::CompositionLock& lock, const assemble::PackageFolder& folder_of,
    const std::vector<ExpertMask>& without, const retrieve::Index& index,
    std::span<const std::string> queries, math::Product product,
    const std::function<void(double, const std::string&)>& progress) {
  MOTET_RETURN_IF_ERROR(Check(lock, without, queries));
  MOTET_ASSIGN_OR_RETURN(const auto whole,
                         retrieve::Retriever::Load(lock, folder_of, product));
  MOTET_ASSIGN_OR_RETURN(
      const std::string included,
      RetrievalSha256(*whole->QueriesFor(whole->All()), index, queries));
  std::vector<RetrievalProof> proofs;
  for (const ExpertMask set : without) {
    RetrievalProof proof;
    for (int e = 1; e <= lock.experts_size(); ++e) {
      if (set >> e & 1) proof.without.push_back(lock.experts(e - 1).id());
    }
    proof.included_sha256 = included;
    if (progress) {
      progress(static_cast<double>(proofs.size()) /
                   static_cast<double>(without.size()),
               absl::StrJoin(proof.without, ", "));
    }
    MOTET_ASSIGN_OR_RETURN(
        proof.excluded_sha256,
        RetrievalSha256(*whole->QueriesFor(whole->All() & ~set), index,
                        queries));
    assemble::LoadOptions rest;
    rest.all = false;
    for (int e = 1; e <= lock.experts_size(); ++e) {
      if ((set >> e & 1) == 0) rest.only.push_back(e);
    }
    MOTET_ASSIGN_OR_RETURN(
        const auto never,
        retrieve::Retriever::Load(lock, folder_of, product, rest));
    MOTET_ASSIGN_OR_RETURN(
        proof.never_composed_sha256,
        RetrievalSha256(*never->QueriesFor(never->All()), index, queries));
    proofs.push_back(std::move(proof));
  }
  return proofs;
}

}  // namespace motet::measure
