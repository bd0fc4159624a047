// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/plan_parts.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/verify.h"
#include "compose/package/manifest.h"

namespace motet::assemble {
namespace {

const v1::FileDigest* FindFile(const v1::ExpertManifest& manifest,
                               const std::string& path) {
  for (const v1::FileDigest& file : manifest.files()) {
    if (file.path() == path) return &file;
  }
  return nullptr;
}

void LicenceNotes(const std::string& id, const v1::LicenceTerms& terms,
                  bool exact, std::vector<std::string>& notes) {
  const std::string then =
      exact ? ": the gate will exclude it"
            : ": queries are refused, since this composition excludes by "
              "routing only,";
  const auto may_not = [&](const auto& list, const char* what) {
    for (const std::string& value : list) {
      notes.push_back(absl::StrCat(id, " may not serve ", what, " ", value,
                                   then, " there"));
    }
  };
  const auto only = [&](const auto& list, const char* what) {
    if (list.empty()) return;
    notes.push_back(absl::StrCat(id, " serves only ", what, " ",
                                 absl::StrJoin(list, ", "), then,
                                 " elsewhere"));
  };
  may_not(terms.forbidden_purposes(), "purpose");
  only(terms.allowed_purposes(), "purpose");
  may_not(terms.forbidden_tenants(), "tenant");
  only(terms.allowed_tenants(), "tenant");
  if (!terms.not_before().empty()) {
    notes.push_back(absl::StrCat(id, " serves from ", terms.not_before(),
                                 " on"));
  }
  if (!terms.not_after().empty()) {
    notes.push_back(absl::StrCat(id, " serves until ", terms.not_after()));
  }
  if (!terms.attribution().empty()) {
    notes.push_back(absl::StrCat(id, " asks for attribution: ",
                                 terms.attribution()));
  }
}

}  // namespace

void Problems::Add(const std::string& where, const std::string& text) {
  out_.push_back(absl::StrCat("[", where, "] ", text));
}

void Problems::Same(const std::string& where, const std::string& what,
                    const std::string& got, const std::string& want,
                    const std::string& hint) {
  if (got != want) {
    Add(where, absl::StrCat("got ", what, " ", got, ", want the base's ",
                            want, hint.empty() ? "" : "; ", hint));
  }
}

std::string Short(const std::string& sha256) {
  return sha256.empty() ? "none" : sha256.substr(0, 12);
}

std::string FileSha256(const v1::ExpertManifest& manifest,
                       const std::string& path) {
  const v1::FileDigest* file = FindFile(manifest, path);
  return file == nullptr ? "" : file->sha256();
}

uint64_t FileBytes(const v1::ExpertManifest& manifest,
                   const std::string& path) {
  const v1::FileDigest* file = FindFile(manifest, path);
  return file == nullptr ? 0 : file->size_bytes();
}

int64_t Elements(const v1::TensorDigest& tensor) {
  int64_t n = 1;
  for (const uint64_t dim : tensor.shape()) n *= static_cast<int64_t>(dim);
  return n;
}

int64_t Parameters(const v1::ExpertManifest& manifest, absl::string_view part) {
  int64_t n = 0;
  for (const v1::TensorDigest& tensor : manifest.tensors()) {
    if (absl::EndsWith(tensor.name(), ".router.bias")) continue;
    if (absl::StrContains(tensor.name(), part)) n += Elements(tensor);
  }
  return n;
}

void CheckItself(const v1::ExpertManifest& m, Problems& problems) {
  for (const std::string& reason : package::CheckManifest(m)) {
    problems.Add(m.id(), "got a manifest whose " + reason);
  }
}

void CheckBase(const Part& base, Problems& problems) {
  const v1::ExpertManifest& m = base.manifest;
  CheckItself(m, problems);
  if (m.kind() != "base") {
    problems.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                      "\" as the base, want \"base\""));
  }
  if (base.revoked) {
    problems.Add(m.id(), "got a revoked base, want one that is in force; "
                         "train or choose another base");
  }
}

void CheckBranch(const Part& part, const Part& base, Problems& problems) {
  const v1::ExpertManifest& m = part.manifest;
  const v1::ExpertManifest& b = base.manifest;
  const std::string& where = m.id();
  const std::string train = "ask its owner to train on this base";
  problems.Same(where,
                absl::StrCat("an expert trained on base ", m.base().id(),
                             ", manifest"),
                Short(m.base().manifest_sha256()), Short(base.manifest_sha256),
                train);
  problems.Same(where, "base weights", Short(m.base().weights_sha256()),
                Short(FileSha256(b, "weights.safetensors")), train);
  problems.Same(where, "tokenizer", Short(m.base().tokenizer_sha256()),
                Short(FileSha256(b, "tokenizer.json")),
                "token ids would mean other text");
  problems.Same(where, "block", m.model().block(), b.model().block(), "");
  problems.Same(where, "layers", absl::StrCat(m.model().layers()),
                absl::StrCat(b.model().layers()), "");
  problems.Same(where, "width", absl::StrCat(m.model().width()),
                absl::StrCat(b.model().width()), "");
  problems.Same(where, "vocabulary", absl::StrCat(m.model().vocabulary()),
                absl::StrCat(b.model().vocabulary()), "");
}

void CheckNames(const Recipe& recipe, const std::vector<Part>& experts,
                Problems& problems) {
  if (experts.size() > kMaxExperts) {
    problems.Add("recipe", absl::StrCat("got ", experts.size(),
                                        " experts, want at most ",
                                        kMaxExperts));
  }
  if (recipe.experts.size() != experts.size()) {
    problems.Add("recipe", absl::StrCat("got ", experts.size(),
                                        " packages, want the ",
                                        recipe.experts.size(), " it names"));
  }
  std::set<std::string> names;
  for (size_t i = 0; i < experts.size(); ++i) {
    const std::string& id = experts[i].manifest.id();
    const std::string name = id.substr(0, id.find('@'));
    if (i < recipe.experts.size() && recipe.experts[i] != id &&
        recipe.experts[i] != name) {
      problems.Add("recipe", absl::StrCat("got package ", id, ", want ",
                                          recipe.experts[i]));
    }
    if (experts[i].revoked) {
      problems.Add(id, "got a revoked expert, want one that is in force; "
                       "take it out of the recipe");
    }
    if (!names.insert(name).second) {
      problems.Add("recipe", absl::StrCat("got ", name, " twice, want each "
                                          "expert once"));
    }
  }
}

void CheckChoices(const Recipe& recipe, int total, Problems& problems) {
  const Recipe::Router& router = recipe.router;
  const bool shared = router.shared && router.kind == "topk";
  const int choices = total - (shared ? std::max(1, recipe.btx.chunks) : 0) +
                      router.null_experts;
  const std::string what = absl::StrCat(
      shared ? ", the experts beside the base" : ", the experts with the base",
      router.null_experts > 0 ? " and the nulls" : "");
  if (router.shared && !shared) {
    problems.Add("recipe",
                 absl::StrCat("got router.shared with router.kind = \"",
                              router.kind,
                              "\", want it with \"topk\": ",
                              router.kind == "anchored"
                                  ? "an anchored pair has the base already"
                                  : "this kind takes what its weights say"));
  }
  if (router.kind == "topk" && router.k > choices) {
    problems.Add("recipe", absl::StrCat("got router.k = ", router.k,
                                        ", want at most ", choices, what));
  }
  if (router.most_active > choices) {
    problems.Add("recipe",
                 absl::StrCat("got router.most_active = ", router.most_active,
                              ", want at most ", choices, what));
  }
  if (router.kind == "topk" && router.most_active > 0 &&
      router.most_active < router.k) {
    problems.Add("recipe",
                 absl::StrCat("got router.most_active = ", router.most_active,
                              ", want at least router.k = ", router.k));
  }
}

int64_t MostFfns(const Recipe& recipe, std::vector<int64_t> ffns) {
  const Recipe::Router& router = recipe.router;
  const int64_t chunks = std::max(1, recipe.btx.chunks);
  const bool shared = router.shared && router.kind == "topk";
  const auto first = ffns.begin() + (shared ? 1 : 0);
  std::sort(first, ffns.end(), std::greater<>());
  int64_t most = (ffns.end() - first) * chunks;
  if (router.kind == "topk") {
    most = std::min<int64_t>(most, router.k);
  } else if (router.kind == "switch" || router.kind == "sample") {
    most = 1;
  } else if (router.most_active > 0) {
    most = std::min<int64_t>(most, router.most_active);
  }
  int64_t numbers = shared ? ffns[0] : 0;
  for (int64_t i = 0; i < most; ++i) numbers += first[i / chunks] / chunks;
  return numbers;
}

void AddNotes(const Part& base, const std::vector<Part>& experts, bool exact,
              std::vector<std::string>& notes) {
  LicenceNotes(base.manifest.id(), base.manifest.licence(), exact, notes);
  if (!base.manifest.licence().spdx().empty()) {
    notes.push_back(absl::StrCat(base.manifest.id(), " is licensed ",
                                 base.manifest.licence().spdx()));
  }
  std::map<std::string, std::vector<std::string>> domains;
  for (const Part& part : experts) {
    const v1::ExpertManifest& m = part.manifest;
    LicenceNotes(m.id(), m.licence(), exact, notes);
    if (!m.domain().domain().empty()) {
      domains[m.domain().domain()].push_back(m.id());
    }
  }
  for (const auto& [domain, ids] : domains) {
    if (ids.size() < 2) continue;
    notes.push_back(absl::StrCat("domain \"", domain, "\" names ",
                                 absl::StrJoin(ids, " and "),
                                 ": a request for it means all of them"));
  }
}

v1::CompositionLock LockOf(const Recipe& recipe, const Part& base,
                           const std::vector<Part>& experts) {
  v1::CompositionLock lock;
  lock.set_schema_version(1);
  lock.set_name(recipe.name);
  lock.set_method(recipe.method);
  v1::BaseReference& b = *lock.mutable_base();
  b.set_id(base.manifest.id());
  b.set_manifest_sha256(base.manifest_sha256);
  b.set_weights_sha256(FileSha256(base.manifest, "weights.safetensors"));
  b.set_tokenizer_sha256(FileSha256(base.manifest, "tokenizer.json"));
  for (const Part& part : experts) {
    const v1::ExpertManifest& m = part.manifest;
    v1::LockedExpert& e = *lock.add_experts();
    e.set_id(m.id());
    e.set_manifest_sha256(part.manifest_sha256);
    e.set_weights_sha256(FileSha256(m, WeightsFile(m)));
    e.set_domain(m.domain().domain());
    *e.mutable_licence() = m.licence();
    e.set_log_index(part.log_index);
  }
  lock.set_software("motet " MOTET_VERSION);
  return lock;
}

}  // namespace motet::assemble
