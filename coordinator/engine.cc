// SPDX-License-Identifier: Apache-2.0
#include "coordinator/engine.h"

#include <algorithm>
#include <cmath>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "compose/model/sampler.h"
#include "coordinator/stream_text.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

using model::Sample;

void FillLogprobs(const model::Tokenizer& tokenizer,
                  std::span<const float> logits, int32_t id, int alternatives,
                  v1::TokenResult* token) {
  token->set_has_logprob(true);
  token->set_logprob(model::LogProbability(logits, id));
  if (alternatives <= 0) return;
  for (const auto& [other, logprob] :
       model::TopLogProbabilities(logits, alternatives)) {
    v1::TokenAlternative* top = token->add_top();
    top->set_id(other);
    top->set_text(ValidUtf8(tokenizer.TokenBytes(other)));
    top->set_logprob(logprob);
  }
}

absl::Status CheckSampling(const v1::GenerationRequest& r) {
  const auto range = [](const char* what, double value, double least,
                        double most) -> absl::Status {
    if (value >= least && value <= most) return absl::OkStatus();
    return proto::Invalid(what, absl::StrCat(value),
                          absl::StrCat("a number from ", least, " to ", most));
  };
  MOTET_RETURN_IF_ERROR(range("temperature", r.temperature(), 0, 2));
  MOTET_RETURN_IF_ERROR(range("top_p", r.top_p(), 0, 1));
  MOTET_RETURN_IF_ERROR(range("min_p", r.min_p(), 0, 1));
  return range("logprobs", r.logprobs(), -1, 20);
}

}  // namespace

Engine::Engine(const assemble::ServedModel& model, EngineOptions options)
    : model_(model), options_(options) {}

absl::StatusOr<std::vector<int32_t>> Engine::Prepare(
    const v1::GenerationRequest& request) const {
  MOTET_RETURN_IF_ERROR(CheckSampling(request));
  const model::ModelConfig& config = model_.config;
  std::vector<int32_t> ids(request.prompt_ids().begin(),
                           request.prompt_ids().end());
  if (ValidUtf8(request.prompt()) != request.prompt()) {
    return proto::Invalid("prompt", "bytes that are not UTF-8", "UTF-8 text");
  }
  if (ids.empty()) ids = model_.tokenizer().Encode(request.prompt());
  // A model continues something: the separator stands for "a new document".
  if (ids.empty()) ids.push_back(std::max(config.eos_id, 0));
  for (const int32_t id : ids) {
    if (id < 0 || id >= config.vocabulary) {
      return proto::Invalid("prompt", absl::StrCat("token id ", id),
                            absl::StrCat("0 to ", config.vocabulary - 1));
    }
  }
  const int64_t room = config.max_positions - static_cast<int64_t>(ids.size());
  if (room < static_cast<int64_t>(request.max_tokens())) {
    return proto::Error(
        absl::StatusCode::kOutOfRange, "prompt",
        absl::StrCat(ids.size(), " tokens and ", request.max_tokens(),
                     " to generate"),
        absl::StrCat("at most ", config.max_positions,
                     " together, this model's context"),
        "shorten the prompt or ask for fewer tokens");
  }
  return ids;
}

absl::Status Engine::Generate(const v1::GenerationRequest& request,
                              const Admission& admission,
                              const EventSink& sink) {
  MOTET_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, Prepare(request));
  uint64_t ticket = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (waiting_ >= options_.max_waiting) {
      return proto::Error(absl::StatusCode::kResourceExhausted, "engine",
                          absl::StrCat(waiting_, " requests waiting"),
                          absl::StrCat("fewer than ", options_.max_waiting),
                          "try again in a moment");
    }
    ++waiting_;
    ticket = next_ticket_++;
    struct Turn {
      Engine* engine;
      uint64_t ticket;
    } turn{this, ticket};
    mutex_.Await(absl::Condition(
        +[](Turn* t) ABSL_NO_THREAD_SAFETY_ANALYSIS {
          return t->engine->serving_ == t->ticket;
        },
        &turn));
  }
  absl::Cleanup done = [this] {
    absl::MutexLock lock(&mutex_);
    --waiting_;
    ++serving_;
  };
  return Run(request, prompt, admission, sink);
}

absl::Status Engine::Run(const v1::GenerationRequest& request,
                         const std::vector<int32_t>& prompt,
                         const Admission& admission, const EventSink& sink) {
  MOTET_ASSIGN_OR_RETURN(
      const std::shared_ptr<const model::Scorer> scorer,
      model_.ScorerFor(admission.mask(), admission.active()));
  const model::Tokenizer& tokenizer = model_.tokenizer();
  const int64_t total =
      static_cast<int64_t>(prompt.size()) + request.max_tokens();
  if (const int64_t bytes = scorer->StateBytes(total);
      bytes > options_.state_bytes) {
    constexpr int64_t kMiB = 1 << 20;
    return proto::Error(
        absl::StatusCode::kOutOfRange, "prompt",
        absl::StrCat(total, " tokens with those to generate, whose state over ",
                     admission.experts().size(), " experts may take ",
                     (bytes + kMiB - 1) / kMiB, " MiB"),
        absl::StrCat("at most ", options_.state_bytes / kMiB,
                     " MiB (--state-memory)"),
        "shorten the prompt, ask for fewer tokens or for fewer experts");
  }
  // Belongs to this one expert set (docs/exclusion.md).
  const std::unique_ptr<model::ScorerState> state = scorer->NewState(total);
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, options_.product);
  std::vector<float> logits;  // of the last position
  const bool want_prompt = request.echo();
  const bool want_logprobs = request.logprobs() >= 0;
  uint64_t shown_tokens = 0;

  // wanted: rows of `ids` whose logits the sink gets.
  const auto run = [&](std::span<const int32_t> ids, model::RowRange wanted,
                       const model::LogitsSink& use) {
    arena.Reset();
    const model::ScorerInput input{ids, state.get()};
    scorer->Run(exec, std::span(&input, 1), std::span(&wanted, 1), use);
  };
  const auto keep = [&](int64_t, const math::Tensor& rows) {
    const float* last = rows.f32() + (rows.rows() - 1) * rows.cols();
    logits.assign(last, last + rows.cols());
    return true;
  };
  const auto send = [&](v1::TokenResult token) {
    v1::GenerationEvent event;
    *event.mutable_token() = std::move(token);
    return sink(event);
  };
  // Characters of the prompt may be split over its tokens, too.
  StreamText prompt_text({});
  const auto send_prompt = [&](size_t i, std::span<const float> scores) {
    v1::TokenResult token;
    token.set_id(prompt[i]);
    token.set_from_prompt(true);
    std::string shown = prompt_text.Add(tokenizer.TokenBytes(prompt[i]));
    if (i + 1 == prompt.size()) shown += prompt_text.Flush();
    token.set_text(shown);
    if (!scores.empty()) {
      FillLogprobs(tokenizer, scores, prompt[i], request.logprobs(), &token);
    }
    return send(std::move(token));
  };
  const absl::Status gone = absl::CancelledError("[generate] client gone");

  // The prompt, in pieces; token i is scored by the logits at i - 1.
  if (want_prompt && want_logprobs && !send_prompt(0, {})) return gone;
  bool here = true;
  for (size_t at = 0; here && at < prompt.size();) {
    const size_t n =
        std::min<size_t>(options_.prefill_rows, prompt.size() - at);
    const bool ends = at + n == prompt.size();
    const bool continues = ends && request.max_tokens() > 0;
    const auto rows = static_cast<int64_t>(n);
    model::RowRange wanted{rows - 1, continues ? 1 : 0};
    if (want_prompt && want_logprobs) {
      wanted = {0, ends && !continues ? rows - 1 : rows};
    }
    run(std::span(prompt).subspan(at, n), wanted,
        [&](int64_t row, const math::Tensor& scores) {
          const auto width = static_cast<size_t>(scores.cols());
          for (int64_t r = 0; r < scores.rows(); ++r) {
            const size_t next = at + static_cast<size_t>(row + r) + 1;
            if (next == prompt.size()) return keep(row, scores);
            if (!send_prompt(next,
                             std::span(scores.f32() + r * width, width))) {
              return here = false;
            }
          }
          return true;
        });
    for (size_t i = at; here && want_prompt && !want_logprobs && i < at + n;
         ++i) {
      here = send_prompt(i, {});
    }
    at += n;
  }
  if (!here) return gone;

  model::SamplerOptions sampling;
  sampling.temperature = request.temperature();
  sampling.top_p = request.top_p();
  sampling.top_k = request.top_k();
  sampling.min_p = request.min_p();
  sampling.seed = request.seed();
  StreamText text({request.stop().begin(), request.stop().end()});
  std::string finish = "length";
  for (uint32_t i = 0; i < request.max_tokens(); ++i) {
    const int32_t id = Sample(logits, sampling, prompt.size() + i);
    ++shown_tokens;
    if (model_.config.Ends(id)) {
      finish = "stop";
      if (!want_logprobs) break;
      // Clients that count the scores find one for every token made.
      v1::TokenResult end;
      end.set_id(id);
      end.set_text(text.Flush());
      FillLogprobs(tokenizer, logits, id, request.logprobs(), &end);
      if (!send(std::move(end))) return gone;
      break;
    }
    v1::TokenResult token;
    token.set_id(id);
    token.set_text(text.Add(tokenizer.TokenBytes(id)));
    if (want_logprobs) {
      FillLogprobs(tokenizer, logits, id, request.logprobs(), &token);
    }
    const bool stopped = text.stopped();
    if (i + 1 == request.max_tokens() && !stopped) {
      token.set_text(token.text() + text.Flush());
    }
    if (!send(std::move(token))) return gone;
    if (stopped) {
      finish = "stop";
      break;
    }
    if (i + 1 == request.max_tokens()) break;
    run(std::span(&id, 1), {0, 1}, keep);
  }
  if (const std::string rest = text.Flush(); !rest.empty()) {
    v1::TokenResult token;
    token.set_id(-1);  // text that was held back, of tokens already sent
    token.set_text(rest);
    if (!send(std::move(token))) return gone;
  }
  v1::GenerationEvent event;
  v1::GenerationEnd* end = event.mutable_end();
  end->set_finish_reason(finish);
  end->set_prompt_tokens(prompt.size());
  end->set_completion_tokens(shown_tokens);
  for (const std::string& id : admission.experts()) end->add_experts(id);
  end->set_expert_set_sha256(admission.set_sha256());
  end->set_lock_sha256(model_.lock_sha256);
  sink(event);
  return absl::OkStatus();
}

}  // namespace motet::coordinator
