// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/ivf_pq.h"

#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/index_io.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/retrieve/flat.h"
#include "compose/retrieve/structure_file.h"
#include "proto/error.h"

namespace motet::retrieve {
namespace {

constexpr int64_t kStepRows = 65536;
// Below this k-means has too few points for 256 centroids a piece of code.
constexpr int64_t kBytePoints = 256 * 39;
constexpr int64_t kCandidates = 8;  // for each row asked for

// The coarse centroids, searched by our own products: FAISS hands k-means to
// the system's BLAS, which may be the slow reference.
class Centroids : public faiss::IndexFlatIP {
 public:
  using IndexFlatIP::IndexFlatIP;
  void search(idx_t n, const float* x, idx_t k, float* distances, idx_t* labels,
              const faiss::SearchParameters* = nullptr) const override {
    const auto found =
        SearchFlat(reinterpret_cast<const float*>(codes.data()), 0, ntotal, d,
                   std::span(x, static_cast<size_t>(n * d)), k, nullptr);
    for (idx_t q = 0; q < n; ++q) {
      const Ranking& ranking = found[static_cast<size_t>(q)];
      for (idx_t i = 0; i < k; ++i) {
        const bool there = i < static_cast<idx_t>(ranking.size());
        labels[q * k + i] = there ? ranking[static_cast<size_t>(i)].row : -1;
        distances[q * k + i] =
            there ? static_cast<float>(ranking[static_cast<size_t>(i)].score)
                  : -INFINITY;
      }
    }
  }
};

// One byte for each 8 numbers, or for the next more of them that divide.
int64_t PiecesOf(int64_t width) {
  int64_t pieces = std::max<int64_t>(1, width / 8);
  while (width % pieces != 0) --pieces;
  return pieces;
}

class IvfPq : public Approximate {
 public:
  explicit IvfPq(int64_t width) : width_(width) {}

  int64_t rows() const override { return index_ ? index_->ntotal : 0; }
  absl::Status Extend(const VectorView& vectors, int64_t to,
                      const std::function<absl::Status()>& step) override {
    if (index_ == nullptr) {
      MOTET_RETURN_IF_ERROR(Guarded("ivf-pq", [&] { Train(vectors, to); }));
    }
    while (rows() < to) {
      const int64_t from = rows(), n = std::min(kStepRows, to - from);
      MOTET_RETURN_IF_ERROR(Guarded(
          "ivf-pq", [&] { index_->add(n, vectors.data + from * width_); }));
      MOTET_RETURN_IF_ERROR(step());
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<int64_t>> Candidates(std::span<const float> query,
                                                  int64_t k) const override {
    k = std::min(kCandidates * k, rows());
    std::vector<float> scores(static_cast<size_t>(k));
    std::vector<int64_t> found(static_cast<size_t>(k));
    faiss::IVFSearchParameters parameters;
    parameters.nprobe = std::max<size_t>(8, index_->nlist / 16);
    MOTET_RETURN_IF_ERROR(Guarded("ivf-pq", [&] {
      if (k > 0) {
        index_->search(1, query.data(), k, scores.data(), found.data(),
                       &parameters);
      }
    }));
    std::erase(found, -1);  // a place that was not filled
    for (const int64_t row : found) {
      if (row < 0 || row >= rows()) {
        return Damaged(absl::StrCat("row ", row, " in a list"),
                       absl::StrCat("rows from 0, below ", rows()));
      }
    }
    return found;
  }
  absl::Status Write(const std::string& path) const override {
    MOTET_RETURN_IF_ERROR(Guarded(
        "ivf-pq", [&] { faiss::write_index(index_.get(), path.c_str()); }));
    return SyncFile(path);
  }
  absl::Status Load(const std::string& path, const VectorView& vectors,
                    bool writable) {
    path_ = path;
    std::unique_ptr<faiss::Index> read;
    MOTET_RETURN_IF_ERROR(Guarded("ivf-pq", [&] {
      read.reset(
          faiss::read_index(path.c_str(), writable ? 0 : faiss::IO_FLAG_MMAP));
    }));
    auto* index = dynamic_cast<faiss::IndexIVFPQ*>(read.get());
    auto* flat = index == nullptr
                     ? nullptr
                     : dynamic_cast<faiss::IndexFlat*>(index->quantizer);
    if (flat == nullptr || index->d != width_ || !index->is_trained ||
        index->ntotal < 0 || index->ntotal > vectors.rows || !Fits(*index)) {
      return Damaged("another structure", "IVF-PQ of this index");
    }
    auto centroids = std::make_unique<Centroids>(width_);
    centroids->add(flat->ntotal, flat->get_xb());
    read.release();
    index_.reset(index);
    Adopt(std::move(centroids));
    return absl::OkStatus();
  }

 private:
  // Its parts are of one size: FAISS reads each by itself.
  static bool Fits(const faiss::IndexIVFPQ& index) {
    const faiss::ProductQuantizer& pq = index.pq;
    return index.quantizer->d == index.d && index.invlists != nullptr &&
           static_cast<size_t>(index.quantizer->ntotal) == index.nlist &&
           index.invlists->nlist == index.nlist &&
           index.invlists->code_size == index.code_size &&
           pq.code_size == index.code_size &&
           pq.d == static_cast<size_t>(index.d) &&
           (pq.nbits == 4 || pq.nbits == 8) &&
           pq.centroids.size() == pq.d * pq.ksub;
  }
  absl::Status Damaged(const std::string& got, const std::string& want) const {
    return proto::Error(absl::StatusCode::kDataLoss, path_, got, want,
                        "build the index anew");
  }
  void Train(const VectorView& vectors, int64_t rows) {
    const auto lists = static_cast<int64_t>(
        std::clamp(4 * std::sqrt(static_cast<double>(rows)), 1.0,
                   static_cast<double>(rows) / 39));
    const int64_t points =
        std::min(rows, std::max(64 * lists, int64_t{256} * 256));
    std::vector<float> sample(static_cast<size_t>(points * width_));
    for (int64_t i = 0; i < points; ++i) {
      std::memcpy(sample.data() + i * width_,
                  vectors.data + i * rows / points * width_,
                  sizeof(float) * static_cast<size_t>(width_));
    }
    auto centroids = std::make_unique<Centroids>(width_);
    auto index = std::make_unique<faiss::IndexIVFPQ>(
        centroids.get(), width_, lists, PiecesOf(width_),
        points >= kBytePoints ? 8 : 4, faiss::METRIC_INNER_PRODUCT);
    index->train(points, sample.data());
    index_ = std::move(index);
    centroids_ = std::move(centroids);
  }
  // In place of the centroids that were read.
  void Adopt(std::unique_ptr<Centroids> centroids) {
    if (index_->own_fields) delete index_->quantizer;
    index_->own_fields = false;
    index_->quantizer = centroids.get();
    centroids_ = std::move(centroids);
  }

  int64_t width_;
  std::string path_;                      // that was read
  std::unique_ptr<Centroids> centroids_;  // outlives index_
  std::unique_ptr<faiss::IndexIVFPQ> index_;
};

}  // namespace

std::unique_ptr<Approximate> NewIvfPq(int64_t width) {
  return std::make_unique<IvfPq>(width);
}

absl::StatusOr<std::unique_ptr<Approximate>> ReadIvfPq(
    const std::string& path, const VectorView& vectors, bool writable) {
  auto index = std::make_unique<IvfPq>(vectors.width);
  MOTET_RETURN_IF_ERROR(index->Load(path, vectors, writable));
  return index;
}

}  // namespace motet::retrieve
