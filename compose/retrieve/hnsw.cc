// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/hnsw.h"

#include <faiss/IndexHNSW.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/DistanceComputer.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/retrieve/dot.h"
#include "compose/retrieve/structure_file.h"
#include "proto/error.h"

namespace motet::retrieve {
namespace {

using proto::Error;

constexpr absl::string_view kMagic = "MOTETHN1";
constexpr int64_t kStepRows = 4096;
constexpr int kHighestLevel = 16;

// Similarities between rows of a mapped file.
class Products : public faiss::DistanceComputer {
 public:
  explicit Products(const VectorView& vectors)
      : vectors_(vectors), dot_(BestDot()) {}
  void set_query(const float* x) override { query_ = x; }
  float operator()(idx_t i) override {
    return dot_(query_, Row(i), vectors_.width);
  }
  float symmetric_dis(idx_t i, idx_t j) override {
    return dot_(Row(i), Row(j), vectors_.width);
  }

 private:
  const float* Row(idx_t i) const { return vectors_.data + i * vectors_.width; }
  VectorView vectors_;
  Dot dot_;
  const float* query_ = nullptr;
};

// What FAISS takes for the vectors' store; nothing is copied.
class Mapped : public faiss::Index {
 public:
  explicit Mapped(int64_t width) : Index(width, faiss::METRIC_INNER_PRODUCT) {
    vectors.width = width;
  }
  void add(idx_t n, const float*) override { ntotal += n; }
  void search(idx_t, const float*, idx_t, float*, idx_t*,
              const faiss::SearchParameters*) const override {
    FAISS_THROW_MSG("not searched by itself");
  }
  void reset() override { ntotal = 0; }
  faiss::DistanceComputer* get_distance_computer() const override {
    return new Products(vectors);
  }
  VectorView vectors;
};

// How many levels a row may have: those that FAISS has a place for.
int Levels(const faiss::HNSW& hnsw) {
  return std::min(kHighestLevel, static_cast<int>(hnsw.assign_probas.size()));
}

// A row's level is a function of its number, so that a graph which was
// written and goes on has the levels of one that was never interrupted.
int LevelOf(const faiss::HNSW& hnsw, int64_t row) {
  uint64_t x = static_cast<uint64_t>(row) + 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  x ^= x >> 31;
  double f = static_cast<double>(x >> 11) / 9007199254740992.0;
  const int levels = Levels(hnsw);
  for (int level = 0; level < levels; ++level) {
    if (f < hnsw.assign_probas[static_cast<size_t>(level)]) return level;
    f -= hnsw.assign_probas[static_cast<size_t>(level)];
  }
  return levels - 1;
}

class Graph : public Approximate {
 public:
  explicit Graph(int64_t width)
      : storage_(width), index_(&storage_, kHnswLinks) {
    index_.hnsw.efConstruction = kHnswConstruction;
  }

  int64_t rows() const override { return index_.ntotal; }
  absl::Status Extend(const VectorView& vectors, int64_t to,
                      const std::function<absl::Status()>& step) override {
    storage_.vectors = vectors;
    while (rows() < to) {
      // Steps end at the same rows wherever they begin.
      const int64_t from = rows();
      const int64_t end = std::min(to, (from / kStepRows + 1) * kStepRows);
      MOTET_RETURN_IF_ERROR(Guarded("hnsw", [&] {
        for (int64_t row = from; row < end; ++row) {
          index_.hnsw.levels.push_back(LevelOf(index_.hnsw, row) + 1);
        }
        index_.add(end - from, vectors.data + from * vectors.width);
      }));
      MOTET_RETURN_IF_ERROR(step());
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<int64_t>> Candidates(std::span<const float> query,
                                                  int64_t k) const override {
    k = std::min(k, rows());
    std::vector<float> scores(static_cast<size_t>(k));
    std::vector<int64_t> found(static_cast<size_t>(k));
    faiss::SearchParametersHNSW parameters;
    parameters.efSearch = static_cast<int>(std::max<int64_t>(64, k));
    MOTET_RETURN_IF_ERROR(Guarded("hnsw", [&] {
      if (k > 0) {
        index_.search(1, query.data(), k, scores.data(), found.data(),
                      &parameters);
      }
    }));
    std::erase_if(found, [](int64_t row) { return row < 0; });
    return found;
  }
  absl::Status Write(const std::string& path) const override {
    const faiss::HNSW& hnsw = index_.hnsw;
    StructureWriter out(path);
    out.Put(kMagic.data(), kMagic.size());
    const int64_t head[] = {rows(), storage_.vectors.width, hnsw.entry_point,
                            hnsw.max_level};
    out.Put(head, sizeof head);
    out.Put(hnsw.levels.data(), hnsw.levels.size() * sizeof(int));
    out.Put(hnsw.neighbors.data(), hnsw.neighbors.size() * sizeof(int));
    return out.Finish();
  }
  absl::Status Load(const std::string& path, const VectorView& vectors) {
    storage_.vectors = vectors;
    MOTET_ASSIGN_OR_RETURN(auto in, StructureReader::Open(path));
    std::string magic(kMagic.size(), '\0');
    int64_t head[4] = {};
    if (!in.Take(magic.data(), magic.size()) || magic != kMagic ||
        !in.Take(head, sizeof head) || head[0] < 0 || head[0] > vectors.rows ||
        head[1] != vectors.width) {
      return Damaged(path);
    }
    const int64_t rows = head[0];
    faiss::HNSW& hnsw = index_.hnsw;
    hnsw.levels.resize(static_cast<size_t>(rows));
    if (!in.Take(hnsw.levels.data(), hnsw.levels.size() * sizeof(int))) {
      return Damaged(path);
    }
    hnsw.offsets.assign(1, 0);
    for (const int level : hnsw.levels) {
      if (level < 1 || level > Levels(hnsw)) return Damaged(path);
      hnsw.offsets.push_back(hnsw.offsets.back() +
                             static_cast<size_t>(hnsw.cum_nb_neighbors(level)));
    }
    if (in.left() != static_cast<int64_t>(hnsw.offsets.back() * sizeof(int))) {
      return Damaged(path);
    }
    hnsw.neighbors.resize(hnsw.offsets.back());
    in.Take(hnsw.neighbors.data(), hnsw.neighbors.size() * sizeof(int));
    if (!LinksHold()) return Damaged(path);
    if (rows > 0 && (head[2] < 0 || head[2] >= rows || head[3] < 0 ||
                     head[3] >= hnsw.levels[static_cast<size_t>(head[2])])) {
      return Damaged(path);
    }
    hnsw.entry_point = rows > 0 ? static_cast<int>(head[2]) : -1;
    hnsw.max_level = rows > 0 ? static_cast<int>(head[3]) : -1;
    index_.ntotal = storage_.ntotal = rows;
    return absl::OkStatus();
  }

 private:
  // A search goes on from a neighbour on the level of the link, so it must
  // have that level.
  bool LinksHold() const {
    const faiss::HNSW& hnsw = index_.hnsw;
    const size_t rows = hnsw.levels.size();
    for (size_t row = 0; row < rows; ++row) {
      for (int level = 0; level < hnsw.levels[row]; ++level) {
        size_t begin = 0, end = 0;
        hnsw.neighbor_range(static_cast<int64_t>(row), level, &begin, &end);
        for (size_t i = begin; i < end; ++i) {
          const int neighbor = hnsw.neighbors[i];
          if (neighbor == -1) continue;
          if (neighbor < 0 || static_cast<size_t>(neighbor) >= rows ||
              hnsw.levels[static_cast<size_t>(neighbor)] <= level) {
            return false;
          }
        }
      }
    }
    return true;
  }
  static absl::Status Damaged(const std::string& path) {
    return Error(absl::StatusCode::kDataLoss, path,
                 "a file that is cut or altered", "the graph of this index",
                 "remove the file's folder and build the index anew");
  }
  Mapped storage_;
  faiss::IndexHNSW index_;
};

}  // namespace

std::unique_ptr<Approximate> NewHnsw(int64_t width) {
  return std::make_unique<Graph>(width);
}

absl::StatusOr<std::unique_ptr<Approximate>> ReadHnsw(
    const std::string& path, const VectorView& vectors) {
  auto graph = std::make_unique<Graph>(vectors.width);
  MOTET_RETURN_IF_ERROR(graph->Load(path, vectors));
  return graph;
}

}  // namespace motet::retrieve
