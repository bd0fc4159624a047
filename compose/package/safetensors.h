// SPDX-License-Identifier: Apache-2.0
// Safetensors files: mapped and bounded on the way in (they come from
// strangers), streamed and atomic on the way out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/math/tensor.h"

namespace motet::package {

// A read-only mapping of a checked file. Tensors are views into it. The file
// must not be shortened while it is mapped: packages are written once and
// replaced by renaming, never in place.
class SafetensorsFile {
 public:
  // Refuses, naming file and tensor: a header longer than the file or than
  // the limit, malformed or duplicate JSON keys, unknown dtypes, shapes whose
  // product overflows, offsets out of order, out of range, overlapping or
  // with holes, sizes that do not fit shape and dtype, and tensors that do
  // not begin at a multiple of their element's size.
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(
      const std::string& path);

  struct Entry {
    std::string name;
    math::Tensor tensor;
    uint64_t file_offset = 0;  // of its first byte in the file
  };
  const std::vector<Entry>& entries() const { return entries_; }  // by offset
  // Empty tensor when absent.
  math::Tensor Find(absl::string_view name) const;
  const std::string& path() const { return path_; }
  uint64_t file_bytes() const { return bytes_; }
  // The pages under `part`, a piece of a mapped file's tensor, may leave
  // memory; they are read again when touched. For what streams through a
  // large file.
  static void LetGo(const math::Tensor& part);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

 private:
  SafetensorsFile() = default;
  std::string path_;
  friend class SafetensorsWriter;  // copies from file to file
  void* map_ = nullptr;
  uint64_t bytes_ = 0;
  int fd_ = -1;
  std::vector<Entry> entries_;
  absl::flat_hash_map<absl::string_view, size_t> by_name_;
};

// A tensor without its numbers.
struct TensorLayout {
  std::string name;
  math::DType dtype = math::DType::kF32;
  math::Shape shape;
  uint64_t bytes() const;
};
// A safetensors file whose numbers are made one after another, so that one of
// any size needs no memory of its own. Widest dtype first, by name within a
// dtype's width, so that every tensor is aligned without holes; the first
// begins at a multiple of 64 bytes. Same tensors => same bytes.
class SafetensorsWriter {
 public:
  // Into a temporary file beside `path`, which is as it was until Finish.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Make(
      const std::string& path, std::vector<TensorLayout> tensors);
  // Into memory; `name` is for messages.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> InMemory(
      const std::string& name, std::vector<TensorLayout> tensors);
  // In the order in which their bytes must come.
  const std::vector<TensorLayout>& tensors() const { return tensors_; }
  // Any number of bytes, on from where the last ones ended.
  absl::Status Append(absl::string_view bytes);
  // The same of bytes that lie in a file, which the system copies itself: a
  // third of the time, and no memory.
  absl::Status AppendFrom(const SafetensorsFile& file, uint64_t offset,
                          uint64_t bytes);
  // After the last byte: fsync, rename. Without it nothing stays behind.
  absl::Status Finish();
  // After the last byte, instead of Finish: its memory is free again when
  // both the writer and the file are gone.
  absl::StatusOr<std::shared_ptr<const SafetensorsFile>> OpenInMemory();
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

 private:
  SafetensorsWriter(std::string path, std::string temporary, int fd,
                    std::vector<TensorLayout> tensors);
  std::string path_, temporary_;
  void Hasten();
  int fd_;
  std::vector<TensorLayout> tensors_;
  uint64_t left_ = 0;
};

struct NamedTensor {
  std::string name;
  math::Tensor tensor;
};
// Writes atomically (temporary file, fsync, rename), tensor by tensor.
// On any error (full disk included) what was at `path` is untouched and no
// temporary file stays behind. Same tensors => same bytes.
absl::Status WriteSafetensors(const std::string& path,
                              std::vector<NamedTensor> tensors);
// The parser on bytes in memory, for the fuzzer: entries' tensors point into
// `bytes`. Alignment is judged by offsets in the file, not by addresses.
absl::StatusOr<std::vector<SafetensorsFile::Entry>> ParseSafetensors(
    absl::string_view bytes, absl::string_view where);

}  // namespace motet::package
