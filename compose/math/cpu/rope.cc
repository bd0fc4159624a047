// SPDX-License-Identifier: Apache-2.0
// Formula: reference/rope.cc. Angles are a function of position and
// frequencies alone, so their cosines and sines are remembered between calls;
// what is remembered never changes a result.
#include <algorithm>
#include <cmath>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kMaxRemembered = 1 << 22;  // floats of one table
constexpr size_t kMaxTables = 8;

using Frequencies = std::span<const double>;

void Angles(int64_t position, Frequencies frequencies, float* cosine,
            float* sine) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double angle = position * frequencies[i];
    cosine[i] = static_cast<float>(std::cos(angle));
    sine[i] = static_cast<float>(std::sin(angle));
  }
}

// Rows of head_dim floats, cosines then sines, for positions from 0 on.
struct AngleTable {
  std::vector<double> frequencies;
  int64_t positions;
  std::vector<float> values;
};

std::shared_ptr<const AngleTable> Remembered(int64_t positions,
                                             Frequencies frequencies) {
  const int64_t half = static_cast<int64_t>(frequencies.size());
  static std::mutex mutex;
  static std::list<std::shared_ptr<const AngleTable>> tables;
  std::lock_guard<std::mutex> lock(mutex);
  for (auto it = tables.begin(); it != tables.end(); ++it) {
    if (!std::ranges::equal((*it)->frequencies, frequencies)) continue;
    if ((*it)->positions >= positions) return *it;
    tables.erase(it);
    break;
  }
  auto table = std::make_shared<AngleTable>();
  table->frequencies.assign(frequencies.begin(), frequencies.end());
  table->positions = 128;
  while (table->positions < positions) table->positions *= 2;
  table->values.resize(table->positions * 2 * half);
  ForPieces(table->positions, 64, [&](int64_t b, int64_t e) {
    for (int64_t p = b; p < e; ++p) {
      float* row = table->values.data() + p * 2 * half;
      Angles(p, frequencies, row, row + half);
    }
  });
  tables.push_front(table);
  if (tables.size() > kMaxTables) tables.pop_back();
  return table;
}

void Rotate(const Tensor& x, std::span<const int32_t> positions,
            Frequencies frequencies, float sign, bool accumulate, Tensor y) {
  const int64_t cols = x.cols();
  const int64_t half = static_cast<int64_t>(frequencies.size());
  const int64_t head_dim = 2 * half;
  int64_t last = 0;
  for (int32_t p : positions) last = std::max<int64_t>(last, p);
  std::shared_ptr<const AngleTable> table;
  if ((last + 1) * head_dim <= kMaxRemembered) {
    table = Remembered(last + 1, frequencies);
  }
  ForPieces(x.rows(), RowsPerPiece(cols), [&](int64_t b, int64_t e) {
    std::vector<float> own(table == nullptr ? head_dim : 0);
    for (int64_t m = b; m < e; ++m) {
      const float* angles = own.data();
      if (table != nullptr) {
        angles = table->values.data() + positions[m] * head_dim;
      } else {
        Angles(positions[m], frequencies, own.data(), own.data() + half);
      }
      Active().rope(x.f32() + m * cols, cols, head_dim, angles,
                    angles + half, sign, accumulate, y.f32() + m * cols);
    }
  });
}

}  // namespace

void Rope(const Tensor& x, std::span<const int32_t> positions,
          std::span<const double> frequencies, Tensor y) {
  Rotate(x, positions, frequencies, 1.0f, false, y);
}

void RopeBackward(const Tensor& dy, std::span<const int32_t> positions,
                  std::span<const double> frequencies, Tensor dx) {
  if (dx.empty()) return;
  Rotate(dy, positions, frequencies, -1.0f, !dx.fresh, dx);
}

}  // namespace motet::math::cpu
