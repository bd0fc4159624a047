// SPDX-License-Identifier: Apache-2.0
// Loss spikes: a step whose loss stands far above those before it. One bad
// batch can undo many good steps, so the run loop takes no step on it. After
// OLMo 2's SkipStep optimiser (arXiv 2501.00656, 3.2), by the loss alone.
#pragma once

#include <cstdint>
#include <vector>

namespace motet::learn {

class SpikeDetector {
 public:
  // sigma <= 0: nothing is a spike.
  SpikeDetector(double sigma, int64_t window)
      : sigma_(sigma), window_(window) {}

  // Whether the loss is above
  //   mean + sigma * max(deviation, 0.01 |mean|)
  // of the window's losses. Never before half of the window is there. The
  // floor keeps a run that has converged from calling rounding a spike.
  bool IsSpike(double loss) const;
  // Of a step that was taken; the oldest leaves a full window.
  void Add(double loss);

  // The state, for checkpoints.
  const std::vector<double>& losses() const { return losses_; }
  void set_losses(std::vector<double> losses) { losses_ = std::move(losses); }

 private:
  double sigma_;
  int64_t window_;
  std::vector<double> losses_;  // the oldest first
};

}  // namespace motet::learn
