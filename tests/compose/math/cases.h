// SPDX-License-Identifier: Apache-2.0
// One random case of every operator, for the tests that iterate the table.
// Enters: a seed. Leaves: inputs of odd shapes, and how to run the operator
// forwards and backwards on any Kernels. An operator without a case does not
// compile (OpCase has no primary definition).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "compose/math/operators.h"

namespace motet::math {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t Int(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  float Normal() { return std::normal_distribution<float>()(engine_); }
  bool Flip() { return Int(0, 1) == 1; }

 private:
  std::mt19937_64 engine_;
};

// Owns what the tensors of one case point to.
class Pool {
 public:
  Tensor Zeros(const Shape& shape, DType dtype = DType::kF32);
  Tensor Normal(const Shape& shape, Random& random, float scale = 1.0f);
  Tensor Copy(const Tensor& t);

 private:
  std::deque<std::vector<uint64_t>> memory_;
};

using Numbers = std::vector<double>;

struct Case {
  Pool pool;
  // Differentiable inputs; the gradient test nudges them where they lie.
  std::vector<Tensor> inputs;
  // All outputs, one after the other.
  std::function<Numbers(const Kernels&, Case&)> forward;
  // d[i] += gradient of sum(cotangent . outputs) by inputs[i]; d[i] may be
  // empty. Called after forward on the same kernels.
  std::function<void(const Kernels&, Case&, const Numbers& cotangent,
                     std::vector<Tensor>& d)>
      backward;
  double step = 1e-2;       // of finite differences, in f32
  double tolerance = 5e-3;  // relative to the largest gradient
};

void Append(const Tensor& t, Numbers& numbers);
Numbers Values(const Tensor& t);
std::vector<int32_t> RandomRows(Random& random, int64_t count, int64_t below);
// Values that closures of one case share.
template <typename T>
std::shared_ptr<T> Keep(T value) {
  return std::make_shared<T>(std::move(value));
}
Tensor FromNumbers(const Numbers& numbers, int64_t offset, const Shape& shape,
                   Pool& pool);

template <OpId id>
struct OpCase;  // static void Make(Random& random, Case& c);

struct CaseMaker {
  const OpInfo& info;
  void (*make)(Random&, Case&);
};
// One for each operator, in the table's order.
std::vector<CaseMaker> AllCases();

}  // namespace motet::math
