// SPDX-License-Identifier: Apache-2.0
#include "coordinator/retrieval_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

// Encoders that are kept: each is a view of the pilots of its set.
constexpr size_t kKeptEncoders = 64;
constexpr absl::Duration kLook = absl::Milliseconds(200);
// Little beside a batch of several requests; one alone never waits for it
// twice.
constexpr absl::Duration kGather = absl::Milliseconds(2);

}  // namespace

struct RetrievalEngine::Job {
  std::vector<std::string> texts;
  Kind kind = Kind::kQuery;
  math::ExpertMask set = 0;
  Search search;
  std::vector<int64_t> only;  // search.only points here
  size_t next = 0;            // text that no batch has had
  Answer answer;
  absl::Status status;
  bool wanted = true, done = false;

  // Jobs that can share a batch.
  bool Goes(const Job& other) const {
    return kind == other.kind && (kind != Kind::kQuery || set == other.set);
  }
};

struct RetrievalEngine::Piece {
  std::shared_ptr<Job> job;
  size_t count = 0;
};

RetrievalEngine::RetrievalEngine(const retrieve::TextEncoder& base,
                                 QueriesFor queries_for,
                                 const RetrievalEngineOptions& options)
    : base_(base),
      queries_for_(std::move(queries_for)),
      options_(options),
      worker_([this] { Work(); }) {}

RetrievalEngine::~RetrievalEngine() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  worker_.join();
}

absl::StatusOr<RetrievalEngine::Answer> RetrievalEngine::Run(
    std::vector<std::string> texts, Kind kind, const Admission& admission,
    const Search& search, const StillWanted& wanted) {
  MOTET_CHECK(!texts.empty());
  MOTET_CHECK(kind != Kind::kWords || search.index != nullptr);
  const auto job = std::make_shared<Job>();
  job->texts = std::move(texts);
  job->kind = kind;
  job->set = admission.mask();
  job->search = search;
  if (search.only != nullptr) {
    job->only = *search.only;
    job->search.only = &job->only;
  }
  absl::MutexLock lock(&mutex_);
  const int busy = static_cast<int>(waiting_.size()) + running_;
  if (busy >= options_.max_waiting) {
    return proto::Error(absl::StatusCode::kResourceExhausted, "engine",
                        absl::StrCat(busy, " requests waiting"),
                        absl::StrCat("fewer than ", options_.max_waiting),
                        "try again in a moment");
  }
  waiting_.push_back(job);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&job->done),
                                  wanted ? kLook : absl::InfiniteDuration())) {
    if (wanted()) continue;
    job->wanted = false;
    // In the batch it ends with that: until then its index is read, which the
    // caller may take away afterwards.
    if (std::erase(waiting_, job) == 0) {
      mutex_.Await(absl::Condition(&job->done));
    }
    return absl::CancelledError("[engine] client gone");
  }
  if (!job->status.ok()) return job->status;
  return std::move(job->answer);
}

int RetrievalEngine::busy() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(waiting_.size()) + running_;
}

void RetrievalEngine::Work() {
  for (;;) {
    std::vector<Piece> batch;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](RetrievalEngine* e) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return e->stopping_ || !e->waiting_.empty();
          },
          this));
      // Who was answered together tends to ask again together: without this
      // the first to do so would have a batch of its own.
      mutex_.AwaitWithTimeout(
          absl::Condition(
              +[](RetrievalEngine* e) ABSL_NO_THREAD_SAFETY_ANALYSIS {
                return e->stopping_ || e->waiting_.size() >= e->together_;
              },
              this),
          kGather);
      if (stopping_) return;
      batch = NextBatch();
      together_ = batch.size();
      running_ = static_cast<int>(batch.size());
    }
    const absl::Status status = RunBatch(batch);
    absl::MutexLock lock(&mutex_);
    running_ = 0;
    for (const Piece& piece : batch) {
      Job& job = *piece.job;
      if (!status.ok()) job.status = status;
      if (!job.status.ok() || job.next == job.texts.size() || !job.wanted) {
        job.done = true;
      } else {
        waiting_.push_back(piece.job);
      }
    }
  }
}

// The first and all that can go with it, each with an equal share of the
// texts; what is left over goes to those in front.
std::vector<RetrievalEngine::Piece> RetrievalEngine::NextBatch() {
  std::vector<Piece> batch;
  for (const auto& job : waiting_) {
    if (job->Goes(*waiting_.front())) batch.push_back({job, 0});
  }
  int texts = 0;
  int64_t tokens = 0;
  for (bool more = true; more;) {
    more = false;
    for (Piece& piece : batch) {
      const Job& job = *piece.job;
      const size_t at = job.next + piece.count;
      if (at == job.texts.size() || texts == options_.batch_texts ||
          (texts > 0 && tokens >= options_.batch_tokens)) {
        continue;
      }
      ++piece.count;
      ++texts;
      tokens += std::min(static_cast<int64_t>(job.texts[at].size()) / 4 + 2,
                         base_.max_tokens());
      more = true;
    }
  }
  std::erase_if(batch, [](const Piece& piece) { return piece.count == 0; });
  // The others keep their places.
  std::erase_if(waiting_, [&](const auto& job) {
    return std::any_of(batch.begin(), batch.end(),
                       [&](const Piece& piece) { return piece.job == job; });
  });
  return batch;
}

absl::Status RetrievalEngine::RunBatch(std::vector<Piece>& batch) {
  if (batch.empty()) return absl::OkStatus();
  if (batch.front().job->kind == Kind::kWords) {
    RankByWords(batch);
    return absl::OkStatus();
  }
  std::vector<std::string> texts;
  for (const Piece& piece : batch) {
    for (size_t i = 0; i < piece.count; ++i) {
      texts.push_back(std::move(piece.job->texts[piece.job->next + i]));
    }
  }
  const Job& first = *batch.front().job;
  retrieve::QueryEncoder::Queries encoded;
  if (first.kind == Kind::kDocument) {
    MOTET_ASSIGN_OR_RETURN(encoded.vectors, base_.Encode(texts));
    encoded.experts.resize(texts.size());
  } else {
    MOTET_ASSIGN_OR_RETURN(encoded, EncoderFor(first.set).Encode(texts));
  }
  const auto width = static_cast<size_t>(base_.width());
  MOTET_CHECK(encoded.vectors.values.size() == texts.size() * width);
  MOTET_CHECK(encoded.vectors.tokens.size() == texts.size());
  MOTET_CHECK(encoded.experts.size() == texts.size());
  Rank(batch, encoded.vectors.values);
  size_t at = 0;
  for (const Piece& piece : batch) {
    Job& job = *piece.job;
    Answer& answer = job.answer;
    if (job.search.index == nullptr) {
      const auto begin = encoded.vectors.values.begin() +
                         static_cast<std::ptrdiff_t>(at * width);
      answer.values.insert(
          answer.values.end(), begin,
          begin + static_cast<std::ptrdiff_t>(piece.count * width));
    }
    for (size_t i = 0; i < piece.count; ++i, ++at) {
      answer.experts.push_back(std::move(encoded.experts[at]));
      const int64_t tokens = encoded.vectors.tokens[at];
      answer.tokens += std::min(tokens, base_.max_tokens());
      answer.cut += tokens > base_.max_tokens() ? 1 : 0;
    }
    job.next += piece.count;
  }
  return absl::OkStatus();
}

// Searches alike (of the same index, as deep, of all rows) are one scan.
void RetrievalEngine::Rank(std::vector<Piece>& batch,
                           std::span<const float> vectors) {
  const auto width = static_cast<size_t>(base_.width());
  std::vector<std::span<const float>> own;
  size_t at = 0;
  for (const Piece& piece : batch) {
    own.push_back(vectors.subspan(at * width, piece.count * width));
    at += piece.count;
  }
  std::vector<bool> ranked(batch.size(), false);
  for (size_t i = 0; i < batch.size(); ++i) {
    const Search& search = batch[i].job->search;
    if (ranked[i] || search.index == nullptr) continue;
    std::vector<size_t> alike;
    std::vector<float> queries;
    for (size_t j = i; j < batch.size(); ++j) {
      const Search& other = batch[j].job->search;
      const bool same = other.index == search.index &&
                        other.depth == search.depth && other.only == nullptr &&
                        search.only == nullptr;
      if (j != i && !same) continue;
      alike.push_back(j);
      queries.insert(queries.end(), own[j].begin(), own[j].end());
    }
    auto rankings =
        search.index->SearchVectors(queries, search.depth, search.only);
    size_t taken = 0;
    for (const size_t j : alike) {
      ranked[j] = true;
      Job& job = *batch[j].job;
      if (!rankings.ok()) job.status = rankings.status();
      for (size_t q = 0; rankings.ok() && q < batch[j].count; ++q) {
        job.answer.rankings.push_back(std::move((*rankings)[taken++]));
      }
    }
  }
}

// Nothing is shared between searches by words: one after another.
void RetrievalEngine::RankByWords(std::vector<Piece>& batch) {
  for (const Piece& piece : batch) {
    Job& job = *piece.job;
    for (size_t i = 0; job.status.ok() && i < piece.count; ++i) {
      auto ranking = job.search.index->SearchText(
          job.texts[job.next + i], job.search.depth, job.search.only);
      if (!ranking.ok()) {
        job.status = ranking.status();
      } else {
        job.answer.rankings.push_back(*std::move(ranking));
      }
    }
    job.next += piece.count;
  }
}

const retrieve::QueryEncoder& RetrievalEngine::EncoderFor(
    math::ExpertMask set) {
  auto& encoder = encoders_[set];
  if (encoder == nullptr) {
    if (encoders_.size() > kKeptEncoders) {
      encoders_.clear();
      return EncoderFor(set);
    }
    encoder = queries_for_(set);
  }
  return *encoder;
}

}  // namespace motet::coordinator
