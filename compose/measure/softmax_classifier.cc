// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/softmax_classifier.h"

#include <algorithm>
#include <cmath>

namespace motet::measure {
namespace {

// weights: [classes, C + 1]; logits of one vector.
void Logits(const std::vector<double>& weights, std::span<const float> vector,
            std::vector<double>& logits) {
  const size_t width = vector.size();
  for (size_t k = 0; k < logits.size(); ++k) {
    const double* row = weights.data() + k * (width + 1);
    double sum = row[width];
    for (size_t c = 0; c < width; ++c) sum += row[c] * vector[c];
    logits[k] = sum;
  }
}

void Softmax(std::vector<double>& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double& value : logits) sum += value = std::exp(value - most);
  for (double& value : logits) value /= sum;
}

}  // namespace

SoftmaxClassifier::SoftmaxClassifier(std::span<const float> vectors,
                                     std::span<const int> labels, int classes,
                                     int64_t width,
                                     const SoftmaxOptions& options)
    : classes_(classes),
      width_(width),
      weights_(static_cast<size_t>(classes * (width + 1)), 0.0) {
  const size_t stride = static_cast<size_t>(width) + 1;
  const double share = 1.0 / static_cast<double>(std::max<size_t>(
                                 labels.size(), 1));
  std::vector<double> speed(weights_.size(), 0.0), ahead(weights_.size());
  std::vector<double> gradient(weights_.size());
  std::vector<double> p(static_cast<size_t>(classes));
  for (int step = 0; step < options.steps; ++step) {
    for (size_t i = 0; i < ahead.size(); ++i) {
      ahead[i] = weights_[i] + options.momentum * speed[i];
      const bool bias = i % stride == stride - 1;
      gradient[i] = bias ? 0 : options.decay * ahead[i];
    }
    for (size_t n = 0; n < labels.size(); ++n) {
      const auto vector = vectors.subspan(n * (stride - 1), stride - 1);
      Logits(ahead, vector, p);
      Softmax(p);
      p[static_cast<size_t>(labels[n])] -= 1;
      for (size_t k = 0; k < p.size(); ++k) {
        double* row = gradient.data() + k * stride;
        const double weight = p[k] * share;
        for (size_t c = 0; c + 1 < stride; ++c) row[c] += weight * vector[c];
        row[stride - 1] += weight;
      }
    }
    for (size_t i = 0; i < weights_.size(); ++i) {
      speed[i] = options.momentum * speed[i] - options.rate * gradient[i];
      weights_[i] += speed[i];
    }
  }
}

int SoftmaxClassifier::Classify(std::span<const float> vector) const {
  std::vector<double> logits(static_cast<size_t>(classes_));
  Logits(weights_, vector.first(static_cast<size_t>(width_)), logits);
  return static_cast<int>(
      std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace motet::measure
