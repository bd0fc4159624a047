// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/export.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::assemble {
namespace {

using math::Tensor;

// Numbers that must be made before they can be written, kept in an unnamed
// file: the system may push them out of memory, whatever their size.
class Scratch {
 public:
  static absl::StatusOr<Scratch> Make(const std::string& folder,
                                      int64_t bytes) {
    Scratch scratch;
    if (bytes == 0) return scratch;
    std::string path = folder + "/.padding.XXXXXX";
    const int fd = mkstemp(path.data());
    if (fd < 0) return Failed(folder, bytes);
    unlink(path.c_str());
    // Reserved now: a full disk is an error here and not a signal later.
    int error = posix_fallocate(fd, 0, bytes);
    if (error == 0) {
      scratch.map_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                          fd, 0);
      if (scratch.map_ == MAP_FAILED) {
        scratch.map_ = nullptr;
        error = errno;
      }
    }
    close(fd);
    errno = error;
    if (error != 0) return Failed(folder, bytes);
    scratch.bytes_ = bytes;
    return scratch;
  }
  Scratch(Scratch&& other) noexcept { *this = std::move(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(map_, other.map_);
    std::swap(bytes_, other.bytes_);
    std::swap(used_, other.used_);
    return *this;
  }
  ~Scratch() {
    if (map_ != nullptr) munmap(map_, bytes_);
  }
  // Zeros.
  char* Take(int64_t bytes) {
    MOTET_CHECK(used_ + bytes <= bytes_);
    char* at = static_cast<char*>(map_) + used_;
    used_ += bytes;
    return at;
  }
  // What was taken so far may leave memory; it stays in the file.
  void LetGo() {
    if (map_ != nullptr) madvise(map_, bytes_, MADV_DONTNEED);
  }

 private:
  Scratch() = default;
  static absl::Status Failed(const std::string& folder, int64_t bytes) {
    return proto::Error(absl::StatusCode::kResourceExhausted,
                        absl::StrCat("export ", folder),
                        std::strerror(errno),
                        absl::StrCat(bytes, " bytes of room for padding"),
                        "free disk space or choose another --out");
  }
  void* map_ = nullptr;
  int64_t bytes_ = 0, used_ = 0;
};

// rows x cols of `from`, zeros to the right and below.
Tensor Padded(const Tensor& from, int64_t rows, int64_t cols,
              Scratch& scratch) {
  if (from.rows() == rows && from.cols() == cols) return from;
  Tensor to = from;
  to.shape = {rows, cols};
  to.data = scratch.Take(to.bytes());
  const int64_t element = math::ByteSize(from.dtype);
  for (int64_t r = 0; r < from.rows(); ++r) {
    memcpy(static_cast<char*>(to.data) + r * cols * element,
           static_cast<const char*>(from.data) + r * from.cols() * element,
           from.cols() * element);
  }
  return to;
}

absl::Status CheckEmpty(const std::string& folder) {
  if (!proto::Exists(folder)) return absl::OkStatus();
  MOTET_ASSIGN_OR_RETURN(const auto names, proto::ListDirectory(folder));
  if (names.empty()) return absl::OkStatus();
  return proto::Error(absl::StatusCode::kAlreadyExists,
                      absl::StrCat("export ", folder), "a folder with files",
                      "a new or empty folder", "choose another --out");
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
  if (router.kind() == "topp") {
    lost.push_back(absl::StrCat("top-p: the export routes by plain top-",
                                router.k(), " over the same rows"));
  }
  if (router.null_experts() > 0) {
    lost.push_back("null experts: every token uses its k experts");
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
                                               const std::string& folder) {
  MOTET_RETURN_IF_ERROR(CheckEmpty(folder));
  model::ModelConfig config = composition.config;
  model::ModelWeights weights = composition.decoder->weights();
  for (const auto& ffn : weights.layers[0].experts) {
    config.ffn_width = std::max(config.ffn_width, ffn.gate.rows());
  }
  int64_t padding = 0;
  for (const auto& layer : weights.layers) {
    for (const auto& ffn : layer.experts) {
      if (ffn.gate.rows() == config.ffn_width) continue;
      for (const Tensor* t : {&ffn.gate, &ffn.up, &ffn.down}) {
        padding += config.ffn_width * config.width * math::ByteSize(t->dtype);
      }
    }
  }
  const std::string base = composition.base->files[0]->path();
  MOTET_ASSIGN_OR_RETURN(
      const std::string tokenizer,
      proto::ReadFile(base.substr(0, base.rfind('/')) + "/tokenizer.json",
                      proto::kMaxTokenizerBytes));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  MOTET_ASSIGN_OR_RETURN(Scratch scratch, Scratch::Make(folder, padding));
  for (auto& layer : weights.layers) {
    for (auto& ffn : layer.experts) {
      ffn.gate = Padded(ffn.gate, config.ffn_width, config.width, scratch);
      ffn.up = Padded(ffn.up, config.ffn_width, config.width, scratch);
      ffn.down = Padded(ffn.down, config.width, config.ffn_width, scratch);
    }
    scratch.LetGo();
  }
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(folder + "/motet.lock",
                                               WriteLock(composition.lock)));
  MOTET_RETURN_IF_ERROR(
      package::SaveModel(folder, config, weights, tokenizer));
  ExportReport report;
  report.architecture = model::Architecture(config);
  report.lost = Lost(composition.lock);
  return report;
}

}  // namespace motet::assemble
