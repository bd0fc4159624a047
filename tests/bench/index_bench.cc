// SPDX-License-Identifier: Apache-2.0
// An index of made vectors, ours and FAISS's own: HNSW of the same parameters
// over the same numbers, streamed from a file. Every round is a process of
// its own, so that its memory is.
//
//   index_bench --out FOLDER --vectors N        a player (player.h)
//
// Tasks: build (a document index: texts, vectors and graph on the disk) and
// faiss (IndexHNSWFlat in memory), in vectors a second; each with _memory, the
// most that the process held, in MiB. At 10^6 vectors a round takes minutes:
// a first round, which the driver does not count, is of few vectors, and the
// memory is that of the last counted build where there is one.
#include <faiss/IndexHNSW.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compose/retrieve/hnsw.h"
#include "compose/retrieve/index_writer.h"
#include "proto/error.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

constexpr int64_t kWidth = 384, kPiece = 4096;
constexpr int64_t kFirstVectors = 20000;  // of a round that does not count

struct Task {
  std::string out;
  int64_t vectors = 0;  // in the file
  int64_t taken = 0;    // of these, by this round
  std::string path() const { return absl::StrCat(out, "/made-", vectors); }
};

// Directions about 1,000 centres, of length 1.
void MakeVectors(const Task& task) {
  if (std::filesystem::exists(task.path())) return;
  std::filesystem::create_directories(task.out);
  std::ofstream out(task.path() + ".partial", std::ios::binary);
  uint64_t state = 1;
  const auto next = [&state] {  // about -1 to 1, more in the middle
    float sum = 0;
    for (int i = 0; i < 2; ++i) {
      state = state * 6364136223846793005 + 1442695040888963407;
      sum += static_cast<float>(state >> 40) / (1 << 24) - 0.5f;
    }
    return sum;
  };
  std::vector<float> centres(1000 * kWidth), row(kWidth);
  for (float& v : centres) v = next();
  for (int64_t i = 0; i < task.vectors; ++i) {
    const float* centre = centres.data() + i * 7919 % 1000 * kWidth;
    float length = 0;
    for (int64_t c = 0; c < kWidth; ++c) {
      row[c] = centre[c] + 0.5f * next();
      length += row[c] * row[c];
    }
    for (float& v : row) v /= std::sqrt(length);
    out.write(reinterpret_cast<const char*>(row.data()),
              kWidth * sizeof(float));
  }
  out.close();
  std::filesystem::rename(task.path() + ".partial", task.path());
}

// Calls take(first row, rows, numbers) piece by piece.
template <typename Take>
absl::Status ForEachPiece(const Task& task, const Take& take) {
  std::ifstream in(task.path(), std::ios::binary);
  std::vector<float> piece(kPiece * kWidth);
  for (int64_t row = 0; row < task.taken; row += kPiece) {
    const int64_t rows = std::min(kPiece, task.taken - row);
    in.read(reinterpret_cast<char*>(piece.data()),
            rows * kWidth * static_cast<int64_t>(sizeof(float)));
    if (!in) return absl::DataLossError("the made vectors end early");
    MOTET_RETURN_IF_ERROR(take(row, rows, piece));
  }
  return absl::OkStatus();
}

absl::Status Build(const Task& task) {
  const std::string folder = task.out + "/index";
  MOTET_ASSIGN_OR_RETURN(
      const auto writer,
      retrieve::IndexWriter::Create(folder, {proto::Digest{}, "made", kWidth,
                                             256, retrieve::IndexKind::kHnsw}));
  MOTET_RETURN_IF_ERROR(ForEachPiece(task, [&](int64_t row, int64_t rows,
                                               const std::vector<float>&
                                                   piece) {
    std::vector<retrieve::Document> documents;
    for (int64_t i = 0; i < rows; ++i) {
      documents.push_back({absl::StrCat(row + i), "", "a made document", {}});
    }
    return writer->Add(
        documents, std::span(piece).first(static_cast<size_t>(rows * kWidth)));
  }));
  return writer->Build(/*whole=*/true, nullptr);
}

absl::Status Faiss(const Task& task) {
  faiss::IndexHNSWFlat index(kWidth, retrieve::kHnswLinks,
                             faiss::METRIC_INNER_PRODUCT);
  index.hnsw.efConstruction = retrieve::kHnswConstruction;
  // Grown by doubling, the vectors would be there twice for a moment, which
  // who knows how many there are need not pay.
  static_cast<faiss::IndexFlat*>(index.storage)
      ->codes.reserve(static_cast<size_t>(task.taken * kWidth) * sizeof(float));
  return ForEachPiece(
      task, [&](int64_t, int64_t rows, const std::vector<float>& piece) {
        index.add(rows, piece.data());
        return absl::OkStatus();
      });
}

// One round, a process of its own.
struct Ended {
  double seconds = 0, mib = 0;
};
absl::StatusOr<Ended> RunOnce(const Task& task, bool faiss) {
  std::filesystem::remove_all(task.out + "/index");
  int status = -1;
  rusage usage = {};
  Ended ended;
  ended.seconds = Seconds([&] {
    const pid_t pid = fork();
    if (pid == 0) {
      const absl::Status done = faiss ? Faiss(task) : Build(task);
      if (!done.ok()) std::fprintf(stderr, "%s\n", done.ToString().c_str());
      _exit(done.ok() ? 0 : 1);
    }
    wait4(pid, &status, 0, &usage);
  });
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(absl::StrCat("index ended with ", status));
  }
  ended.mib = static_cast<double>(usage.ru_maxrss) / 1024;
  return ended;
}

// Ours, or FAISS's.
class Side {
 public:
  Side(const Task& task, bool faiss) : task_(task), faiss_(faiss) {}
  absl::StatusOr<double> Rate() {
    MOTET_RETURN_IF_ERROR(Run());
    return static_cast<double>(task_.taken) / last_.seconds;
  }
  absl::StatusOr<double> Memory() {
    if (!counted_) MOTET_RETURN_IF_ERROR(Run());
    return last_.mib;
  }

 private:
  absl::Status Run() {
    MakeVectors(task_);
    task_.taken =
        first_ ? std::min(task_.vectors, kFirstVectors) : task_.vectors;
    counted_ = !first_;
    first_ = false;
    MOTET_ASSIGN_OR_RETURN(last_, RunOnce(task_, faiss_));
    return absl::OkStatus();
  }
  Task task_;
  const bool faiss_;
  bool first_ = true, counted_ = false;
  Ended last_;
};

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) {
  using namespace motet::bench;
  Task task;
  task.out = Option(argc, argv, "out", "index-bench");
  if (!absl::SimpleAtoi(Option(argc, argv, "vectors", "1000000"),
                        &task.vectors) ||
      task.vectors < 1) {
    std::fprintf(stderr, "[index_bench] --vectors wants a number from 1\n");
    return 2;
  }
  Side ours(task, /*faiss=*/false), faiss(task, /*faiss=*/true);
  Player player;
  player.Add("build", [&] { return ours.Rate(); });
  player.Add("faiss", [&] { return faiss.Rate(); });
  player.Add("build_memory", [&] { return ours.Memory(); });
  player.Add("faiss_memory", [&] { return faiss.Memory(); });
  return player.Run();
}
