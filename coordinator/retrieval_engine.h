// SPDX-License-Identifier: Apache-2.0
// Runs admitted texts through the encoder, and searches behind them; searches
// by words alone wait in the same queue, so one bound holds for all. Requests
// that wait together for the same expert set are encoded, and scan an index,
// together: with exact products a text's vector and a query's ranking have the
// same bits whatever else is in the batch. A long request gives way: it goes
// on behind those that came meanwhile. Never decides who may use what: that is
// the gate's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "compose/retrieve/index.h"
#include "compose/retrieve/text_encoder.h"
#include "coordinator/policy.h"

namespace motet::coordinator {

struct RetrievalEngineOptions {
  int max_waiting = 64;  // requests that wait or run; beyond: overloaded
  // A batch: so many texts, and so many tokens by a guess from their bytes.
  int batch_texts = 64;
  int64_t batch_tokens = 4096;
};

// The encoder of queries for an expert set; retrieve::Retriever makes them.
using QueriesFor = std::function<std::unique_ptr<retrieve::QueryEncoder>(
    math::ExpertMask set)>;
// False once nobody waits for the answer any more.
using StillWanted = std::function<bool()>;

class RetrievalEngine {
 public:
  // base must outlive this, and what queries_for refers to as well.
  RetrievalEngine(const retrieve::TextEncoder& base, QueriesFor queries_for,
                  const RetrievalEngineOptions& options);
  // No Run may be under way.
  ~RetrievalEngine();

  // Documents go through the base alone, whatever the admission; words (BM25)
  // through no encoder: then the answer is rankings alone, and wants a search.
  enum class Kind : uint8_t { kQuery, kDocument, kWords };
  // What to do with the vectors: nothing, or rows of an index ranked by them
  // (of words: by these).
  struct Search {
    const retrieve::Index* index = nullptr;
    int64_t depth = 0;
    const std::vector<int64_t>* only = nullptr;  // copied
  };
  // In the order of the texts.
  struct Answer {
    std::vector<float> values;         // [N,C]; empty for a search
    std::vector<std::string> experts;  // that answered; "": the base
    std::vector<retrieve::Ranking> rankings;
    int64_t tokens = 0, cut = 0;
  };
  // Blocks until all is done. ResourceExhausted at once when too many wait;
  // Cancelled when it was not wanted any more.
  absl::StatusOr<Answer> Run(std::vector<std::string> texts, Kind kind,
                             const Admission& admission, const Search& search,
                             const StillWanted& wanted = nullptr);

  int busy() const;  // requests that wait or run

 private:
  struct Job;
  struct Piece;  // of a job, in a batch

  void Work();
  std::vector<Piece> NextBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RunBatch(std::vector<Piece>& batch);
  void Rank(std::vector<Piece>& batch, std::span<const float> vectors);
  static void RankByWords(std::vector<Piece>& batch);
  const retrieve::QueryEncoder& EncoderFor(math::ExpertMask set);

  const retrieve::TextEncoder& base_;
  const QueriesFor queries_for_;
  const RetrievalEngineOptions options_;
  // Of the sets that were asked for lately; the worker's alone.
  std::map<math::ExpertMask, std::unique_ptr<retrieve::QueryEncoder>> encoders_;
  mutable absl::Mutex mutex_;
  std::deque<std::shared_ptr<Job>> waiting_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;  // in the batch
  // Requests of the last batch: so many are waited for, for a moment.
  size_t together_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread worker_;
};

}  // namespace motet::coordinator
