// SPDX-License-Identifier: Apache-2.0
// Model directories behind the gate, the engine and the HTTP routes: who the
// experts are, which a query can leave out, and that what is served without
// one is what the reference computes without it.
#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/time/clock.h"
#include "compose/assemble/served_model.h"
#include "compose/package/safetensors.h"
#include "coordinator/engine.h"
#include "coordinator/http/front.h"
#include "coordinator/policy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/harness/model_directory.h"

namespace motet::coordinator {
namespace {

using motet::testing::DirectoryOptions;
using motet::testing::WriteModelDirectory;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A directory of its own, gone with the object.
class Directory {
 public:
  explicit Directory(const std::string& family = "") {
    math::SetThreads(1);
    folder_ = ::testing::TempDir() + "directoryXXXXXX";
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    if (family.empty()) return;
    DirectoryOptions options;
    options.family = family;
    WriteModelDirectory(path(), options);
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string path() const { return folder_ + "/tiny"; }
  std::unique_ptr<assemble::ServedModel> Load() const {
    auto model = assemble::LoadDirectory(path());
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

 private:
  std::string folder_;
};

absl::StatusOr<Admission> Admit(const assemble::ServedModel& model,
                                const std::vector<std::string>& include,
                                const std::vector<std::string>& exclude) {
  v1::ExpertSelection selection;
  for (const auto& name : include) selection.add_include(name);
  for (const auto& name : exclude) selection.add_exclude(name);
  return PolicyGate(model, {}).Admit(selection, "", "", absl::Now());
}

TEST(DirectoryTest, DenseModelHasNoExperts) {
  const Directory directory("llama");
  const auto model = directory.Load();
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->name, "tiny");
  EXPECT_EQ(model->lock_sha256, "");
  EXPECT_THAT(model->experts, IsEmpty());
  const auto admission = Admit(*model, {}, {});
  ASSERT_TRUE(admission.ok()) << admission.status();
  EXPECT_THAT(admission->experts(), IsEmpty());
  EXPECT_EQ(admission->set_sha256(), "");
  for (const char* name : {"0", "base", "code"}) {
    const auto refused = Admit(*model, {}, {name});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr("no experts"));
  }
}

TEST(DirectoryTest, FlexOlmoKeepsItsPublicExpert) {
  const Directory directory("flex_olmo");
  const auto model = directory.Load();
  ASSERT_NE(model, nullptr);
  EXPECT_THAT(model->Names(model->All()), ElementsAre("0", "1", "2", "3"));
  const auto without = Admit(*model, {}, {"2"});
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_EQ(without->mask(), math::ExpertMask{0b1011});
  EXPECT_THAT(without->experts(), ElementsAre("0", "1", "3"));
  EXPECT_EQ(Admit(*model, {"3"}, {})->mask(), math::ExpertMask{0b1001});
  EXPECT_EQ(Admit(*model, {}, {"1", "2", "3"})->mask(), math::ExpertMask{1});
  for (const char* name : {"0", "base"}) {
    const auto refused = Admit(*model, {}, {"1", name});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr("public expert"));
  }
  for (const char* name : {"4", "-1", "00", "", "expert 1"}) {
    EXPECT_EQ(Admit(*model, {}, {name}).status().code(),
              absl::StatusCode::kNotFound)
        << name;
  }
}

TEST(DirectoryTest, WithoutATokenizerIsAnError) {
  const Directory directory("llama");
  std::filesystem::remove(directory.path() + "/tokenizer.json");
  const auto model = assemble::LoadDirectory(directory.path());
  EXPECT_EQ(model.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("tokenizer.json"));
}

// What an echo with log-probabilities says of a prompt.
std::vector<double> Scores(const assemble::ServedModel& model,
                           const std::vector<int32_t>& ids,
                           const std::vector<std::string>& exclude,
                           int prefill_rows) {
  v1::GenerationRequest request;
  for (const int32_t id : ids) request.add_prompt_ids(id);
  request.set_echo(true);
  request.set_top_p(1);
  const auto admission = Admit(model, {}, exclude);
  EXPECT_TRUE(admission.ok()) << admission.status();
  std::vector<double> scores;
  Engine engine(model, {.prefill_rows = prefill_rows});
  const absl::Status status = engine.Generate(
      request, *admission, [&](const v1::GenerationEvent& event) {
        if (event.has_token() && event.token().has_logprob()) {
          scores.push_back(event.token().logprob());
        }
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  return scores;
}

// The reference's logits of FlexOlmo with experts removed, through the path
// of a served request.
TEST(DirectoryTest, GoldenFlexOlmoWithoutExperts) {
  const char* shared = getenv("MOTET_SHARED");
  const char* source = getenv("MOTET_SOURCE");
  const std::string golden =
      (shared != nullptr   ? std::string(shared)
       : source != nullptr ? std::string(source) + "/../shared"
                           : "../shared") +
      "/golden/models/flex_olmo";
  if (!std::filesystem::exists(golden + "/golden.safetensors")) {
    GTEST_SKIP() << "no reference fixtures";
  }
  const Directory directory;
  std::filesystem::create_directories(directory.path());
  for (const char* name : {"/config.json", "/model.safetensors"}) {
    std::filesystem::copy_file(golden + name, directory.path() + name);
  }
  // The fixture has ids alone; any tokenizer will do.
  std::ofstream(directory.path() + "/tokenizer.json")
      << motet::testing::ByteTokenizerJson();
  const auto model = directory.Load();
  ASSERT_NE(model, nullptr);
  const auto file =
      package::SafetensorsFile::Open(golden + "/golden.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const math::Tensor prompts = (*file)->Find("input_ids");
  ASSERT_EQ(prompts.shape.rank, 2);
  int compared = 0;
  for (const auto& entry : (*file)->entries()) {
    // logits.only_0_2: of the model with experts 0 and 2 alone.
    const std::string name(entry.name);
    if (name.rfind("logits.only", 0) != 0) continue;
    SCOPED_TRACE(name);
    std::vector<std::string> exclude;
    for (int e = 0; e < 4; ++e) {
      const std::string index = std::to_string(e);
      if (name.find("_" + index) == std::string::npos) exclude.push_back(index);
    }
    const int64_t length = prompts.shape.dim[1];
    for (int64_t b = 0; b < prompts.shape.dim[0]; ++b) {
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < length; ++t) {
        ids.push_back(static_cast<int32_t>(
            static_cast<const int64_t*>(prompts.data)[b * length + t]));
      }
      const std::vector<double> scores = Scores(*model, ids, exclude, 256);
      EXPECT_EQ(scores, Scores(*model, ids, exclude, 5)) << "in pieces";
      ASSERT_EQ(scores.size(), ids.size() - 1);
      for (int64_t t = 1; t < length; ++t) {
        const int64_t vocabulary = model->config.vocabulary;
        const float* row =
            entry.tensor.f32() + (b * length + t - 1) * vocabulary;
        double sum = 0;
        for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(row[v]);
        EXPECT_NEAR(scores[t - 1], row[ids[t]] - std::log(sum), 1e-4);
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 0);
}

}  // namespace
}  // namespace motet::coordinator
