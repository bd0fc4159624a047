// SPDX-License-Identifier: Apache-2.0
// Fixtures of the independent implementation: where they lie, their tensors
// in the types that we compute with, and the comparison at a tolerance.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compose/package/safetensors.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace motet::golden {

// $MOTET_GOLDEN; else the folder golden of $MOTET_SHARED, or of the folder
// `shared` beside the source tree. Nothing when there is none.
std::optional<std::string> Folder();

// A test that needs fixtures begins with this.
#define MOTET_GOLDEN_OR_SKIP()                                        \
  if (!::motet::golden::Folder()) {                                   \
    GTEST_SKIP() << "no fixtures: set MOTET_GOLDEN to a folder that " \
                    "shared/golden/generate.py wrote";                \
  }

// STEM.safetensors and STEM.json below the folder. A missing tensor fails
// the test and comes back empty.
class Fixture {
 public:
  explicit Fixture(const std::string& stem);
  bool ok() const { return file_ != nullptr; }
  bool Has(const std::string& name) const;
  math::Shape ShapeOf(const std::string& name) const;
  std::vector<double> Doubles(const std::string& name) const;
  std::vector<float> Floats(const std::string& name) const;
  std::vector<int32_t> Ids(const std::string& name) const;  // I64, I32
  const nlohmann::json& meta() const { return meta_; }

 private:
  math::Tensor Get(const std::string& name) const;
  std::string stem_;
  std::shared_ptr<const package::SafetensorsFile> file_;
  nlohmann::json meta_;
};

// max |got - want| / max |want|; infinite when sizes differ or got is not
// finite.
double RelativeError(std::span<const float> got, std::span<const double> want);
// Passes when that is at most the tolerance; says what it was otherwise.
testing::AssertionResult Close(std::span<const float> got,
                               std::span<const double> want, double tolerance);
inline std::span<const float> Values(const math::Tensor& t) {
  return {t.f32(), static_cast<size_t>(t.size())};
}

}  // namespace motet::golden
