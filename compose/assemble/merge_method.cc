// SPDX-License-Identifier: Apache-2.0
// The merge method: a composition whose weights are made, for all experts
// when it is applied and for any other set when a query first asks for it.
// Both ways end in a safetensors file of the same bytes (in memory for sets),
// so what answers without an expert is what was composed without it.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/merge_kinds.h"
#include "compose/assemble/merge_parts.h"
#include "compose/assemble/method.h"
#include "compose/assemble/set_decoders.h"
#include "compose/assemble/verify.h"
#include "compose/package/weight_match.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::assemble {
namespace {

using math::ExpertMask;
using package::SafetensorsFile;

constexpr char kWeights[] = "weights.safetensors";
// Beside it, as sha256sum writes and checks it.
constexpr char kDigest[] = "weights.sha256";

// A dense model of one expert set.
struct Merged : SetDecoder {
  std::shared_ptr<const SafetensorsFile> file;
  package::WidenedVectors widened;
};

absl::StatusOr<std::shared_ptr<Merged>> MergedOf(
    const model::ModelConfig& config,
    std::shared_ptr<const SafetensorsFile> file, const std::string& where) {
  auto merged = std::make_shared<Merged>();
  merged->file = file;
  merged->bytes = static_cast<int64_t>(file->file_bytes());
  model::ModelWeights weights;
  const std::vector<std::string> problems =
      package::MatchWeights(config, {file}, weights, merged->widened);
  if (!problems.empty()) {
    return proto::Invalid(where, absl::StrJoin(problems, ", "),
                          "the tensors of the base's config.json");
  }
  MOTET_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(config, std::move(weights), {}));
  merged->decoder = std::make_unique<model::Decoder>(std::move(decoder));
  return merged;
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> OpenBuilt(
    const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kWeights);
  const std::string hint = "write it again with `motet compose apply`";
  if (!proto::Exists(path)) {
    return proto::Error(absl::StatusCode::kDataLoss, path, "no such file",
                        "the merged weights", hint);
  }
  MOTET_ASSIGN_OR_RETURN(const std::string want,
                         proto::ReadFile(absl::StrCat(folder, "/", kDigest),
                                         proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(const proto::Digest got, proto::Sha256File(path));
  if (want != absl::StrCat(proto::Hex(got), "  ", kWeights, "\n")) {
    return proto::Error(absl::StatusCode::kDataLoss, path,
                        absl::StrCat("SHA-256 ", proto::Hex(got)),
                        absl::StrCat("that of ", kDigest), hint);
  }
  return SafetensorsFile::Open(path);
}

class MergedComposition : public Composition {
 public:
  MergedComposition(PackageFolder folder_of, int64_t set_bytes)
      : folder_of_(std::move(folder_of)),
        sets_("merge", set_bytes,
              [this](ExpertMask set, const SetDecoders::Room& room) {
                return Make(set, room);
              }) {}

  absl::Status Init(const v1::CompositionLock& given,
                    const LoadOptions& options) {
    MOTET_RETURN_IF_ERROR(TakeLock(given, options, *this));
    MOTET_ASSIGN_OR_RETURN(const std::string folder,
                           folder_of_(lock.base().manifest_sha256()));
    MOTET_RETURN_IF_ERROR(VerifyBase(folder, lock.base()));
    MOTET_RETURN_IF_ERROR(TakeBase(folder, *this));
    MOTET_ASSIGN_OR_RETURN(
        model::Decoder alone,
        model::Decoder::Create(config, base->weights, {}));
    base_ = std::make_shared<model::Decoder>(std::move(alone));
    if (lock.experts_size() == 0) {
      decoder = std::make_unique<model::Decoder>(*base_);
      return absl::OkStatus();
    }
    std::shared_ptr<const SafetensorsFile> file;
    if (options.all && !options.folder.empty()) {
      MOTET_ASSIGN_OR_RETURN(file, OpenBuilt(options.folder));
    } else {
      MOTET_ASSIGN_OR_RETURN(MergeParts parts,
                             OpenMergeParts(lock, folder_of_));
      MOTET_ASSIGN_OR_RETURN(file,
                             MergeToMemory(RuleOf(lock), std::move(parts)));
    }
    MOTET_ASSIGN_OR_RETURN(
        whole_, MergedOf(config, std::move(file),
                         absl::StrCat("merge ", lock.name())));
    files = {whole_->file};
    decoder = std::make_unique<model::Decoder>(*whole_->decoder);
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<const model::Decoder>> DecoderFor(
      ExpertMask set) const override {
    set &= All();
    if (set == All()) return ServedModel::DecoderFor(set);
    if ((set & ~ExpertMask{1}) == 0) return base_;
    return sets_.For(set, experts);
  }

 private:
  absl::StatusOr<std::shared_ptr<SetDecoder>> Make(
      ExpertMask set, const SetDecoders::Room& room) const {
    LoadOptions only;
    only.all = false;
    for (int e = 1; e <= lock.experts_size(); ++e) {
      if ((set >> e & 1) != 0) only.only.push_back(e);
    }
    MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock alone,
                           SelectExperts(lock, only));
    MOTET_ASSIGN_OR_RETURN(MergeParts parts,
                           OpenMergeParts(alone, folder_of_));
    MOTET_RETURN_IF_ERROR(room(parts.bytes()));
    MOTET_ASSIGN_OR_RETURN(auto file,
                           MergeToMemory(RuleOf(alone), std::move(parts)));
    return MergedOf(config, std::move(file),
                    absl::StrCat("merge ", lock.name()));
  }

  const PackageFolder folder_of_;
  std::shared_ptr<const model::Decoder> base_;
  std::shared_ptr<const Merged> whole_;
  mutable SetDecoders sets_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Composition>> LoadMerge(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options) {
  if (!options.router.empty()) {
    return proto::Invalid("composition",
                          absl::StrCat("router \"", options.router, "\""),
                          "none: a merge is one dense model");
  }
  auto composition =
      std::make_unique<MergedComposition>(folder_of, options.set_bytes);
  MOTET_RETURN_IF_ERROR(composition->Init(lock, options));
  return composition;
}

absl::Status BuildMerge(const v1::CompositionLock& lock,
                        const PackageFolder& folder_of,
                        const std::string& folder,
                        const BuildProgress& progress) {
  const std::string path = absl::StrCat(folder, "/", kWeights);
  MOTET_ASSIGN_OR_RETURN(MergeParts parts, OpenMergeParts(lock, folder_of));
  MOTET_RETURN_IF_ERROR(
      MergeToFile(RuleOf(lock), std::move(parts), path, progress));
  MOTET_ASSIGN_OR_RETURN(const proto::Digest digest, proto::Sha256File(path));
  return proto::WriteFileAtomic(
      absl::StrCat(folder, "/", kDigest),
      absl::StrCat(proto::Hex(digest), "  ", kWeights, "\n"));
}

}  // namespace motet::assemble
