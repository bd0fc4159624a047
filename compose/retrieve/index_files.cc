// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/index_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/model/strict_json.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::retrieve {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using proto::Error;
using proto::Invalid;

constexpr int kFormat = 1;
constexpr char kAnew[] = "build the index anew";
constexpr int64_t kMostNumbers = 1 << 20;  // of a vector

absl::Status DataLoss(const std::string& where, const std::string& got,
                      const std::string& want) {
  return Error(absl::StatusCode::kDataLoss, where, got, want,
               "restore the index from a backup or build it anew");
}

// A path may be any bytes.
std::string Dump(const ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

std::string DigestOf(const ordered_json& header) {
  return proto::Hex(proto::Sha256(Dump(header, -1)));
}

// The object, with exactly these fields.
absl::StatusOr<json> Fields(absl::string_view text, const std::string& where,
                            const std::set<std::string>& names) {
  MOTET_ASSIGN_OR_RETURN(json object, model::ParseStrictJson(text, where));
  std::set<std::string> given;
  if (object.is_object()) {
    for (const auto& [name, unused] : object.items()) given.insert(name);
  }
  if (given != names) {
    return Invalid(where, absl::StrCat("fields ", absl::StrJoin(given, ", ")),
                   absl::StrJoin(names, ", "), kAnew);
  }
  return object;
}

absl::StatusOr<std::string> Text(const json& object, const char* name,
                                 const std::string& where) {
  if (!object[name].is_string()) {
    return Invalid(where, absl::StrCat(name, ": ", object[name].type_name()),
                   "a string", kAnew);
  }
  return object[name].get<std::string>();
}

absl::StatusOr<int64_t> Count(const json& object, const char* name,
                              int64_t most, const std::string& where) {
  if (!object[name].is_number_unsigned() ||
      object[name].get<uint64_t>() > static_cast<uint64_t>(most)) {
    return Invalid(where, absl::StrCat(name, ": ", object[name].dump()),
                   absl::StrCat("a whole number up to ", most), kAnew);
  }
  return object[name].get<int64_t>();
}

std::string Quoted(const char* name, const std::string& value) {
  constexpr size_t kShown = 80;
  return absl::StrCat(name, ": \"", value.substr(0, kShown), "\"");
}

absl::StatusOr<proto::Digest> DigestIn(const json& object, const char* name,
                                       const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(const std::string hex, Text(object, name, where));
  auto digest = proto::DigestFromHex(hex);
  if (digest.ok()) return digest;
  return Invalid(where, Quoted(name, hex), "64 lower-case hexadecimal digits",
                 kAnew);
}

absl::StatusOr<IndexKind> KindIn(const json& object, const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(const std::string name, Text(object, "kind", where));
  auto kind = ParseIndexKind(name);
  if (kind.ok()) return kind;
  return Invalid(where, Quoted("kind", name), "a kind of index", kAnew);
}

}  // namespace

std::string HeaderPath(const std::string& folder) {
  return folder + "/index.json";
}
std::string VectorsPath(const std::string& folder) {
  return folder + "/vectors.f32";
}
std::string TextsPath(const std::string& folder) { return folder + "/texts"; }
std::string StructuresPath(const std::string& folder) {
  return folder + "/structures";
}
std::string LockPath(const std::string& folder) { return folder + "/lock"; }

std::string WriteIndexHeader(const IndexHeader& header) {
  ordered_json json;
  json["format"] = kFormat;
  json["encoder"] = header.encoder_folder;
  json["encoder_sha256"] = proto::Hex(header.encoder);
  json["width"] = header.width;
  json["max_tokens"] = header.max_tokens;
  json["kind"] = Name(header.kind);
  json["sha256"] = DigestOf(json);
  return Dump(json, 2) + "\n";
}

absl::StatusOr<IndexHeader> ParseIndexHeader(absl::string_view text,
                                             const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(const json object,
                         Fields(text, where,
                                {"format", "encoder", "encoder_sha256", "width",
                                 "max_tokens", "kind", "sha256"}));
  MOTET_ASSIGN_OR_RETURN(const int64_t format,
                         Count(object, "format", kMostNumbers, where));
  if (format != kFormat) {
    return Invalid(where, absl::StrCat("format ", format),
                   absl::StrCat("format ", kFormat), kAnew);
  }
  IndexHeader header;
  MOTET_ASSIGN_OR_RETURN(header.encoder_folder, Text(object, "encoder", where));
  MOTET_ASSIGN_OR_RETURN(header.encoder,
                         DigestIn(object, "encoder_sha256", where));
  MOTET_ASSIGN_OR_RETURN(header.width,
                         Count(object, "width", kMostNumbers, where));
  MOTET_ASSIGN_OR_RETURN(header.max_tokens,
                         Count(object, "max_tokens", kMostNumbers, where));
  MOTET_ASSIGN_OR_RETURN(header.kind, KindIn(object, where));
  if (header.width < 1) return Invalid(where, "width 0", "1 or more", kAnew);
  MOTET_ASSIGN_OR_RETURN(const std::string sha256,
                         Text(object, "sha256", where));
  const ordered_json again = ordered_json::parse(WriteIndexHeader(header));
  if (again["sha256"] != sha256) {
    return DataLoss(
        where,
        absl::StrCat("a header of digest ", again["sha256"].get<std::string>()),
        absl::StrCat("the ", sha256, " that it says"));
  }
  return header;
}

absl::StatusOr<IndexHeader> ReadIndexHeader(const std::string& folder) {
  const std::string path = HeaderPath(folder);
  if (!proto::Exists(path)) {
    return Error(absl::StatusCode::kNotFound, folder, "no index.json",
                 "an index", "`motet index build` makes one");
  }
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, proto::kMaxConfigBytes));
  return ParseIndexHeader(text, path);
}

std::string WriteStructureRecord(const StructureRecord& record) {
  return ordered_json{{"kind", Name(record.kind)},
                      {"file", record.file},
                      {"rows", record.rows},
                      {"bytes", record.bytes},
                      {"sha256", proto::Hex(record.sha256)}}
      .dump();
}

absl::StatusOr<StructureRecord> ParseStructureRecord(absl::string_view text,
                                                     const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(
      const json object,
      Fields(text, where, {"kind", "file", "rows", "bytes", "sha256"}));
  StructureRecord record;
  MOTET_ASSIGN_OR_RETURN(record.kind, KindIn(object, where));
  MOTET_ASSIGN_OR_RETURN(record.file, Text(object, "file", where));
  if (record.file.empty() || record.file.find('/') != std::string::npos ||
      (record.kind != IndexKind::kHnsw && record.kind != IndexKind::kIvfPq)) {
    return Invalid(where, absl::StrCat(Name(record.kind), " in ", record.file),
                   "a structure's kind and file", kAnew);
  }
  constexpr int64_t kMost = int64_t{1} << 62;
  MOTET_ASSIGN_OR_RETURN(record.rows, Count(object, "rows", kMost, where));
  MOTET_ASSIGN_OR_RETURN(record.bytes, Count(object, "bytes", kMost, where));
  MOTET_ASSIGN_OR_RETURN(record.sha256, DigestIn(object, "sha256", where));
  return record;
}

absl::StatusOr<std::optional<StructureRecord>> ReadStructureRecord(
    const TextStore& store, const std::string& folder) {
  MOTET_ASSIGN_OR_RETURN(const std::string text, store.Value("structure"));
  if (text.empty()) return std::nullopt;
  return ParseStructureRecord(text, TextsPath(folder) + " structure");
}

absl::Status CheckStructure(const std::string& folder,
                            const StructureRecord& record, bool digest) {
  const std::string path = StructuresPath(folder) + "/" + record.file;
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) {
    return Error(absl::StatusCode::kNotFound, path, std::strerror(errno),
                 "the structure of this index",
                 "`motet index build` makes it anew");
  }
  if (info.st_size != record.bytes) {
    return DataLoss(path, absl::StrCat(info.st_size, " bytes"),
                    absl::StrCat(record.bytes));
  }
  if (!digest) return absl::OkStatus();
  MOTET_ASSIGN_OR_RETURN(const proto::Digest sha256, proto::Sha256File(path));
  if (sha256 != record.sha256) {
    return DataLoss(path, absl::StrCat("SHA-256 ", proto::Hex(sha256)),
                    proto::Hex(record.sha256));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MappedVectors>> MappedVectors::Open(
    const std::string& folder, int64_t rows, int64_t width) {
  std::unique_ptr<MappedVectors> mapped(new MappedVectors());
  mapped->path_ = VectorsPath(folder);
  mapped->view_ = {nullptr, rows, width};
  const int64_t want = rows * width * static_cast<int64_t>(sizeof(float));
  if (want == 0) return mapped;
  const int fd = open(mapped->path_.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info = {};
  const bool there = fd >= 0 && fstat(fd, &info) == 0;
  if (!there || info.st_size < want) {
    if (fd >= 0) close(fd);
    return DataLoss(
        mapped->path_,
        there ? absl::StrCat(info.st_size, " bytes")
              : std::string("no such file"),
        absl::StrCat("at least ", want, ", for ", rows, " documents"));
  }
  mapped->bytes_ = static_cast<size_t>(want);
  mapped->address_ =
      mmap(nullptr, mapped->bytes_, PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  close(fd);
  if (mapped->address_ == MAP_FAILED) {
    mapped->address_ = nullptr;
    return Error(absl::StatusCode::kResourceExhausted, mapped->path_,
                 std::strerror(error), "memory to map the file");
  }
  mapped->view_.data = static_cast<const float*>(mapped->address_);
  return mapped;
}

MappedVectors::~MappedVectors() {
  if (address_ != nullptr) munmap(address_, bytes_);
}

absl::Status MappedVectors::Verify(std::span<const Block> blocks) const {
  const auto count = static_cast<int64_t>(blocks.size());
  std::atomic<int64_t> bad{count};
#pragma omp parallel for schedule(dynamic)
  for (int64_t b = 0; b < count; ++b) {
    const Block& block = blocks[static_cast<size_t>(b)];
    const auto row = static_cast<size_t>(view_.width) * sizeof(float);
    const proto::Digest sha256 =
        proto::Sha256({static_cast<const char*>(address_) +
                           static_cast<size_t>(block.first) * row,
                       static_cast<size_t>(block.rows) * row});
    if (sha256 == block.vectors) continue;
    int64_t lowest = bad;
    while (b < lowest && !bad.compare_exchange_weak(lowest, b)) {
    }
  }
  if (bad == count) return absl::OkStatus();
  const Block& block = blocks[static_cast<size_t>(bad.load())];
  return DataLoss(path_,
                  absl::StrCat("altered vectors in rows ", block.first, " to ",
                               block.first + block.rows - 1),
                  "the bytes that were written");
}

}  // namespace motet::retrieve
