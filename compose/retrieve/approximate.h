// SPDX-License-Identifier: Apache-2.0
// Structures that find near vectors without looking at all of them: FAISS's
// HNSW and IVF-PQ over vectors that lie in a mapped file. What they find are
// candidates: the index scores them anew, exactly (flat.h), so a hit's score
// has the same bits in every kind of index. No FAISS exception leaves here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::retrieve {

enum class IndexKind : uint8_t { kAuto, kFlat, kHnsw, kIvfPq };
// "auto", "flat", "hnsw", "ivf-pq"; InvalidArgument lists them.
absl::StatusOr<IndexKind> ParseIndexKind(absl::string_view name);
absl::string_view Name(IndexKind kind);
// The rule of size, for kAuto: flat up to 100,000 rows, HNSW up to 5 million,
// then IVF-PQ. IVF-PQ with fewer than 1,000 rows, too few to train it, is flat.
IndexKind KindFor(IndexKind asked, int64_t rows);

// Where vectors lie: [rows,C].
struct VectorView {
  const float* data = nullptr;
  int64_t rows = 0, width = 0;
};

class Approximate {
 public:
  virtual ~Approximate() = default;
  // An empty structure, or one that Write wrote. kind: kHnsw or kIvfPq.
  static std::unique_ptr<Approximate> New(IndexKind kind, int64_t width);
  // The caller has compared the file's digest. writable: Extend may follow;
  // otherwise IVF-PQ's lists stay in the file, mapped.
  static absl::StatusOr<std::unique_ptr<Approximate>> Read(
      const std::string& path, IndexKind kind, const VectorView& vectors,
      bool writable);

  virtual int64_t rows() const = 0;
  // Takes in rows [rows(), to) of the vectors, in steps; `step` is called
  // behind each, e.g. to write what is there, and may end the work with an
  // error. HNSW's links depend on how threads meet unless there is one. The
  // vectors stay where they are until the next Extend.
  virtual absl::Status Extend(const VectorView& vectors, int64_t to,
                              const std::function<absl::Status()>& step) = 0;
  // Rows of about the k nearest, in no order that matters. Thread-safe.
  virtual absl::StatusOr<std::vector<int64_t>> Candidates(
      std::span<const float> query, int64_t k) const = 0;
  // Durable when it returns OK.
  virtual absl::Status Write(const std::string& path) const = 0;
};

}  // namespace motet::retrieve
