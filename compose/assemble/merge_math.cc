// SPDX-License-Identifier: Apache-2.0
// Plain loops over blocks that stay in the first-level cache: models outside,
// elements inside, so that a compiler makes vectors of them.
#include "compose/assemble/merge_math.h"

#include <algorithm>
#include <cmath>

#include "compose/assemble/merge_select.h"
#include "compose/math/operators.h"

namespace motet::assemble {
namespace {

constexpr int64_t kBlock = 256;
constexpr double kSlerpLine = 0.9995;  // |cos| above it: a straight line

// fn(first, count) for each block.
template <typename Fn>
void ForBlocks(int64_t n, Fn fn) {
  for (int64_t at = 0; at < n; at += kBlock) {
    fn(at, std::min(kBlock, n - at));
  }
}

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

}  // namespace

void WeightedSum(const float* base, double base_weight, Models models,
                 Weights weights, int64_t n, float* out) {
  ForBlocks(n, [&](int64_t at, int64_t m) {
    double sum[kBlock];
    for (int64_t i = 0; i < m; ++i) {
      sum[i] = base_weight == 0 ? 0 : base_weight * double{base[at + i]};
    }
    for (size_t j = 0; j < models.size(); ++j) {
      const float* x = models[j] + at;
      const double w = weights[j];
      for (int64_t i = 0; i < m; ++i) sum[i] += w * double{x[i]};
    }
    for (int64_t i = 0; i < m; ++i) {
      out[at + i] = static_cast<float>(sum[i]);
    }
  });
}

SlerpSums& SlerpSums::operator+=(const SlerpSums& other) {
  dot += other.dot;
  aa += other.aa;
  bb += other.bb;
  return *this;
}

SlerpSums SlerpDot(const float* a, const float* b, int64_t n) {
  // Lanes that are summed at the end: one order, and room for vectors.
  constexpr int kLanes = 4;
  double dot[kLanes] = {}, aa[kLanes] = {}, bb[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const double x = a[i + l], y = b[i + l];
      dot[l] += x * y;
      aa[l] += x * x;
      bb[l] += y * y;
    }
  }
  for (; i < n; ++i) {
    dot[0] += double{a[i]} * double{b[i]};
    aa[0] += double{a[i]} * double{a[i]};
    bb[0] += double{b[i]} * double{b[i]};
  }
  SlerpSums sums;
  for (int l = 0; l < kLanes; ++l) sums += {dot[l], aa[l], bb[l]};
  return sums;
}

std::pair<double, double> SlerpWeights(const SlerpSums& sums, double t) {
  const std::pair<double, double> line = {1 - t, t};
  if (sums.aa == 0 || sums.bb == 0) return line;
  const double cosine =
      std::clamp(sums.dot / (std::sqrt(sums.aa) * std::sqrt(sums.bb)), -1.0,
                 1.0);
  if (std::abs(cosine) > kSlerpLine) return line;
  const double theta = std::acos(cosine);
  return {std::sin((1 - t) * theta) / std::sin(theta),
          std::sin(t * theta) / std::sin(theta)};
}

void KeepLargest(const float* base, const Cut& cut, int64_t n, float* model) {
  uint64_t ties = cut.ties;
  ForBlocks(n, [&](int64_t at, int64_t m) {
    bool keep[kBlock];
    uint64_t equal = 0;
    for (int64_t i = 0; i < m; ++i) {
      const uint32_t key = KeyOf(std::abs(model[at + i] - base[at + i]));
      keep[i] = key >= cut.key;
      equal += key == cut.key ? 1 : 0;
    }
    if (equal > ties) {
      for (int64_t i = 0; i < m; ++i) {
        const uint32_t key = KeyOf(std::abs(model[at + i] - base[at + i]));
        if (key != cut.key) continue;
        keep[i] = ties > 0;
        ties -= ties > 0 ? 1 : 0;
      }
    } else {
      ties -= equal;
    }
    for (int64_t i = 0; i < m; ++i) {
      model[at + i] = keep[i] ? model[at + i] : base[at + i];
    }
  });
}

void TiesMean(const float* base, Models models, Weights weights, double lambda,
              int64_t n, float* out) {
  ForBlocks(n, [&](int64_t at, int64_t m) {
    const float* b = base + at;
    double sign[kBlock] = {}, sum[kBlock] = {}, mass[kBlock] = {};
    for (size_t j = 0; j < models.size(); ++j) {
      const float* x = models[j] + at;
      const double w = weights[j];
      for (int64_t i = 0; i < m; ++i) {
        sign[i] += w * (double{x[i]} - double{b[i]});
      }
    }
    for (size_t j = 0; j < models.size(); ++j) {
      const float* x = models[j] + at;
      const double w = weights[j];
      for (int64_t i = 0; i < m; ++i) {
        // tau > 0 with s = +, or tau < 0 with s = -.
        const double agrees =
            sign[i] >= 0 ? (x[i] > b[i] ? w : 0.0) : (x[i] < b[i] ? w : 0.0);
        sum[i] += agrees * double{x[i]};
        mass[i] += agrees;
      }
    }
    for (int64_t i = 0; i < m; ++i) {
      const double mean = sum[i] / (mass[i] > 0 ? mass[i] : 1);
      const double merged = (1 - lambda) * double{b[i]} + lambda * mean;
      out[at + i] = mass[i] > 0 ? static_cast<float>(merged) : b[i];
    }
  });
}

void DropAtRandom(const float* base, uint64_t key, double density,
                  int64_t first, int64_t n, float* model) {
  // density 1 keeps all: 2^53 is above every draw.
  const auto below = static_cast<uint64_t>(density * 9007199254740992.0);
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t draw =
        Mix(key + 0x9E3779B97F4A7C15ull * static_cast<uint64_t>(first + i + 1));
    if (draw >> 11 >= below) model[i] = base[i];
  }
}

uint64_t DareKey(uint64_t seed, uint64_t model, const std::string& tensor) {
  uint64_t name = 0xCBF29CE484222325ull;  // FNV-1a
  for (const char c : tensor) {
    name = (name ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  }
  return Mix(Mix(Mix(seed + 0x9E3779B97F4A7C15ull) ^ model) ^ name);
}

void PcbScores(const float* base, Models models, size_t j,
               const PcbRange& range, int64_t n, float* beta) {
  const double least = double{range.least} * range.least;
  const double width = double{range.most} * range.most - least;
  const double scale =
      width > 0 ? static_cast<double>(models.size()) / width : 0;
  ForBlocks(n, [&](int64_t at, int64_t m) {
    double total[kBlock] = {};
    for (const float* model : models) {
      for (int64_t i = 0; i < m; ++i) {
        total[i] += double{model[at + i]} - double{base[at + i]};
      }
    }
    for (int64_t i = 0; i < m; ++i) {
      const double tau = double{models[j][at + i]} - double{base[at + i]};
      beta[at + i] = static_cast<float>(std::exp(scale * (tau * tau - least)) *
                                        std::tanh(tau * total[i]));
    }
  });
}

void PcbMean(const float* base, Models models,
             std::span<const PcbRange> ranges, double lambda, int64_t n,
             float* out) {
  ForBlocks(n, [&](int64_t at, int64_t m) {
    double sum[kBlock] = {}, mass[kBlock] = {};
    const float* rows[math::kMaxExperts];
    for (size_t j = 0; j < models.size(); ++j) rows[j] = models[j] + at;
    for (size_t j = 0; j < models.size(); ++j) {
      const PcbRange& range = ranges[j];
      float beta[kBlock];
      PcbScores(base + at, {rows, models.size()}, j, range, m, beta);
      const double width = range.high - range.low;
      for (int64_t i = 0; i < m; ++i) {
        const double kept = KeyOf(beta[i]) >= range.key ? beta[i] : 0.0;
        const double h =
            width > 0 ? std::max(0.0, (kept - range.low) / width) : 0;
        const double tau = double{rows[j][i]} - double{base[at + i]};
        const double clip = range.clip;
        sum[i] += h * std::clamp(tau, -clip, clip);
        mass[i] += h;
      }
    }
    for (int64_t i = 0; i < m; ++i) {
      const double b = base[at + i];
      out[at + i] = mass[i] > 0
                        ? static_cast<float>(
                              b + lambda * sum[i] / std::max(mass[i], 1e-12))
                        : base[at + i];
    }
  });
}

void FisherMean(Models models, Models fishers, Weights weights, int64_t n,
                float* out) {
  double all = 0;
  for (const double w : weights) all += w;
  ForBlocks(n, [&](int64_t at, int64_t m) {
    double sum[kBlock] = {}, mass[kBlock] = {}, plain[kBlock] = {};
    for (size_t j = 0; j < models.size(); ++j) {
      const float* x = models[j] + at;
      const float* f = fishers[j] + at;
      const double w = weights[j];
      for (int64_t i = 0; i < m; ++i) {
        sum[i] += w * double{f[i]} * double{x[i]};
        mass[i] += w * double{f[i]};
        plain[i] += w * double{x[i]};
      }
    }
    for (int64_t i = 0; i < m; ++i) {
      out[at + i] = static_cast<float>(
          mass[i] > 0 ? sum[i] / mass[i] : plain[i] / all);
    }
  });
}

}  // namespace motet::assemble
