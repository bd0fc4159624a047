// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/merge_parts.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/verify.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_dense.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::assemble {
namespace {

using package::SafetensorsFile;
using package::SafetensorsWriter;

std::vector<package::TensorLayout> LayoutOf(const MergeParts& parts) {
  std::vector<package::TensorLayout> layout;
  for (const MergeTensor& t : parts.tensors) {
    layout.push_back({t.name, MergedDType(t), t.base.shape});
  }
  return layout;
}

absl::Status Stream(const MergeRule& rule, MergeParts parts,
                    SafetensorsWriter& writer,
                    const BuildProgress& progress) {
  std::map<std::string, MergeTensor> by_name;
  for (MergeTensor& t : parts.tensors) by_name[t.name] = std::move(t);
  parts.tensors.clear();
  for (const package::TensorLayout& t : writer.tensors()) {
    parts.tensors.push_back(std::move(by_name[t.name]));
  }
  MergeStream stream;
  stream.sink = [&](absl::string_view bytes) { return writer.Append(bytes); };
  stream.let_go = SafetensorsFile::LetGo;
  if (progress) {
    stream.progress = [&](int64_t done, int64_t total) {
      progress(static_cast<double>(done) / static_cast<double>(total));
    };
  }
  return MergeTensors(rule, parts.tensors, stream);
}

}  // namespace

int64_t MergeParts::bytes() const {
  int64_t bytes = 0;
  for (const MergeTensor& t : tensors) {
    bytes += t.base.size() * math::ByteSize(MergedDType(t));
  }
  return bytes;
}

absl::StatusOr<MergeParts> OpenMergeParts(const v1::CompositionLock& lock,
                                          const PackageFolder& folder_of) {
  MergeParts parts;
  MOTET_ASSIGN_OR_RETURN(const std::string base_folder,
                         folder_of(lock.base().manifest_sha256()));
  MOTET_RETURN_IF_ERROR(VerifyBase(base_folder, lock.base()));
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(base_folder + "/manifest.json",
                                         proto::kMaxManifestBytes));
  MOTET_ASSIGN_OR_RETURN(const v1::ExpertManifest base_manifest,
                         package::ParseManifest(text));
  MOTET_ASSIGN_OR_RETURN(
      const auto base,
      SafetensorsFile::Open(base_folder + "/weights.safetensors"));
  parts.files.push_back(base);
  for (const SafetensorsFile::Entry& e : base->entries()) {
    MergeTensor t;
    t.name = e.name;
    t.base = e.tensor;
    parts.tensors.push_back(std::move(t));
  }
  const bool fisher = lock.merge().kind() == "fisher";
  for (const v1::LockedExpert& expert : lock.experts()) {
    MOTET_ASSIGN_OR_RETURN(const std::string folder,
                           folder_of(expert.manifest_sha256()));
    std::set<std::string> more;
    if (fisher) more.insert(package::kFisherFile);
    MOTET_ASSIGN_OR_RETURN(const v1::ExpertManifest manifest,
                           VerifyExpert(folder, expert, more));
    std::vector<std::string> reasons =
        package::CheckDense(manifest, base_manifest);
    MOTET_ASSIGN_OR_RETURN(
        const auto own,
        SafetensorsFile::Open(folder + "/weights.safetensors"));
    parts.files.push_back(own);
    std::shared_ptr<const SafetensorsFile> weights;
    if (fisher) {
      MOTET_ASSIGN_OR_RETURN(
          weights,
          SafetensorsFile::Open(absl::StrCat(folder, "/",
                                             package::kFisherFile)));
      parts.files.push_back(weights);
      for (std::string& reason : package::CheckFisher(manifest, *weights)) {
        reasons.push_back(std::move(reason));
      }
    }
    MOTET_RETURN_IF_ERROR(package::AsStatus(
        absl::StrCat("expert ", expert.id()), reasons,
        absl::StrCat("a branch of the base ", lock.base().id()),
        "ask its owner for a correct one"));
    for (MergeTensor& t : parts.tensors) {
      t.models.push_back(package::DenseTensor(*own, *base, t.name));
      if (fisher) t.fishers.push_back(weights->Find(t.name));
    }
  }
  return parts;
}

absl::Status MergeToFile(const MergeRule& rule, MergeParts parts,
                         const std::string& path,
                         const BuildProgress& progress) {
  MOTET_ASSIGN_OR_RETURN(const auto writer,
                         SafetensorsWriter::Make(path, LayoutOf(parts)));
  MOTET_RETURN_IF_ERROR(Stream(rule, std::move(parts), *writer, progress));
  return writer->Finish();
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> MergeToMemory(
    const MergeRule& rule, MergeParts parts) {
  MOTET_ASSIGN_OR_RETURN(
      const auto writer,
      SafetensorsWriter::InMemory("of a merge", LayoutOf(parts)));
  MOTET_RETURN_IF_ERROR(Stream(rule, std::move(parts), *writer, {}));
  return writer->OpenInMemory();
}

}  // namespace motet::assemble
