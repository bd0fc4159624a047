// SPDX-License-Identifier: Apache-2.0
#include "tests/golden/fixtures.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

namespace motet::golden {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> Shared() {
  if (const char* shared = std::getenv("MOTET_SHARED")) return shared;
  if (const char* source = std::getenv("MOTET_SOURCE")) {
    return (fs::path(source) / ".." / "shared").string();
  }
  std::error_code error;
  for (fs::path at = fs::current_path(error); !at.empty();
       at = at.parent_path()) {
    if (fs::is_directory(at / "shared" / "golden", error)) {
      return (at / "shared").string();
    }
    if (at == at.root_path()) break;
  }
  return std::nullopt;
}

template <typename To, typename From>
std::vector<To> Cast(const math::Tensor& t) {
  const From* values = static_cast<const From*>(t.data);
  return std::vector<To>(values, values + t.size());
}

}  // namespace

std::optional<std::string> Folder() {
  std::string folder;
  if (const char* golden = std::getenv("MOTET_GOLDEN")) {
    folder = golden;
  } else if (const auto shared = Shared()) {
    folder = *shared + "/golden";
  }
  std::error_code error;
  if (folder.empty() || !fs::is_directory(folder, error)) return std::nullopt;
  return folder;
}

Fixture::Fixture(const std::string& stem) : stem_(stem) {
  const std::string path = *Folder() + "/" + stem;
  auto file = package::SafetensorsFile::Open(path + ".safetensors");
  if (!file.ok()) {
    ADD_FAILURE() << file.status();
    return;
  }
  file_ = *std::move(file);
  std::ifstream json(path + ".json");
  meta_ = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  EXPECT_TRUE(meta_.is_object()) << path << ".json";
}

bool Fixture::Has(const std::string& name) const {
  return !file_->Find(name).empty();
}

math::Tensor Fixture::Get(const std::string& name) const {
  const math::Tensor t = file_->Find(name);
  EXPECT_FALSE(t.empty()) << "no tensor " << name << " in " << stem_;
  return t;
}

math::Shape Fixture::ShapeOf(const std::string& name) const {
  return Get(name).shape;
}

std::vector<double> Fixture::Doubles(const std::string& name) const {
  const math::Tensor t = Get(name);
  if (t.empty()) return {};
  if (t.dtype == math::DType::kF32) return Cast<double, float>(t);
  EXPECT_EQ(t.dtype, math::DType::kF64) << name;
  return Cast<double, double>(t);
}

std::vector<float> Fixture::Floats(const std::string& name) const {
  const std::vector<double> doubles = Doubles(name);
  return std::vector<float>(doubles.begin(), doubles.end());
}

std::vector<int32_t> Fixture::Ids(const std::string& name) const {
  const math::Tensor t = Get(name);
  if (t.empty()) return {};
  if (t.dtype == math::DType::kI32) return Cast<int32_t, int32_t>(t);
  EXPECT_EQ(t.dtype, math::DType::kI64) << name;
  return Cast<int32_t, int64_t>(t);
}

double RelativeError(std::span<const float> got, std::span<const double> want) {
  if (got.size() != want.size()) {
    return std::numeric_limits<double>::infinity();
  }
  double worst = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(got[i] - want[i]));
    largest = std::max(largest, std::abs(want[i]));
  }
  return worst == 0 ? 0 : worst / largest;
}

testing::AssertionResult Close(std::span<const float> got,
                               std::span<const double> want, double tolerance) {
  const double error = RelativeError(got, want);
  if (error <= tolerance) return testing::AssertionSuccess() << error;
  return testing::AssertionFailure()
         << "differs by " << error << " of the largest value, tolerance "
         << tolerance << " (" << got.size() << " against " << want.size()
         << " values)";
}

}  // namespace motet::golden
