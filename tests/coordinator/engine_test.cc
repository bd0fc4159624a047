// SPDX-License-Identifier: Apache-2.0
// The engine on a small random composition, against the decoder alone.
#include "coordinator/engine.h"

#include <cmath>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "compose/model/sampler.h"
#include "coordinator/stream_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::coordinator {
namespace {

struct Result {
  absl::Status status;
  std::vector<v1::TokenResult> tokens;
  v1::GenerationEnd end;
  int ends = 0;
  std::string text() const {
    std::string text;
    for (const auto& token : tokens) text += token.text();
    return text;
  }
  std::vector<int32_t> ids() const {  // generated
    std::vector<int32_t> ids;
    for (const auto& t : tokens) {
      if (!t.from_prompt() && t.id() >= 0) ids.push_back(t.id());
    }
    return ids;
  }
};

v1::GenerationRequest Greedy(const std::vector<int32_t>& ids, int max_tokens) {
  v1::GenerationRequest request;
  for (const int32_t id : ids) request.add_prompt_ids(id);
  request.set_max_tokens(max_tokens);
  request.set_top_p(1);
  request.set_logprobs(-1);
  return request;
}

class EngineTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    federation_ = new assemble::TinyFederation;
    composition_ = federation_->Load(federation_->Lock()).release();
  }
  static void TearDownTestSuite() {
    delete composition_;
    delete federation_;
  }
  static Admission Admit(const std::vector<std::string>& exclude = {}) {
    v1::ExpertSelection selection;
    for (const auto& name : exclude) selection.add_exclude(name);
    auto admission = PolicyGate(*composition_, {})
                         .Admit(selection, "", "", absl::Now());
    EXPECT_TRUE(admission.ok()) << admission.status();
    return *std::move(admission);
  }
  static Result Run(Engine& engine, const v1::GenerationRequest& request,
                    const Admission& admission = Admit()) {
    Result result;
    result.status = engine.Generate(
        request, admission, [&](const v1::GenerationEvent& event) {
          EXPECT_EQ(result.ends, 0) << "an event after the end";
          if (event.has_token()) result.tokens.push_back(event.token());
          if (event.has_end()) {
            result.end = event.end();
            ++result.ends;
          }
          return true;
        });
    return result;
  }
  static Result Run(const v1::GenerationRequest& request,
                    int prefill_rows = 256,
                    const Admission& admission = Admit()) {
    Engine engine(*composition_, {.max_waiting = 4,
                                  .prefill_rows = prefill_rows});
    return Run(engine, request, admission);
  }
  static std::vector<int32_t> Ids(int n) { return federation_->Ids(n); }

  static assemble::TinyFederation* federation_;
  static assemble::Composition* composition_;
};
assemble::TinyFederation* EngineTest::federation_ = nullptr;
assemble::Composition* EngineTest::composition_ = nullptr;

TEST_F(EngineTest, GreedyIsDeterministicAndTheDecodersOwn) {
  const std::vector<int32_t> prompt = Ids(20);
  const Result one = Run(Greedy(prompt, 12));
  ASSERT_TRUE(one.status.ok()) << one.status;
  EXPECT_EQ(one.ends, 1);
  EXPECT_EQ(one.end.prompt_tokens(), 20u);
  EXPECT_EQ(one.end.experts_size(), 5);
  EXPECT_EQ(one.end.expert_set_sha256(), Admit().set_sha256());
  EXPECT_EQ(one.end.lock_sha256(), composition_->lock_sha256);
  const Result two = Run(Greedy(prompt, 12));
  EXPECT_EQ(one.ids(), two.ids());
  EXPECT_EQ(one.text(), two.text());
  // Every token is the likeliest of a forward over all before it.
  std::vector<int32_t> ids = prompt;
  for (const int32_t id : one.ids()) {
    const std::vector<float> logits = assemble::LogitsOf(
        *composition_->decoder, ids, composition_->All());
    const size_t vocabulary = composition_->config.vocabulary;
    EXPECT_EQ(id, model::Sample(std::span(logits).last(vocabulary),
                                {.temperature = 0}, 0));
    ids.push_back(id);
  }
  if (one.end.finish_reason() == "length") {
    EXPECT_EQ(one.end.completion_tokens(), 12u);
    EXPECT_EQ(one.ids().size(), 12u);
  }
}

TEST_F(EngineTest, EchoedLogprobsAreThoseOfAWholeForward) {
  const std::vector<int32_t> prompt = Ids(30);
  v1::GenerationRequest request = Greedy(prompt, 0);
  request.set_echo(true);
  request.set_logprobs(2);
  const size_t vocabulary = composition_->config.vocabulary;
  for (const auto& exclude :
       {std::vector<std::string>{}, std::vector<std::string>{"code"}}) {
    const Admission admission = Admit(exclude);
    const std::vector<float> logits = assemble::LogitsOf(
        *composition_->decoder, prompt, admission.mask());
    // In pieces, too, bit for bit.
    for (const int rows : {256, 30, 7, 3, 1}) {
      const Result result = Run(request, rows, admission);
      ASSERT_TRUE(result.status.ok()) << result.status;
      ASSERT_EQ(result.tokens.size(), prompt.size());
      EXPECT_EQ(result.end.completion_tokens(), 0u);
      EXPECT_EQ(result.end.finish_reason(), "length");
      for (size_t i = 0; i < prompt.size(); ++i) {
        const v1::TokenResult& token = result.tokens[i];
        EXPECT_EQ(token.id(), prompt[i]);
        EXPECT_TRUE(token.from_prompt());
        EXPECT_EQ(token.has_logprob(), i > 0);
        if (i == 0) continue;
        const auto row =
            std::span(logits).subspan((i - 1) * vocabulary, vocabulary);
        EXPECT_EQ(token.logprob(), model::LogProbability(row, prompt[i]))
            << "token " << i << ", pieces of " << rows;
        const auto top = model::TopLogProbabilities(row, 2);
        ASSERT_EQ(token.top_size(), 2);
        EXPECT_EQ(token.top(0).id(), top[0].first);
        EXPECT_EQ(token.top(1).logprob(), top[1].second);
      }
    }
  }
}

TEST_F(EngineTest, PiecesOfThePromptDoNotChangeTheAnswer) {
  v1::GenerationRequest request = Greedy(Ids(20), 8);
  request.set_logprobs(0);
  const Result whole = Run(request);
  const Result pieces = Run(request, 3);
  ASSERT_EQ(whole.ids(), pieces.ids());
  for (size_t i = 0; i < whole.tokens.size(); ++i) {
    EXPECT_EQ(whole.tokens[i].logprob(), pieces.tokens[i].logprob());
    EXPECT_EQ(whole.tokens[i].top_size(), 0);
  }
}

TEST_F(EngineTest, SeedsDrawTheSameAgain) {
  v1::GenerationRequest request = Greedy(Ids(10), 20);
  request.set_temperature(2);
  std::set<std::vector<int32_t>> draws;
  for (int seed = 0; seed < 4; ++seed) {
    request.set_seed(seed);
    const Result one = Run(request);
    EXPECT_EQ(one.ids(), Run(request).ids());
    draws.insert(one.ids());
  }
  EXPECT_GT(draws.size(), 1u);
}

TEST_F(EngineTest, StopStringEndsTheText) {
  v1::GenerationRequest request = Greedy(Ids(20), 16);
  // A random model's bytes are seldom text: the stop is taken from the bytes
  // themselves, certainly comes, and may span tokens.
  std::string bytes;
  for (const int32_t id : Run(request).ids()) {
    bytes += composition_->tokenizer().TokenBytes(id);
  }
  ASSERT_GE(bytes.size(), 6u);
  const std::string stop = bytes.substr(bytes.size() / 2, 2);
  request.add_stop("never to be met, that is");
  request.add_stop(stop);
  const Result result = Run(request);
  ASSERT_TRUE(result.status.ok());
  EXPECT_EQ(result.end.finish_reason(), "stop");
  EXPECT_EQ(result.text(), ValidUtf8(bytes.substr(0, bytes.find(stop))));
  EXPECT_LE(result.end.completion_tokens(), 16u);
}

TEST_F(EngineTest, EchoedTextIsValidWhateverTheTokens) {
  // Byte tokens of a euro sign: each alone is no character.
  v1::GenerationRequest request;
  request.set_prompt("\u20ac and \U0001F3B6");
  request.set_top_p(1);
  request.set_logprobs(-1);
  request.set_echo(true);
  const Result result = Run(request);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.text(), request.prompt());
  EXPECT_GT(result.tokens.size(), 3u);
  std::string text;
  for (const auto& token : result.tokens) {
    text += token.text();  // as a stream of chunks would show it
    EXPECT_EQ(text, request.prompt().substr(0, text.size()));
    EXPECT_TRUE(text.empty() || text.size() == request.prompt().size() ||
                (request.prompt()[text.size()] & 0xC0) != 0x80)
        << "half a character shown";
  }
}

TEST_F(EngineTest, RequestsAreCheckedBeforeTheyRun) {
  Engine engine(*composition_, {});
  const auto code = [&](const v1::GenerationRequest& request) {
    const absl::StatusCode prepared = engine.Prepare(request).status().code();
    EXPECT_EQ(Run(engine, request).status.code(), prepared);
    return prepared;
  };
  const auto with = [&](auto change) {
    v1::GenerationRequest request = Greedy({1, 2}, 1);
    change(request);
    return request;
  };
  using R = v1::GenerationRequest;
  using C = absl::StatusCode;
  const int vocabulary = composition_->config.vocabulary;
  EXPECT_EQ(code(Greedy({vocabulary - 1}, 1)), C::kOk);
  EXPECT_EQ(code(Greedy({vocabulary}, 1)), C::kInvalidArgument);
  EXPECT_EQ(code(Greedy({-1}, 1)), C::kInvalidArgument);
  EXPECT_EQ(code(Greedy(Ids(200), 56)), C::kOk);  // 256 positions
  EXPECT_EQ(code(Greedy(Ids(200), 57)), C::kOutOfRange);
  EXPECT_EQ(code(Greedy(Ids(257), 0)), C::kOutOfRange);
  EXPECT_EQ(code(with([](R& r) { r.set_max_tokens(~0u); })), C::kOutOfRange);
  EXPECT_EQ(code(with([](R& r) { r.set_temperature(-1); })),
            C::kInvalidArgument);
  EXPECT_EQ(code(with([](R& r) { r.set_temperature(NAN); })),
            C::kInvalidArgument);
  EXPECT_EQ(code(with([](R& r) { r.set_top_p(1.5); })), C::kInvalidArgument);
  EXPECT_EQ(code(with([](R& r) { r.set_min_p(-1); })), C::kInvalidArgument);
  EXPECT_EQ(code(with([](R& r) { r.set_logprobs(21); })), C::kInvalidArgument);
}

TEST_F(EngineTest, EmptyPromptIsANewDocument) {
  Engine engine(*composition_, {});
  const auto ids = engine.Prepare(Greedy({}, 1));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->size(), 1u);
  EXPECT_EQ(ids->front(), std::max(composition_->config.eos_id, 0));
}

TEST_F(EngineTest, SinkThatSaysNoCancels) {
  Engine engine(*composition_, {});
  const Admission admission = Admit();
  for (const bool echo : {false, true}) {
    v1::GenerationRequest request = Greedy(Ids(5), 20);
    request.set_echo(echo);
    int events = 0;
    const absl::Status status = engine.Generate(
        request, admission,
        [&](const v1::GenerationEvent&) { return ++events < 3; });
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(events, 3);
  }
  EXPECT_TRUE(Run(engine, Greedy(Ids(5), 1)).status.ok());  // goes on
}

TEST_F(EngineTest, FullQueueIsResourceExhausted) {
  Engine engine(*composition_, {.max_waiting = 1});
  const Admission admission = Admit();
  absl::Notification running, go_on;
  std::thread first([&] {
    const absl::Status status =
        engine.Generate(Greedy(Ids(5), 2), admission,
                        [&](const v1::GenerationEvent&) {
                          if (!running.HasBeenNotified()) running.Notify();
                          go_on.WaitForNotification();
                          return true;
                        });
    EXPECT_TRUE(status.ok()) << status;
  });
  running.WaitForNotification();
  const Result refused = Run(engine, Greedy(Ids(5), 2));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(refused.tokens.empty());
  go_on.Notify();
  first.join();
  EXPECT_TRUE(Run(engine, Greedy(Ids(5), 2)).status.ok());
}

TEST_F(EngineTest, RequestsAtOnceDoNotMix) {
  Engine engine(*composition_, {.max_waiting = 16});
  std::vector<Result> results(6);
  std::vector<std::thread> threads;
  const auto request = [](int i) {
    return Greedy(federation_->Ids(10, 100 + i), 6);
  };
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      results[i] = Run(engine, request(i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(results[i].status.ok()) << results[i].status;
    EXPECT_EQ(results[i].ids(), Run(request(i)).ids()) << i;
  }
}

// Whole models that answer together: text, log-probabilities and the set's
// name are those of the ensemble of the set.
TEST(EngineEnsembleTest, AnswersForEverySetAsThatEnsembleDoes) {
  assemble::TinyOptions options;
  options.kinds = {"ffn", "dense", "sized", "attention_ffn"};
  const assemble::TinyFederation federation(options);
  assemble::Recipe recipe =
      assemble::TinyFederation::RecipeFor(federation.experts());
  recipe.method = "ensemble";
  recipe.ensemble.top_k = 2;
  const auto plan =
      assemble::MakePlan(recipe, federation.base(), federation.experts());
  ASSERT_THAT(plan.problems, testing::IsEmpty());
  const auto composition = federation.Load(plan.lock);
  ASSERT_NE(composition, nullptr);
  const PolicyGate gate(*composition, {});
  const std::vector<int32_t> prompt = federation.Ids(12);
  const auto vocabulary = static_cast<size_t>(composition->config.vocabulary);
  v1::ExpertSelection without, only, active;
  without.add_exclude("legal");
  only.add_include("manual");
  std::vector<double> prompts;  // how likely each set finds the prompt
  for (const v1::ExpertSelection& selection :
       {v1::ExpertSelection(), without, only}) {
    const auto admission = gate.Admit(selection, "", "", absl::Now());
    ASSERT_TRUE(admission.ok()) << admission.status();
    v1::GenerationRequest request = Greedy(prompt, 8);
    request.set_echo(true);
    request.set_logprobs(0);
    std::vector<Result> results;
    for (const int rows : {256, 5, 1}) {
      Engine engine(*composition, {.prefill_rows = rows});
      Result& result = results.emplace_back();
      result.status = engine.Generate(
          request, *admission, [&](const v1::GenerationEvent& event) {
            if (event.has_token()) result.tokens.push_back(event.token());
            if (event.has_end()) result.end = event.end();
            return true;
          });
      ASSERT_TRUE(result.status.ok()) << result.status;
      EXPECT_EQ(result.ids(), results[0].ids()) << "pieces of " << rows;
    }
    const auto scorer = composition->ScorerFor(admission->mask());
    ASSERT_TRUE(scorer.ok()) << scorer.status();
    std::vector<int32_t> ids = prompt;
    for (const int32_t id : results[0].ids()) ids.push_back(id);
    const std::vector<float> logits = assemble::LogitsOf(**scorer, ids);
    for (size_t i = 1; i < ids.size(); ++i) {
      const auto row =
          std::span(logits).subspan((i - 1) * vocabulary, vocabulary);
      EXPECT_EQ(results[0].tokens[i].logprob(),
                model::LogProbability(row, ids[i]));
      if (i >= prompt.size()) {
        EXPECT_EQ(ids[i], model::Sample(row, {.temperature = 0}, 0));
      }
    }
    double sum = 0;
    for (size_t i = 1; i < prompt.size(); ++i) {
      sum += results[0].tokens[i].logprob();
    }
    prompts.push_back(sum);
    EXPECT_EQ(results[0].end.expert_set_sha256(), admission->set_sha256());
  }
  // The first row is all alike, whose top 2 are code and legal: both others
  // differ there.
  EXPECT_NE(prompts[0], prompts[1]);
  EXPECT_NE(prompts[0], prompts[2]);
  // A budget that one model's state fits, and not that of all of them.
  const auto bytes = [&](const v1::ExpertSelection& selection) {
    const auto admission = gate.Admit(selection, "", "", absl::Now());
    return (*composition->ScorerFor(admission->mask()))->StateBytes(20);
  };
  ASSERT_LT(bytes(only), bytes(v1::ExpertSelection()));
  Engine small(*composition, {.state_bytes = bytes(only)});
  const auto status = [&](const v1::ExpertSelection& selection) {
    const auto admission = gate.Admit(selection, "", "", absl::Now());
    return small.Generate(Greedy(prompt, 8), *admission,
                          [](const v1::GenerationEvent&) { return true; });
  };
  EXPECT_TRUE(status(only).ok()) << status(only);
  const absl::Status refused = status({});
  EXPECT_EQ(refused.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(refused.message()),
              testing::HasSubstr("--state-memory"));
  active.set_active(2);
  EXPECT_THAT(
      std::string(gate.Admit(active, "", "", absl::Now()).status().message()),
      testing::HasSubstr("whole models answer together"));
}

}  // namespace
}  // namespace motet::coordinator
