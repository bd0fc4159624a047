// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/approximate.h"

#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/retrieve/hnsw.h"
#include "compose/retrieve/ivf_pq.h"
#include "proto/error.h"

namespace motet::retrieve {
namespace {

constexpr std::array<absl::string_view, 4> kNames = {"auto", "flat", "hnsw",
                                                     "ivf-pq"};
constexpr int64_t kFlatRows = 100'000, kHnswRows = 5'000'000;
constexpr int64_t kTrainableRows = 1'000;

}  // namespace

absl::StatusOr<IndexKind> ParseIndexKind(absl::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i]) return static_cast<IndexKind>(i);
  }
  return proto::Invalid("index kind", absl::StrCat("\"", name, "\""),
                        absl::StrCat("one of ", absl::StrJoin(kNames, ", ")));
}

absl::string_view Name(IndexKind kind) {
  return kNames[static_cast<size_t>(kind)];
}

IndexKind KindFor(IndexKind asked, int64_t rows) {
  if (asked == IndexKind::kAuto) {
    return rows <= kFlatRows   ? IndexKind::kFlat
           : rows <= kHnswRows ? IndexKind::kHnsw
                               : IndexKind::kIvfPq;
  }
  if (asked == IndexKind::kIvfPq && rows < kTrainableRows) {
    return IndexKind::kFlat;
  }
  return asked;
}

std::unique_ptr<Approximate> Approximate::New(IndexKind kind, int64_t width) {
  return kind == IndexKind::kHnsw ? NewHnsw(width) : NewIvfPq(width);
}

absl::StatusOr<std::unique_ptr<Approximate>> Approximate::Read(
    const std::string& path, IndexKind kind, const VectorView& vectors,
    bool writable) {
  return kind == IndexKind::kHnsw ? ReadHnsw(path, vectors)
                                  : ReadIvfPq(path, vectors, writable);
}

}  // namespace motet::retrieve
