// SPDX-License-Identifier: Apache-2.0
#include "coordinator/commands/compose_parts.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compose/assemble/proxy.h"
#include "compose/assemble/tuning.h"
#include "compose/assemble/verify.h"
#include "compose/learn/corpus.h"
#include "compose/package/package_folder.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

// Semantic versions in their order: numbers by value, a pre-release below
// its release, texts by bytes.
using Version = std::tuple<std::array<uint64_t, 3>, bool, std::string>;
Version VersionOf(const std::string& id) {
  const std::string text = id.substr(std::min(id.find('@') + 1, id.size()));
  const size_t dash = text.find('-');
  const std::vector<std::string> parts =
      absl::StrSplit(text.substr(0, dash), '.');
  std::array<uint64_t, 3> numbers = {};
  for (size_t i = 0; i < parts.size() && i < numbers.size(); ++i) {
    if (!absl::SimpleAtoi(parts[i], &numbers[i])) numbers[i] = 0;
  }
  const bool release = dash == std::string::npos;
  return {numbers, release, release ? "" : text.substr(dash)};
}

// The registry's record of what a recipe names.
absl::StatusOr<v1::PackageRecord> RecordOf(registry::Client& client,
                                           const std::string& wish) {
  if (absl::StrContains(wish, '@')) return client.Inspect(wish);
  MOTET_ASSIGN_OR_RETURN(const auto records, client.List(wish + "@"));
  const v1::PackageRecord* newest = nullptr;
  for (const v1::PackageRecord& record : records) {
    if (record.revoked()) continue;
    if (newest == nullptr || VersionOf(newest->id()) < VersionOf(record.id())) {
      newest = &record;
    }
  }
  if (newest != nullptr) return *newest;
  return proto::Error(
      absl::StatusCode::kNotFound, "recipe", absl::StrCat("expert ", wish),
      records.empty() ? "an expert in the registry"
                      : "an expert with a version that is not revoked",
      "see `motet expert list`");
}

// Fetched when it is not here yet, not verified.
absl::StatusOr<assemble::Part> PartOf(const ComposeSession& session,
                                      const v1::PackageRecord& record) {
  assemble::Part part;
  part.manifest_sha256 = proto::Hex(record.manifest_sha256());
  part.folder = session.federation.Path(
      absl::StrCat("packages/", part.manifest_sha256));
  if (!proto::Exists(part.folder)) {
    MOTET_RETURN_IF_ERROR(LocalPackage(session.federation, *session.client,
                                       part.manifest_sha256)
                              .status());
  }
  part.log_index = record.log_index();
  part.revoked = record.revoked();
  return part;
}

// Every digest and the signature; then the manifest may be believed.
absl::Status Verify(const std::string& authority_pem, assemble::Part& part) {
  MOTET_ASSIGN_OR_RETURN(package::OpenedPackage opened,
                         package::OpenPackage(part.folder, authority_pem));
  if (!part.manifest_sha256.empty() &&
      part.manifest_sha256 != opened.manifest_sha256) {
    return proto::Error(absl::StatusCode::kDataLoss,
                        part.folder + "/manifest.json",
                        absl::StrCat("SHA-256 ", opened.manifest_sha256),
                        absl::StrCat("the registry's ", part.manifest_sha256),
                        "remove the folder, so that it is fetched again");
  }
  part.manifest = std::move(opened.manifest);
  part.manifest_sha256 = opened.manifest_sha256;
  return absl::OkStatus();
}

absl::StatusOr<assemble::Part> PartOf(const ComposeSession& session,
                                      const std::string& wish) {
  MOTET_ASSIGN_OR_RETURN(const v1::PackageRecord record,
                         RecordOf(*session.client, wish));
  return PartOf(session, record);
}

// The newest pilots in force of an expert: of this version of it, or of
// another, which the plan has something to say about. Nothing: it has none.
absl::StatusOr<std::optional<assemble::Part>> NewestPilots(
    const ComposeSession& session, const std::string& expert) {
  const std::string name = expert.substr(0, expert.find('@'));
  const std::string owner = name.substr(0, name.find('/'));
  MOTET_ASSIGN_OR_RETURN(auto records,
                         session.client->List(owner + "/pilots-"));
  std::sort(records.begin(), records.end(), [](const auto& a, const auto& b) {
    return a.log_index() > b.log_index();
  });
  std::optional<assemble::Part> other;
  for (const v1::PackageRecord& record : records) {
    if (record.revoked()) continue;
    MOTET_ASSIGN_OR_RETURN(assemble::Part part, PartOf(session, record));
    MOTET_RETURN_IF_ERROR(Verify(session.federation.authority_pem, part));
    const std::string& of = part.manifest.pilots().of();
    if (of == expert) return part;
    if (!other && of.substr(0, of.find('@')) == name) other = std::move(part);
  }
  return other;
}

// Those that the recipe names, and of every other expert the newest.
absl::Status GatherPilots(const ComposeSession& session, RecipeParts& parts) {
  std::vector<std::string> missing;
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::set<std::string> covered;  // owner/name
  const auto take = [&](absl::StatusOr<assemble::Part> part) -> absl::Status {
    if (absl::IsUnavailable(part.status())) return part.status();
    if (!part.ok()) {
      code = part.status().code();
      missing.emplace_back(part.status().message());
      return absl::OkStatus();
    }
    const std::string& of = part->manifest.pilots().of();
    covered.insert(of.substr(0, of.find('@')));
    parts.pilots.push_back(*std::move(part));
    return absl::OkStatus();
  };
  for (const std::string& wish : parts.recipe.retriever.pilots) {
    auto part = PartOf(session, wish);
    if (part.ok()) {
      const absl::Status verified =
          Verify(session.federation.authority_pem, *part);
      if (!verified.ok()) part = verified;
    }
    MOTET_RETURN_IF_ERROR(take(std::move(part)));
  }
  for (const assemble::Part& expert : parts.experts) {
    const std::string& id = expert.manifest.id();
    if (covered.contains(id.substr(0, id.find('@')))) continue;
    auto newest = NewestPilots(session, id);
    if (!newest.ok()) {
      MOTET_RETURN_IF_ERROR(take(newest.status()));
    } else if (newest->has_value()) {
      MOTET_RETURN_IF_ERROR(take(**std::move(newest)));
    }
  }
  if (!missing.empty()) return absl::Status(code, absl::StrJoin(missing, "\n"));
  return absl::OkStatus();
}

// Files beside the recipe; from now on by their whole paths.
absl::StatusOr<std::vector<std::string>> ReadTuningText(
    const std::string& recipe, assemble::Recipe::Tuning& tuning) {
  std::vector<std::string> documents;
  for (std::string& file : tuning.data) {
    file = std::filesystem::absolute(
               std::filesystem::path(recipe).parent_path() / file)
               .lexically_normal()
               .string();
    MOTET_ASSIGN_OR_RETURN(std::vector<std::string> more,
                           learn::ReadJsonl(file));
    for (std::string& text : more) documents.push_back(std::move(text));
  }
  return documents;
}

// With the proxy data that packages point to, and its digest in the recipe.
absl::Status FinishTuningText(RecipeParts& parts) {
  assemble::Recipe::Tuning& tuning = *parts.recipe.tuning;
  if (tuning.proxy) {
    MOTET_ASSIGN_OR_RETURN(
        std::vector<std::string> proxy,
        assemble::ProxyDocuments(parts.base, parts.experts,
                                 tuning.proxy_documents, tuning.seed));
    tuning.proxy_taken = proxy.size();
    for (std::string& text : proxy) {
      parts.documents.push_back(std::move(text));
    }
  }
  tuning.documents = parts.documents.size();
  tuning.data_sha256 = assemble::DocumentsSha256(parts.documents);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ComposeSession> OpenComposeSession(const Context& context) {
  ComposeSession session;
  MOTET_ASSIGN_OR_RETURN(session.federation,
                         OpenFederation(context.federation));
  MOTET_ASSIGN_OR_RETURN(
      session.client,
      registry::Client::Make(session.federation.registry_address,
                             session.federation.tls));
  return session;
}

assemble::PackageFolder FolderOf(const ComposeSession& session) {
  return [session](const std::string& sha256) -> absl::StatusOr<std::string> {
    const std::string base = session.federation.Path("base");
    const auto digest = proto::Sha256File(base + "/manifest.json");
    if (digest.ok() && proto::Hex(*digest) == sha256) return base;
    return SignedPackage(session.federation, *session.client, sha256);
  };
}

assemble::PackageFolder FolderOf(const ComposeSession& session,
                                 const RecipeParts& parts) {
  std::map<std::string, std::string> folders = {
      {parts.base.manifest_sha256, parts.base.folder}};
  for (const assemble::Part& part : parts.experts) {
    folders[part.manifest_sha256] = part.folder;
  }
  for (const assemble::Part& part : parts.pilots) {
    folders[part.manifest_sha256] = part.folder;
  }
  return [folders, other = FolderOf(session)](
             const std::string& sha256) -> absl::StatusOr<std::string> {
    const auto it = folders.find(sha256);
    return it != folders.end() ? it->second : other(sha256);
  };
}

absl::StatusOr<RecipeParts> GatherParts(const ComposeSession& session,
                                        const std::string& recipe_path) {
  MOTET_ASSIGN_OR_RETURN(
      const std::string text,
      proto::ReadFile(recipe_path, proto::kMaxRecipeBytes));
  // As it is written first, so that what is wrong has its line.
  MOTET_RETURN_IF_ERROR(assemble::ParseRecipe(text, recipe_path).status());
  std::error_code error;
  const auto folder =
      std::filesystem::absolute(recipe_path, error).parent_path();
  MOTET_ASSIGN_OR_RETURN(const std::string placed,
                         assemble::RecipeFrom(text, folder.string()));
  return GatherRecipe(session, placed, recipe_path);
}

absl::StatusOr<RecipeParts> GatherRecipe(const ComposeSession& session,
                                         const std::string& text,
                                         const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(assemble::Recipe recipe,
                         assemble::ParseRecipe(text, where));
  // The tuning's text first: it costs no connection to see that it is there.
  std::vector<std::string> documents;
  if (recipe.tuning.has_value()) {
    MOTET_ASSIGN_OR_RETURN(documents, ReadTuningText(where, *recipe.tuning));
  }
  MOTET_ASSIGN_OR_RETURN(RecipeParts parts,
                         GatherParts(session, std::move(recipe)));
  parts.text = text;
  parts.documents = std::move(documents);
  if (parts.recipe.tuning.has_value()) {
    MOTET_RETURN_IF_ERROR(FinishTuningText(parts));
  }
  return parts;
}

absl::StatusOr<RecipeParts> GatherParts(const ComposeSession& session,
                                        assemble::Recipe recipe) {
  RecipeParts parts;
  parts.recipe = std::move(recipe);
  const Federation& federation = session.federation;
  parts.base.folder = federation.Path("base");

  ProgressLine progress("packages");
  std::vector<std::string> missing;
  absl::StatusCode code = absl::StatusCode::kUnknown;
  const auto lacks = [&](const absl::Status& status) {
    code = status.code();
    missing.emplace_back(status.message());
  };
  for (const std::string& wish : parts.recipe.experts) {
    progress.Update(static_cast<double>(parts.experts.size()) /
                        parts.recipe.experts.size(),
                    wish);
    auto part = PartOf(session, wish);
    if (part.ok()) {
      parts.experts.push_back(*std::move(part));
      continue;
    }
    // Without a registry every further expert would say the same.
    if (absl::IsUnavailable(part.status())) return part.status();
    lacks(part.status());
  }
  std::vector<absl::Status> verified(parts.experts.size() + 1);
  assemble::InParallel(verified.size(), [&](size_t i) {
    verified[i] = Verify(federation.authority_pem,
                         i == 0 ? parts.base : parts.experts[i - 1]);
  });
  for (const absl::Status& status : verified) {
    if (!status.ok()) lacks(status);
  }
  if (missing.size() == 1 && !verified[0].ok()) return verified[0];
  if (!missing.empty()) return absl::Status(code, absl::StrJoin(missing, "\n"));
  if (assemble::TakesPilots(parts.recipe.method)) {
    MOTET_RETURN_IF_ERROR(GatherPilots(session, parts));
  }
  progress.Finish(absl::StrCat(parts.experts.size(), " experts verified"));
  return parts;
}

absl::StatusOr<std::unique_ptr<assemble::Composition>> LoadNamed(
    const ComposeSession& session, const v1::CompositionLock& lock,
    assemble::LoadOptions options) {
  if (assemble::HoldsWeights(lock) || lock.has_tuning()) {
    options.folder =
        session.federation.Path(absl::StrCat("compositions/", lock.name()));
  }
  return assemble::LoadComposition(lock, FolderOf(session), options);
}

absl::StatusOr<v1::CompositionLock> ReadLock(const Federation& federation,
                                             const std::string& name) {
  MOTET_RETURN_IF_ERROR(proto::CheckName("composition", name));
  const std::string path =
      federation.Path(absl::StrCat("compositions/", name, "/motet.lock"));
  if (!proto::Exists(path)) {
    auto known = proto::ListDirectory(federation.Path("compositions"));
    if (known.ok()) {  // not those that are being written
      std::erase_if(*known, [](const std::string& n) { return n[0] == '.'; });
    }
    const bool some = known.ok() && !known->empty();
    return proto::Error(absl::StatusCode::kNotFound, "composition",
                        absl::StrCat("\"", name, "\""),
                        some ? absl::StrCat("one of ",
                                            absl::StrJoin(*known, ", "))
                             : "a composition of this federation",
                        "make one with `motet compose apply recipe.toml`");
  }
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, proto::kMaxManifestBytes));
  return assemble::ParseLock(text, path);
}

std::string BytesText(int64_t bytes) {
  if (bytes < 10 << 10) return absl::StrCat(bytes, " bytes");
  if (bytes < 10 << 20) return absl::StrFormat("%.1f KiB", bytes / 1024.0);
  return absl::StrFormat("%.1f MiB", bytes / 1048576.0);
}

std::string CountText(int64_t count) {
  return absl::StrFormat("%.2f M", static_cast<double>(count) / 1e6);
}

}  // namespace motet::coordinator
