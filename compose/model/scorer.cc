// SPDX-License-Identifier: Apache-2.0
#include "compose/model/scorer.h"

#include <algorithm>

namespace motet::model {
namespace {

struct DecoderState : ScorerState {
  DecoderState(const ModelConfig& config, int64_t capacity,
               math::ExpertMask set)
      : cache(config, capacity, std::max<int64_t>(1, config.experts), set) {}
  SequenceCache cache;
};

}  // namespace

int64_t LogitRows(const ModelConfig& config) {
  constexpr int64_t kFloats = int64_t{4} << 20;
  return std::max<int64_t>(16, kFloats / config.vocabulary);
}

std::unique_ptr<ScorerState> DecoderScorer::NewState(int64_t capacity) const {
  const math::ExpertMask base = decoder_->router().base_always ? 1 : 0;
  return std::make_unique<DecoderState>(config(), capacity, allowed_ | base);
}

int64_t DecoderScorer::StateBytes(int64_t capacity) const {
  const math::ExpertMask base = decoder_->router().base_always ? 1 : 0;
  return SequenceCache::Bytes(config(), capacity, allowed_ | base);
}

math::Tensor DecoderScorer::Forward(math::Exec& exec,
                                    std::span<const ScorerInput> inputs,
                                    Trace* trace) const {
  std::vector<SequenceInput> sequences;
  for (const ScorerInput& input : inputs) {
    auto* state = static_cast<DecoderState*>(input.state);
    sequences.push_back(
        {input.ids, state ? &state->cache : nullptr, allowed_, active_});
  }
  return decoder_->Forward(exec, Batch(sequences), trace);
}

void DecoderScorer::Run(math::Exec& exec, std::span<const ScorerInput> inputs,
                        std::span<const RowRange> wanted,
                        const LogitsSink& sink) const {
  const math::Arena::Mark before = exec.arena().mark();
  const math::Tensor hidden = Forward(exec, inputs);
  const int64_t step = LogitRows(config());
  bool more = true;
  for (const RowRange& range : wanted) {
    for (int64_t at = 0; more && at < range.count; at += step) {
      const int64_t rows = std::min(step, range.count - at);
      const math::Arena::Mark mark = exec.arena().mark();
      more = sink(range.first + at,
                  Logits(exec, hidden.RowSlice(range.first + at, rows)));
      exec.arena().Release(mark);
    }
  }
  exec.arena().Release(before);
}

}  // namespace motet::model
