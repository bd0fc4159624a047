// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/proxy.h"

#include <limits>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/learn/corpus.h"
#include "compose/learn/hash.h"
#include "compose/learn/proxy.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_proxy.h"
#include "compose/package/safetensors.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::assemble {
namespace {

using Scores = std::unordered_map<uint64_t, float>;  // by document

absl::StatusOr<Scores> ScoresOf(const Part& part) {
  const std::string path =
      absl::StrCat(part.folder, "/", package::kProxyFile);
  if (!proto::Exists(path)) return Scores();
  MOTET_ASSIGN_OR_RETURN(const auto file,
                         package::SafetensorsFile::Open(path));
  MOTET_RETURN_IF_ERROR(package::AsStatus(path, package::CheckProxy(*file),
                                          "scores of public documents",
                                          "fetch the package again"));
  const math::Tensor ids = file->Find("documents");
  const math::Tensor values = file->Find("scores");
  Scores scores;
  for (int64_t i = 0; i < ids.size(); ++i) {
    const auto* numbers = static_cast<const int64_t*>(ids.data);
    scores[static_cast<uint64_t>(numbers[i])] = values.f32()[i];
  }
  return scores;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ProxyDocuments(
    const Part& base, const std::vector<Part>& experts, int64_t each,
    uint64_t seed) {
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                         learn::ReadJsonl(base.folder + "/public.jsonl"));
  std::vector<std::vector<float>> table;
  std::vector<std::string> lack;
  for (const Part& part : experts) {
    MOTET_ASSIGN_OR_RETURN(const Scores scores, ScoresOf(part));
    std::vector<float>& row = table.emplace_back();
    bool any = false;
    for (const std::string& text : texts) {
      const auto it = scores.find(learn::Fnv1a(text));
      any = any || it != scores.end();
      row.push_back(it != scores.end()
                        ? it->second
                        : std::numeric_limits<float>::quiet_NaN());
    }
    if (!any) lack.push_back(part.manifest.id());
  }
  if (!lack.empty()) {
    return proto::Invalid(
        "recipe tuning.proxy",
        absl::StrCat("no scores of the base's public text from ",
                     absl::StrJoin(lack, ", ")),
        absl::StrCat(package::kProxyFile, " in each package"),
        "train them by a plan with proxy_scores = true, or give data");
  }
  std::vector<std::string> documents;
  for (const int64_t i : learn::ChooseProxy(
           table, static_cast<int64_t>(texts.size()), each, seed)) {
    documents.push_back(texts[static_cast<size_t>(i)]);
  }
  return documents;
}

}  // namespace motet::assemble
