// SPDX-License-Identifier: Apache-2.0
#include "coordinator/commands/eval_exclusion_retrieval.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/measure/retrieval_exclusion.h"
#include "compose/retrieve/beir.h"
#include "compose/retrieve/index.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

// Each goes twice through the encoder, twice for each set.
constexpr size_t kMostQueries = 64;

// The prompt, or queries spread evenly over the folder's judged ones.
absl::StatusOr<std::vector<std::string>> QueriesOf(
    const RetrievalExclusionOptions& options) {
  if (!options.prompt.empty()) return std::vector{options.prompt};
  if (options.data.size() != 1) {
    return proto::Invalid(
        "eval exclusion",
        absl::StrCat(options.data.size(), " --data and no --prompt"),
        "queries of a retrieval composition",
        "give one --data, a folder in BEIR layout, or --prompt");
  }
  retrieve::BeirOptions beir;
  beir.split = options.split;
  beir.allow_missing = true;  // judgements are not looked at
  MOTET_ASSIGN_OR_RETURN(const retrieve::BeirSet set,
                         retrieve::ReadBeir(options.data[0], beir));
  std::vector<std::string> queries;
  const size_t all = set.queries.size();
  const size_t count = std::min(all, kMostQueries);
  for (size_t i = 0; i < count; ++i) {
    queries.push_back(set.queries[all * i / count].text);
  }
  return queries;
}

void Print(const measure::RetrievalProof& proof) {
  absl::PrintF("%s: %s\n", absl::StrJoin(proof.without, ", "),
               proof.equal() ? "equal, bit for bit" : "DIFFERENT");
  absl::PrintF("  excluded by the query   %s\n", proof.excluded_sha256);
  absl::PrintF("  never composed          %s\n", proof.never_composed_sha256);
  absl::PrintF("  with all experts        %s%s\n", proof.included_sha256,
               proof.included_sha256 == proof.excluded_sha256
                   ? "  (they answered none of these queries)"
                   : "");
}

}  // namespace

absl::Status ProveRetrieval(const RetrievalExclusionOptions& options,
                            const Context& context) {
  if (options.index.empty()) {
    return proto::Invalid("eval exclusion", "no --index",
                          "the index that a retrieval composition searches",
                          "make one with motet index build");
  }
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> queries,
                         QueriesOf(options));
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  const assemble::PackageFolder folder_of = FolderOf(session);
  MOTET_ASSIGN_OR_RETURN(const auto index,
                         retrieve::Index::Open(options.index));
  std::vector<math::ExpertMask> without = measure::SetsToLeaveOut(lock);
  if (!options.experts.empty()) {
    MOTET_ASSIGN_OR_RETURN(const auto retriever,
                           retrieve::Retriever::Load(lock, folder_of,
                                                     options.product));
    MOTET_ASSIGN_OR_RETURN(const math::ExpertMask wanted,
                           retriever->Resolve(options.experts));
    without.clear();
    for (int e = 1; e <= lock.experts_size(); ++e) {
      if (wanted >> e & 1) without.push_back(math::ExpertMask{1} << e);
    }
  }
  ProgressLine progress("exclusion");
  MOTET_ASSIGN_OR_RETURN(
      const auto proofs,
      measure::ProveRetrievalExclusion(
          lock, folder_of, without, *index, queries, options.product,
          [&](double fraction, const std::string& detail) {
            progress.Update(fraction, detail);
          }));
  progress.Finish(
      absl::StrCat(proofs.size(), " sets, ", queries.size(), " queries"));

  // Opened again: what is on the disk now.
  const std::string content = proto::Hex(index->ContentDigest());
  MOTET_ASSIGN_OR_RETURN(const auto after,
                         retrieve::Index::Open(options.index));
  const bool same = proto::Hex(after->ContentDigest()) == content;
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  int64_t differ = 0;
  for (const measure::RetrievalProof& proof : proofs) {
    differ += proof.equal() ? 0 : 1;
    list.push_back({{"without", proof.without},
                    {"excluded_sha256", proof.excluded_sha256},
                    {"never_composed_sha256", proof.never_composed_sha256},
                    {"included_sha256", proof.included_sha256},
                    {"queries", queries.size()},
                    {"index_content_sha256", content},
                    {"equal", proof.equal()}});
    if (!context.json) Print(proof);
  }
  if (context.json) {
    absl::PrintF("%s\n", JsonText(list, 2));
  } else {
    absl::PrintF(
        "SHA-256 over expert, f32 vector and the 10 best documents with their "
        "scores, of %d queries.\nindex's content         %s\n",
        queries.size(), content);
  }
  if (differ == 0 && same) return absl::OkStatus();
  return proto::Error(
      absl::StatusCode::kDataLoss, "exclusion",
      differ == 0 ? "an index that has changed meanwhile"
                  : absl::StrCat("different answers for ", differ, " of ",
                                 proofs.size(), " sets of experts"),
      "the same bits",
      differ == 0 ? "run it again when nobody writes the index"
                  : "do not serve this composition; report it as a bug");
}

}  // namespace motet::coordinator
