// SPDX-License-Identifier: Apache-2.0
// The tape: what Exec recorded going forward, run backward. Parameters are
// watched and keep their gradient buffers for good; results that depend on
// them get gradients from the arena, which are used again as soon as the
// operator that made the result has run backward. What depends on no watched
// tensor costs nothing: it is not recorded and has no gradient. A part that
// recomputes (Exec::Recompute) is one record: it leaves its results alone and
// runs forward again, recorded this time, when its gradients are due.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "compose/math/exec.h"

namespace motet::learn {

class Tape final : public math::Recorder {
 public:
  // Gradients of results lie in `arena`, which must outlive the tape and may
  // be reset only together with it. With parts that recompute, no results may
  // lie there. kCounts: to learn how much memory a step takes; no gradient
  // has memory of its own, no number is touched.
  enum class Mode { kRecords, kCounts };
  explicit Tape(math::Arena& arena, Mode mode = Mode::kRecords)
      : arena_(arena), mode_(mode) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Gradients of this f32 tensor are wanted. Watching it twice is watching
  // it once.
  void Watch(const math::Tensor& parameter);

  // A view into a watched tensor or a needed result (a row slice, another
  // shape) is as good as the whole.
  bool Needs(const math::Tensor& t) const override;
  void MarkNeeded(const math::Tensor& t) override;
  math::Tensor Gradient(const math::Tensor& t) override;
  math::Tensor FirstGradient(const math::Tensor& t) override;
  bool HandGradient(const math::Tensor& y, const math::Tensor& t) override;
  void Record(math::OpId op, std::function<void()> backward) override;
  bool Recomputes() const override { return recompute_ > 0 && !paused_; }
  std::vector<math::Tensor> Recompute(
      math::Arena& arena,
      std::function<std::vector<math::Tensor>()> forward) override;

  // The next n parts that can recompute do.
  void RecomputeNext(int64_t n) { recompute_ = n; }

  // Every record in reverse order. Watched gradients accumulate.
  void Backward() {
    BackwardTo(0);
    Settle();
  }
  // Ready for the next piece of a batch: records and results forgotten; the
  // watched gradients stay and go on adding up. Resets nothing in the arena.
  void Forget();
  // Ready for the next step: watched gradients are zero as well, after the
  // next Backward() or Settle() at the latest: what is written first is not
  // cleared before.
  void Reset();
  void Settle();

  size_t records() const { return records_.size(); }

 private:
  struct Node {
    int64_t bytes = 0;
    bool watched = false;
    bool stale = false;     // watched: holds the last step's numbers
    math::Tensor gradient;  // flat, >= bytes; empty until first asked for
  };
  struct Entry {
    std::function<void()> backward;
    std::vector<uintptr_t> outputs;  // their gradients end with this record
  };
  // The node that t lies in; null when there is none.
  const Node* Find(const math::Tensor& t, int64_t* offset) const;
  math::Tensor GradientOf(const math::Tensor& t, bool writes);
  void BackwardTo(size_t records);
  // The result is done with: its gradient's memory is free again.
  void Drop(uintptr_t address);
  void Clear(const math::Tensor& gradient) const;

  math::Arena& arena_;
  const Mode mode_;
  int64_t recompute_ = 0;
  bool paused_ = false;              // results are marked, nothing recorded
  std::vector<uintptr_t> outputs_;   // marked since the last record
  std::map<uintptr_t, Node> nodes_;  // by address of the first byte
  std::vector<Entry> records_;
  std::vector<std::unique_ptr<float[]>> kept_;       // watched gradients
  std::multimap<int64_t, math::Tensor> free_;        // by bytes
};

}  // namespace motet::learn
