// SPDX-License-Identifier: Apache-2.0
// Many requests at once: the same bits as each alone, a bounded queue, long
// requests that give way, and clients that go.
#include "coordinator/retrieval_engine.h"

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "compose/retrieve/search.h"
#include "tests/coordinator/tiny_retrieval.h"

namespace motet::coordinator {
namespace {

using ::testing::Each;
using ::testing::SizeIs;
using Kind = RetrievalEngine::Kind;

class RetrievalEngineTest : public ::testing::Test {
 protected:
  Admission Admit(const std::vector<std::string>& exclude = {}) const {
    v1::ExpertSelection selection;
    for (const auto& name : exclude) selection.add_exclude(name);
    return *tiny_.gate().Admit(selection, "", "", absl::Now());
  }
  TinyRetrieval tiny_;
};

// Holds the engine's worker until it is let go, so that requests gather.
class Held : public retrieve::QueryEncoder {
 public:
  Held(std::unique_ptr<retrieve::QueryEncoder> inner, absl::Notification* begun,
       absl::Notification* go, std::vector<size_t>* sizes)
      : inner_(std::move(inner)), begun_(begun), go_(go), sizes_(sizes) {}
  absl::StatusOr<Queries> Encode(
      std::span<const std::string> queries) const override {
    if (!begun_->HasBeenNotified()) begun_->Notify();
    go_->WaitForNotification();
    sizes_->push_back(queries.size());
    return inner_->Encode(queries);
  }
  const retrieve::TextEncoder& base() const override { return inner_->base(); }

 private:
  std::unique_ptr<retrieve::QueryEncoder> inner_;
  absl::Notification* begun_;
  absl::Notification* go_;
  std::vector<size_t>* sizes_;
};

// Sixteen threads, four expert sets, queries of their own: every answer is
// that of the query alone, to the bit.
TEST_F(RetrievalEngineTest, TogetherIsAsAlone) {
  tiny_.StartEngine({.batch_texts = 5});
  const std::vector<std::vector<std::string>> sets = {
      {}, {"code"}, {"legal"}, {"code", "legal"}};
  std::vector<std::thread> clients;
  std::atomic<int> wrong = 0;
  for (int c = 0; c < 16; ++c) {
    clients.emplace_back([&, c] {
      const Admission admission = Admit(sets[static_cast<size_t>(c % 4)]);
      for (int round = 0; round < 4; ++round) {
        std::vector<std::string> texts;
        for (int t = 0; t <= c % 7; ++t) {
          texts.push_back("query " + std::to_string(c * 100 + round * 10 + t));
        }
        const auto answer =
            tiny_.engine().Run(texts, Kind::kQuery, admission, {});
        if (!answer.ok()) {
          ++wrong;
          continue;
        }
        std::vector<float> want;
        for (size_t t = 0; t < texts.size(); ++t) {
          const auto direct = tiny_.Direct(texts[t], admission.mask());
          want.insert(want.end(), direct.vectors.values.begin(),
                      direct.vectors.values.end());
          wrong += answer->experts[t] != direct.experts[0] ? 1 : 0;
        }
        wrong += answer->values != want ? 1 : 0;
      }
    });
  }
  for (auto& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
}

// What waits while a batch runs is the next batch; a request longer than one
// batch goes on behind the short one.
TEST_F(RetrievalEngineTest, WhatWaitsIsOneBatch) {
  absl::Notification begun, go;
  std::vector<size_t> sizes;
  RetrievalEngine engine(tiny_.base(),
                         [&](math::ExpertMask set) {
                           return std::make_unique<Held>(
                               tiny_.queries_for()(set), &begun, &go, &sizes);
                         },
                         {.max_waiting = 9, .batch_texts = 8});
  const Admission admission = Admit();
  const std::vector<std::string> many(20, "a long one");
  std::vector<std::thread> clients;
  std::atomic<int> failed = 0;
  const auto ask = [&](std::vector<std::string> texts) {
    failed +=
        engine.Run(std::move(texts), Kind::kQuery, admission, {}).ok() ? 0 : 1;
  };
  clients.emplace_back([&] { ask({"first"}); });
  begun.WaitForNotification();
  clients.emplace_back([&] { ask(many); });
  for (int i = 0; i < 7; ++i) clients.emplace_back([&] { ask({"short"}); });
  while (engine.busy() < 9) std::this_thread::yield();
  const auto tenth = engine.Run({"tenth"}, Kind::kQuery, admission, {});
  EXPECT_TRUE(absl::IsResourceExhausted(tenth.status())) << tenth.status();
  go.Notify();
  for (auto& client : clients) client.join();
  EXPECT_EQ(failed, 0);
  // First alone; seven short ones and one text of the long request; then it
  // has the engine for itself.
  EXPECT_THAT(sizes, ::testing::ElementsAre(1, 8, 8, 8, 3));
}

TEST_F(RetrievalEngineTest, DocumentsGoThroughTheBaseAlone) {
  tiny_.StartEngine();
  const std::vector<std::string> texts = {"salt water", "law of the land"};
  const auto answer = tiny_.engine().Run(texts, Kind::kDocument, Admit(), {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->values, tiny_.base().Encode(texts)->values);
  EXPECT_THAT(answer->experts, Each(""));
  EXPECT_GT(answer->tokens, 0);
}

TEST_F(RetrievalEngineTest, SearchesAlikeAreOneScanAndGiveTheirOwn) {
  tiny_.StartEngine();
  const auto index = *retrieve::Index::Open(tiny_.folder() + "/notes");
  const std::vector<int64_t> only = {1};
  const std::vector<std::string> texts = {"salt water of the sea", "sorting"};
  const Admission none = Admit({"code", "legal"});
  const auto all =
      tiny_.engine().Run(texts, Kind::kQuery, none, {index.get(), 2, nullptr});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_TRUE(all->values.empty());
  ASSERT_THAT(all->rankings, SizeIs(2));
  EXPECT_THAT(all->rankings[0], SizeIs(2));
  EXPECT_EQ(all->rankings[0][0].row, 0);
  const auto one =
      tiny_.engine().Run(texts, Kind::kQuery, none, {index.get(), 2, &only});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_THAT(one->rankings, Each(SizeIs(1)));
}

// Words wait behind what is encoded, count against the same bound, and are
// answered as the index alone answers them.
TEST_F(RetrievalEngineTest, SearchesByWordsWaitInTheSameQueue) {
  const auto index = *retrieve::Index::Open(tiny_.folder() + "/notes");
  absl::Notification begun, go;
  std::vector<size_t> sizes;
  RetrievalEngine engine(tiny_.base(),
                         [&](math::ExpertMask set) {
                           return std::make_unique<Held>(
                               tiny_.queries_for()(set), &begun, &go, &sizes);
                         },
                         {.max_waiting = 3, .batch_texts = 2});
  const Admission admission = Admit();
  const std::vector<int64_t> only = {1};
  std::vector<std::thread> clients;
  clients.emplace_back([&] {
    EXPECT_TRUE(engine.Run({"held"}, Kind::kQuery, admission, {}).ok());
  });
  begun.WaitForNotification();
  const std::vector<std::string> texts = {"salt water of the sea", "sorting",
                                          "law of the sea"};
  absl::StatusOr<RetrievalEngine::Answer> all, one;
  clients.emplace_back([&] {
    all = engine.Run(texts, Kind::kWords, admission, {index.get(), 2, nullptr});
  });
  clients.emplace_back([&] {
    one = engine.Run(texts, Kind::kWords, admission, {index.get(), 2, &only});
  });
  while (engine.busy() < 3) std::this_thread::yield();
  const auto fourth = engine.Run({"fourth"}, Kind::kWords, admission,
                                 {index.get(), 2, nullptr});
  EXPECT_TRUE(absl::IsResourceExhausted(fourth.status())) << fourth.status();
  EXPECT_EQ(engine.busy(), 3);  // nothing is answered past the queue
  go.Notify();
  for (auto& client : clients) client.join();
  ASSERT_TRUE(all.ok() && one.ok()) << all.status() << one.status();
  const retrieve::DenseSearch* none = nullptr;
  const auto want = retrieve::Search(
      *index, none, {texts, retrieve::SearchMode::kBm25, 2, {}});
  ASSERT_TRUE(want.ok()) << want.status();
  EXPECT_EQ(all->rankings, want->rankings);
  EXPECT_FALSE(all->rankings[0].empty());
  EXPECT_TRUE(all->values.empty() && all->experts.empty());
  EXPECT_EQ(all->tokens, 0);
  for (size_t q = 0; q < texts.size(); ++q) {
    EXPECT_EQ(one->rankings[q], *index->SearchText(texts[q], 2, &only)) << q;
  }
  EXPECT_THAT(sizes, ::testing::ElementsAre(1));  // no encoder for words
}

TEST_F(RetrievalEngineTest, LongTextsAreCutAndCounted) {
  tiny_.StartEngine();
  const auto answer = tiny_.engine().Run({"ab", std::string(100, 'z')},
                                         Kind::kQuery, Admit(), {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->cut, 1);
  EXPECT_EQ(answer->tokens, 4 + tiny_.base().max_tokens());  // [CLS] a ##b …
}

// Its place is free at once, and the others' answers are their own.
TEST_F(RetrievalEngineTest, WhoHasGoneIsNotServed) {
  absl::Notification begun, go;
  std::vector<size_t> sizes;
  RetrievalEngine engine(tiny_.base(),
                         [&](math::ExpertMask set) {
                           return std::make_unique<Held>(
                               tiny_.queries_for()(set), &begun, &go, &sizes);
                         },
                         {.max_waiting = 2});
  const Admission admission = Admit();
  absl::Status first;
  std::thread one(
      [&] { first = engine.Run({"a"}, Kind::kQuery, admission, {}).status(); });
  begun.WaitForNotification();
  const auto gone =
      engine.Run({"b"}, Kind::kQuery, admission, {}, [] { return false; });
  EXPECT_TRUE(absl::IsCancelled(gone.status())) << gone.status();
  EXPECT_EQ(engine.busy(), 1);
  go.Notify();
  one.join();
  EXPECT_TRUE(first.ok()) << first;
  EXPECT_THAT(sizes, ::testing::ElementsAre(1));
}

}  // namespace
}  // namespace motet::coordinator
