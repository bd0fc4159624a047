// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/export.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::assemble {
namespace {

namespace fs = std::filesystem;

constexpr char kLock[] = "/motet.lock";
// Of the threads that verify beside the writing one, which inherit it.
constexpr int kNice = 10;

absl::Status CheckFolder(const std::string& folder, bool replace) {
  if (!proto::Exists(folder)) return absl::OkStatus();
  MOTET_ASSIGN_OR_RETURN(const auto names, proto::ListDirectory(folder));
  if (names.empty()) return absl::OkStatus();
  const bool ours = proto::Exists(folder + kLock) &&
                    proto::Exists(folder + "/config.json");
  if (replace && ours) return absl::OkStatus();
  return proto::Error(
      absl::StatusCode::kAlreadyExists, absl::StrCat("export ", folder),
      ours ? "an earlier export" : "a folder with files",
      "a new or empty folder",
      ours ? "choose another --out, or --replace it" : "choose another --out");
}

// What stands in the way, by field; the architecture's own choices apart.
std::vector<std::string> Obstacles(const Composition& composition) {
  const v1::CompositionLock& lock = composition.lock;
  if (composition.decoder == nullptr) {
    return {absl::StrCat("method = \"", lock.method(), "\" (",
                         lock.experts_size() + (lock.ensemble().base() ? 1 : 0),
                         " whole models; want one)")};
  }
  std::vector<std::string> reasons;
  const v1::RouterLock& router = lock.router();
  if (router.kind() == "topp") {
    reasons.push_back(absl::StrCat(
        "router.kind = \"topp\" (want topk: --router topk exports plain top-",
        router.k(), " over the same rows)"));
  }
  if (router.kind() == "switch" || router.kind() == "sample") {
    reasons.push_back(absl::StrCat(
        "router.kind = \"", router.kind(),
        "\" (want topk: the one expert's gate is not 1)"));
  }
  if (router.null_experts() > 0) {
    reasons.push_back(absl::StrCat("router.null_experts = ",
                                   router.null_experts(), " (want 0)"));
  }
  if (router.shared()) {
    reasons.push_back("router.shared = true (want false: these layouts' top-k "
                      "can leave the base out)");
  }
  return reasons;
}

std::vector<std::string> Lost(const v1::CompositionLock& lock) {
  const v1::RouterLock& router = lock.router();
  std::vector<std::string> lost;
  if (router.kind() == "anchored") {
    lost.push_back(absl::StrCat(
        "the anchored choice of experts (discriminant over the base's "
        "statistics): the export routes by plain top-", router.k(),
        " over the trained rows"));
    lost.push_back(absl::StrCat("smoothing a = ", router.smoothing(),
                                ": every token is routed by itself"));
    if (router.gate()) {
      lost.push_back("the typicality gate: text that no expert was made for "
                     "may go to a foreign one");
    }
  }
  if (lock.has_tuning()) {
    lost.push_back("the rows before tuning: the export has those that were "
                   "tuned in the presence of all experts");
  }
  if (lock.btx().chunks() > 1) {
    lost.push_back("which chunks make up an expert: the export has them side "
                   "by side");
  }
  if (!lock.has_router()) {
    lost.push_back("expert sets, licence terms and receipts: the weights are "
                   "those of all experts together, and nobody can leave one "
                   "out");
    return lost;
  }
  lost.push_back("expert sets, licence terms and receipts: whoever runs the "
                 "export decides which experts answer");
  return lost;
}

}  // namespace

absl::StatusOr<ExportReport> ExportHuggingFace(const Composition& composition,
                                               const std::string& folder,
                                               const ExportOptions& options) {
  const std::string where = absl::StrCat("export ", composition.name);
  if (const auto reasons = Obstacles(composition); !reasons.empty()) {
    return proto::Invalid(where, absl::StrJoin(reasons, ", "),
                          "what a Hugging Face layout can say",
                          "serve it with motet");
  }
  model::ModelConfig config = composition.config;
  const model::ModelWeights& weights = composition.decoder->weights();
  for (const auto& layer : weights.layers) {
    for (const auto& ffn : layer.experts) {
      config.ffn_width = std::max(config.ffn_width, ffn.gate.rows());
    }
  }
  MOTET_RETURN_IF_ERROR(model::CheckExport(config));
  MOTET_RETURN_IF_ERROR(CheckFolder(folder, options.replace));
  const std::string base = composition.base->files[0]->path();
  MOTET_ASSIGN_OR_RETURN(
      const std::string tokenizer,
      proto::ReadFile(base.substr(0, base.rfind('/')) + "/tokenizer.json",
                      proto::kMaxTokenizerBytes));

  fs::path to(folder);
  if (!to.has_filename()) to = to.parent_path();  // "DIR/"
  const std::string parent =
      to.has_parent_path() ? to.parent_path().string() : ".";
  const std::string partial = absl::StrCat(
      parent, "/.", to.filename().string(), ".partial");
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(parent));
  MOTET_ASSIGN_OR_RETURN(
      const proto::FileLock held,
      proto::FileLock::Take(partial + ".lock", "another export"));
  std::error_code ignored;
  fs::remove_all(partial, ignored);  // of one that was killed
  const absl::Cleanup clean = [&] {
    fs::remove_all(partial, ignored);
    fs::remove(partial + ".lock", ignored);
  };
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(partial));
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(partial + kLock, WriteLock(composition.lock)));
  package::SaveOptions save;
  save.mapped = composition.base->files;
  save.mapped.insert(save.mapped.end(), composition.files.begin(),
                     composition.files.end());
  save.progress = options.progress;
  std::future<absl::Status> verified;
  if (composition.verify) {
    // Who writes goes first: the disk then works while digests are compared.
    verified = std::async(std::launch::async, [&composition] {
      setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
      return composition.verify();
    });
  }
  const absl::Status saved = package::SaveModel(
      partial, config, weights, tokenizer, "model.safetensors", save);
  if (verified.valid()) MOTET_RETURN_IF_ERROR(verified.get());
  MOTET_RETURN_IF_ERROR(saved);
  MOTET_RETURN_IF_ERROR(proto::ExchangeDurably(partial, to.string()));
  ExportReport report;
  report.architecture = model::Architecture(config);
  report.lost = Lost(composition.lock);
  return report;
}

}  // namespace motet::assemble
