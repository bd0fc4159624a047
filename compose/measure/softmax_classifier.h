// SPDX-License-Identifier: Apache-2.0
// A linear classifier on vectors, to compare routers with: multinomial
// logistic regression, by gradient descent on everything at once, in double.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace motet::measure {

struct SoftmaxOptions {
  int steps = 300;
  double rate = 8;        // of vectors of norm about 1
  double momentum = 0.9;  // Nesterov's
  double decay = 1e-5;    // L2, on the weights
};

class SoftmaxClassifier {
 public:
  // vectors: [N,C]. labels: [N], each in [0, classes). The same bits each time.
  SoftmaxClassifier(std::span<const float> vectors,
                    std::span<const int> labels, int classes, int64_t width,
                    const SoftmaxOptions& options = {});
  // The most likely class of one vector [C], ties to the lowest.
  int Classify(std::span<const float> vector) const;

 private:
  int classes_;
  int64_t width_;
  std::vector<double> weights_;  // [classes, C + 1], the last a bias
};

}  // namespace motet::measure
