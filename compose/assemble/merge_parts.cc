// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/merge_parts.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/assemble/dense_parts.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_dense.h"
#include "proto/error.h"

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
  const bool fisher = lock.merge().kind() == "fisher";
  std::set<std::string> more;
  if (fisher) more.insert(package::kFisherFile);
  MOTET_ASSIGN_OR_RETURN(const DenseParts dense,
                         OpenDenseParts(lock, folder_of, more));
  MergeParts parts;
  parts.files.push_back(dense.base);
  for (const SafetensorsFile::Entry& e : dense.base->entries()) {
    MergeTensor t;
    t.name = e.name;
    t.base = e.tensor;
    parts.tensors.push_back(std::move(t));
  }
  for (size_t j = 0; j < dense.branches.size(); ++j) {
    const DenseParts::Branch& branch = dense.branches[j];
    parts.files.push_back(branch.weights);
    std::shared_ptr<const SafetensorsFile> weights;
    if (fisher) {
      MOTET_ASSIGN_OR_RETURN(
          weights,
          SafetensorsFile::Open(absl::StrCat(branch.folder, "/",
                                             package::kFisherFile)));
      parts.files.push_back(weights);
      MOTET_RETURN_IF_ERROR(package::AsStatus(
          absl::StrCat("expert ", branch.manifest.id()),
          package::CheckFisher(branch.manifest, *weights),
          absl::StrCat("a branch of the base ", lock.base().id()),
          "ask its owner for a correct one"));
    }
    for (MergeTensor& t : parts.tensors) {
      t.models.push_back(dense.Find(1 + j, t.name));
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
