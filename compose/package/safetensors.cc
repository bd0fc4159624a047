// SPDX-License-Identifier: Apache-2.0
// Reading safetensors. The header is JSON from a stranger: it is parsed as a
// stream of events into one small struct a tensor, so that a repeated key is
// seen and nothing is built that the format does not have. Then the layout is
// checked as a whole: sorted by offset, the tensors must tile the data.
#include "compose/package/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr uint64_t kPrefixBytes = 8;

// A tensor as its header entry says, before anything is believed.
struct RawTensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Names come from the file: shown without control characters and not whole
// when long.
std::string Quoted(absl::string_view name) {
  constexpr size_t kShown = 120;
  const bool cut = name.size() > kShown;
  return absl::StrCat("\"", absl::CHexEscape(name.substr(0, kShown)),
                      cut ? "...\"" : "\"");
}

// SAX events -> RawTensors. Depth 1 is the file's object, 2 one tensor's (or
// __metadata__), 3 an array of numbers.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  explicit HeaderReader(absl::string_view where) : where_(where) {}

  std::vector<RawTensor>& tensors() { return tensors_; }
  const absl::Status& status() const { return status_; }

  bool start_object(std::size_t) override {
    ++depth_;
    if (depth_ == 1) return true;
    if (depth_ == 2) {
      metadata_ = key_ == "__metadata__";
      fields_.clear();
      if (metadata_) return true;
      if (tensors_.size() >= static_cast<size_t>(proto::kMaxTensors)) {
        return Fail(absl::StrCat("more than ", proto::kMaxTensors, " tensors"),
                    "fewer tensors");
      }
      tensors_.emplace_back();
      tensors_.back().name = key_;
      return true;
    }
    return Fail(absl::StrCat("an object inside ", Where()),
                "dtype, shape and data_offsets alone");
  }
  bool key(string_t& key) override {
    if (depth_ == 1) {
      if (!names_.insert(key).second) {
        return Fail(absl::StrCat("tensor ", Quoted(key), " twice"),
                    "every name once");
      }
      key_ = std::move(key);
      return true;
    }
    if (!fields_.insert(key).second) {
      return Fail(absl::StrCat(Where(), " with key ", Quoted(key), " twice"),
                  "every key once");
    }
    field_ = std::move(key);
    if (metadata_) return true;
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
      return Fail(absl::StrCat(Where(), " with unknown key ", Quoted(field_)),
                  "dtype, shape and data_offsets");
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ != 1 || metadata_) return true;
    const RawTensor& t = tensors_.back();
    if (!t.has_dtype || !t.has_shape || !t.has_offsets ||
        t.offsets.size() != 2) {
      return Fail(absl::StrCat(Where(), " without ",
                               !t.has_dtype   ? "dtype"
                               : !t.has_shape ? "shape"
                                              : "two data_offsets"),
                  "dtype, shape and two data_offsets");
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || metadata_ || field_ == "dtype" || in_array_) {
      return Unexpected("an array");
    }
    in_array_ = true;
    (field_ == "shape" ? tensors_.back().has_shape
                       : tensors_.back().has_offsets) = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return Unexpected("a number");
    RawTensor& t = tensors_.back();
    std::vector<uint64_t>& to = field_ == "shape" ? t.shape : t.offsets;
    const size_t most = field_ == "shape" ? math::kMaxRank : 2;
    if (to.size() >= most) {
      return Fail(absl::StrCat(Where(), " with more than ", most,
                               " numbers in ", field_),
                  absl::StrCat("at most ", most));
    }
    to.push_back(value);
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ == 2 && metadata_) return true;
    if (depth_ != 2 || field_ != "dtype" || in_array_) {
      return Unexpected("a string");
    }
    tensors_.back().dtype = std::move(value);
    tensors_.back().has_dtype = true;
    return true;
  }
  bool number_integer(number_integer_t value) override {
    return Unexpected(absl::StrCat("the number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a truth value"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("a header that is no JSON at byte ",
                             position + kPrefixBytes),
                "one JSON object");
  }

 private:
  std::string Where() const {
    if (depth_ == 0) return "the header";
    return metadata_ && depth_ >= 2 ? std::string("__metadata__")
                                    : absl::StrCat("tensor ", Quoted(key_));
  }
  bool Unexpected(absl::string_view what) {
    if (depth_ < 2) {
      return Fail(absl::StrCat(what, depth_ == 0 ? " as header"
                                                 : " in place of a tensor"),
                  "an object");
    }
    return Fail(absl::StrCat(Where(), " with ", what, " in ", Quoted(field_)),
                metadata_ ? "text"
                          : "dtype as text, shape and data_offsets as arrays "
                            "of whole numbers");
  }
  bool Fail(absl::string_view got, absl::string_view want) {
    status_ = Invalid(where_, got, want, "fetch or export the file again");
    return false;
  }

  absl::string_view where_;
  absl::Status status_;
  std::vector<RawTensor> tensors_;
  absl::flat_hash_set<std::string> names_, fields_;
  std::string key_, field_;
  int depth_ = 0;
  bool metadata_ = false, in_array_ = false;
};

bool DTypeOf(absl::string_view name, math::DType& dtype) {
  using math::DType;
  for (DType d : {DType::kF32, DType::kBF16, DType::kF16, DType::kF64,
                  DType::kI32, DType::kI64, DType::kU8}) {
    if (name == math::Name(d)) {
      dtype = d;
      return true;
    }
  }
  return false;
}

// Turns what the header says into a view of `data`, or says why not.
absl::StatusOr<SafetensorsFile::Entry> CheckTensor(const RawTensor& raw,
                                                   absl::string_view data,
                                                   uint64_t data_start,
                                                   absl::string_view where) {
  const std::string tensor = absl::StrCat("tensor ", Quoted(raw.name));
  constexpr absl::string_view kAgain = "fetch or export the file again";
  SafetensorsFile::Entry entry;
  entry.name = raw.name;
  if (!DTypeOf(raw.dtype, entry.tensor.dtype)) {
    return Invalid(where, absl::StrCat(tensor, " of dtype ", Quoted(raw.dtype)),
                   "F64, F32, F16, BF16, I64, I32 or U8",
                   "convert the tensor");
  }
  const uint64_t element = math::ByteSize(entry.tensor.dtype);
  // Every dimension is bounded, zeros included: sizes are kept in int64.
  uint64_t bytes = element, product = 1;
  entry.tensor.shape.rank = static_cast<int>(raw.shape.size());
  for (size_t i = 0; i < raw.shape.size(); ++i) {
    const uint64_t dim = raw.shape[i];
    if (dim > static_cast<uint64_t>(INT64_MAX) ||
        __builtin_mul_overflow(product, std::max<uint64_t>(dim, 1),
                               &product) ||
        __builtin_mul_overflow(bytes, dim, &bytes) ||
        product > static_cast<uint64_t>(INT64_MAX) / element) {
      return Invalid(where, absl::StrCat(tensor, " whose shape overflows"),
                     "a shape of less than 2^63 bytes", kAgain);
    }
    entry.tensor.shape.dim[i] = static_cast<int64_t>(dim);
  }
  const uint64_t begin = raw.offsets[0], end = raw.offsets[1];
  const std::string range = absl::StrCat(begin, "..", end);
  if (begin > end || end > data.size()) {
    return Invalid(where, absl::StrCat(tensor, " at ", range),
                   absl::StrCat("a range within 0..", data.size()), kAgain);
  }
  if (end - begin != bytes) {
    return Invalid(where,
                   absl::StrCat(tensor, " of ", end - begin, " bytes"),
                   absl::StrCat(bytes, " bytes for ", raw.dtype, " ",
                                entry.tensor.shape.ToString()),
                   kAgain);
  }
  entry.file_offset = data_start + begin;
  if (entry.file_offset % element != 0) {
    return Invalid(where,
                   absl::StrCat(tensor, " at byte ", entry.file_offset),
                   absl::StrCat("a multiple of ", element),
                   "save the file again with its header padded");
  }
  entry.tensor.data = const_cast<char*>(data.data() + begin);
  return entry;
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsFile::Entry>> ParseSafetensors(
    absl::string_view bytes, absl::string_view file) {
  const std::string where = absl::StrCat("safetensors ", file);
  constexpr absl::string_view kAgain = "fetch or export the file again";
  if (bytes.size() < kPrefixBytes) {
    return Invalid(where, absl::StrCat("a file of ", bytes.size(), " bytes"),
                   "at least the 8 bytes of the header's length", kAgain);
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) {
    header_bytes = header_bytes << 8 | static_cast<uint8_t>(bytes[i]);
  }
  if (header_bytes > static_cast<uint64_t>(proto::kMaxSafetensorsHeaderBytes)) {
    return Invalid(where, absl::StrCat("a header of ", header_bytes, " bytes"),
                   absl::StrCat("at most ", proto::kMaxSafetensorsHeaderBytes),
                   kAgain);
  }
  if (header_bytes > bytes.size() - kPrefixBytes) {
    return Invalid(where,
                   absl::StrCat("a header of ", header_bytes,
                                " bytes in a file of ", bytes.size()),
                   "the whole header in the file", kAgain);
  }
  const absl::string_view header = bytes.substr(kPrefixBytes, header_bytes);
  if (header.empty() || header[0] != '{') {
    return Invalid(where, "a header that does not begin with {",
                   "a JSON object", kAgain);
  }
  HeaderReader reader(where);
  if (!json::sax_parse(header.begin(), header.end(), &reader)) {
    return reader.status();
  }
  std::vector<RawTensor>& raw = reader.tensors();
  // By offset; an empty tensor before the full one that begins with it.
  std::sort(raw.begin(), raw.end(), [](const auto& a, const auto& b) {
    return std::tie(a.offsets, a.name) < std::tie(b.offsets, b.name);
  });
  const uint64_t data_start = kPrefixBytes + header_bytes;
  const absl::string_view data = bytes.substr(data_start);
  std::vector<SafetensorsFile::Entry> entries;
  entries.reserve(raw.size());
  uint64_t next = 0;
  for (const RawTensor& tensor : raw) {
    MOTET_ASSIGN_OR_RETURN(
        SafetensorsFile::Entry entry,
        CheckTensor(tensor, data, data_start, where));
    if (tensor.offsets[0] != next) {
      return Invalid(where,
                     absl::StrCat("tensor ", Quoted(tensor.name), " at ",
                                  tensor.offsets[0], "..", tensor.offsets[1],
                                  tensor.offsets[0] < next
                                      ? ", overlapping the one before"
                                      : ", after a hole"),
                     absl::StrCat("it to begin at ", next), kAgain);
    }
    next = tensor.offsets[1];
    entries.push_back(std::move(entry));
  }
  if (next != data.size()) {
    return Invalid(where,
                   absl::StrCat(data.size() - next,
                                " bytes after the last tensor"),
                   "none", kAgain);
  }
  return entries;
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  const std::string where = absl::StrCat("safetensors ", path);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return proto::Error(absl::ErrnoToStatusCode(errno), where,
                        absl::StrCat("\"", strerror(errno), "\""),
                        "a file that can be read", "check the path");
  }
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  file->fd_ = fd;
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    return Invalid(where, "something that is not a regular file", "a file");
  }
  file->bytes_ = static_cast<uint64_t>(st.st_size);
  if (file->bytes_ > 0) {
    void* map = mmap(nullptr, file->bytes_, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) file->map_ = map;
  }
  const int error = errno;
  if (file->bytes_ > 0 && file->map_ == nullptr) {
    return proto::Error(absl::ErrnoToStatusCode(error), where,
                        absl::StrCat("\"", strerror(error), "\" from mmap"),
                        "the file mapped into memory");
  }
  MOTET_ASSIGN_OR_RETURN(
      file->entries_,
      ParseSafetensors(absl::string_view(static_cast<const char*>(file->map_),
                                         file->bytes_),
                       path));
  file->by_name_.reserve(file->entries_.size());
  for (size_t i = 0; i < file->entries_.size(); ++i) {
    file->by_name_.emplace(file->entries_[i].name, i);
  }
  return std::shared_ptr<const SafetensorsFile>(std::move(file));
}

math::Tensor SafetensorsFile::Find(absl::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? math::Tensor() : entries_[it->second].tensor;
}

void SafetensorsFile::LetGo(const math::Tensor& part) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  // Whole pages only: the rest may be a neighbour's.
  const uintptr_t from =
      (reinterpret_cast<uintptr_t>(part.data) + page - 1) & ~(page - 1);
  const uintptr_t to =
      (reinterpret_cast<uintptr_t>(part.data) + part.bytes()) & ~(page - 1);
  if (to > from) {
    madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
  }
}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) munmap(map_, bytes_);
  if (fd_ >= 0) close(fd_);
}

}  // namespace motet::package
