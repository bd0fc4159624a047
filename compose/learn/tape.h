// SPDX-License-Identifier: Apache-2.0
// The tape: what Exec recorded going forward, run backward. Parameters are
// watched and keep their gradient buffers for good; results that depend on
// them get gradients from the arena, which are used again as soon as the
// operator that made the result has run backward. What depends on no watched
// tensor costs nothing: it is not recorded and has no gradient.
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
  // The arena that the step's results lie in too; it must outlive the tape
  // and may be reset only together with it.
  explicit Tape(math::Arena& arena) : arena_(arena) {}
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
  void Record(math::OpId op, std::function<void()> backward) override;

  // Every record in reverse order. Watched gradients accumulate.
  void Backward();
  // Ready for the next step: records and results forgotten, watched
  // gradients zero. Resets nothing in the arena.
  void Reset();

  size_t records() const { return records_.size(); }

 private:
  struct Node {
    int64_t bytes = 0;
    bool watched = false;
    math::Tensor gradient;  // flat; empty until first asked for
  };
  struct Entry {
    std::function<void()> backward;
    std::vector<uintptr_t> outputs;  // their gradients end with this record
  };
  // The node that t lies in; null when there is none.
  const Node* Find(const math::Tensor& t, int64_t* offset) const;

  math::Arena& arena_;
  std::map<uintptr_t, Node> nodes_;  // by address of the first byte
  std::vector<Entry> records_;
  std::vector<std::unique_ptr<float[]>> kept_;       // watched gradients
  std::multimap<int64_t, math::Tensor> free_;        // by bytes
};

}  // namespace motet::learn
