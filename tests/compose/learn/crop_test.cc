// SPDX-License-Identifier: Apache-2.0
// Training of an encoder by random crops: every tensor's gradient against
// differences of the loss, what crops are, what is learned, and runs that end
// with the same bits whatever threads and interruptions they had.
#include "compose/learn/crop_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "compose/learn/hash.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using math::Tensor;
using ::testing::HasSubstr;
using Documents = std::vector<std::vector<int32_t>>;

constexpr int32_t kBegin = 2, kEnd = 3;

model::EncoderConfig Config() {
  model::EncoderConfig config;
  config.vocabulary = 64;
  config.width = 16;
  config.layers = 2;
  config.heads = 2;
  config.ffn_width = 24;
  config.max_positions = 32;
  config.token_types = 2;
  return config;
}

CropOptions Options() {
  CropOptions options;
  options.steps = 60;
  options.batch_documents = 16;
  options.crop_least = 4;
  options.crop_most = 12;
  options.begin = kBegin;
  options.end = kEnd;
  options.learning_rate = 5e-3;
  return options;
}

// Each of `count` documents draws its ids from five that are its own
// combination; the same `seed`, the same combinations.
Documents Topics(int64_t count, uint64_t seed) {
  Documents documents;
  for (int64_t d = 0; d < count; ++d) {
    std::vector<int32_t>& ids = documents.emplace_back();
    for (int64_t i = 0; i < 30; ++i) {
      const auto place = static_cast<uint64_t>(d * 1000 + i);
      const uint64_t which = Mix(seed ^ place) % 5;
      ids.push_back(static_cast<int32_t>(
          4 + Mix(static_cast<uint64_t>(d) * 8 + which) % 60));
    }
  }
  return documents;
}

TEST(Crops, AreSpansOfOneDocumentWithinTheirLimits) {
  const Documents documents = Topics(20, 1);
  CropOptions options = Options();
  options.crop_share = 0.3;  // 9 of 30
  std::set<size_t> sizes;
  for (int64_t step = 0; step < 8; ++step) {
    const CropBatch batch = CropBatchAt(documents, options, step);
    ASSERT_EQ(batch.queries.size(), 16u);
    std::set<int64_t> taken;
    for (size_t b = 0; b < batch.queries.size(); ++b) {
      std::vector<int64_t> homes[2];
      int side = 0;
      for (const auto& crop : {batch.queries[b], batch.documents[b]}) {
        EXPECT_EQ(crop.front(), kBegin);
        EXPECT_EQ(crop.back(), kEnd);
        EXPECT_THAT(crop.size() - 2, ::testing::AllOf(::testing::Ge(4u),
                                                      ::testing::Le(9u)));
        sizes.insert(crop.size() - 2);
        for (size_t d = 0; d < documents.size(); ++d) {
          if (std::search(documents[d].begin(), documents[d].end(),
                          crop.begin() + 1,
                          crop.end() - 1) != documents[d].end()) {
            homes[side].push_back(static_cast<int64_t>(d));
          }
        }
        ++side;
      }
      std::vector<int64_t> both;
      std::set_intersection(homes[0].begin(), homes[0].end(),
                            homes[1].begin(), homes[1].end(),
                            std::back_inserter(both));
      ASSERT_FALSE(both.empty());
      if (both.size() == 1) {
        EXPECT_TRUE(taken.insert(both[0]).second);
      }
    }
  }
  EXPECT_EQ(sizes.size(), 6u);  // 4 to 9
}

TEST(Crops, GradientsOfEveryTensorAreTheLosssSlopes) {
  OwnedEncoder owned = InitialEncoder(Config(), 3);
  // Away from the start, where types and biases are all alike.
  for (Parameter& p : EncoderParameters(owned)) {
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] += static_cast<float>(
          0.2 * Normal(Fnv1a(p.name), static_cast<uint64_t>(i)));
    }
  }
  const auto encoder =
      model::Encoder::Create(owned.config, owned.weights, true);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  CropOptions options = Options();
  options.batch_documents = 6;
  options.temperature = 0.2;
  const CropBatch batch = CropBatchAt(Topics(6, 1), options, 0);
  CropStepper stepper(*encoder, EncoderParameters(owned), options,
                      math::Reference());
  CropStepper fast(*encoder, EncoderParameters(owned), options);
  const StepResult result = stepper.Gradients(batch);
  // Without a recorder sums are fused and round otherwise.
  EXPECT_NEAR(result.loss, stepper.Loss(batch), 1e-6);
  fast.Gradients(batch);
  for (size_t n = 0; n < stepper.optimizer().items().size(); ++n) {
    const Optimizer::Item& item = stepper.optimizer().items()[n];
    Tensor value = item.parameter.value;
    double length = 0, difference = 0;
    for (int64_t i = 0; i < value.size(); ++i) {
      const double g = item.gradient.f32()[i];
      const double f = fast.optimizer().items()[n].gradient.f32()[i];
      length += g * g;
      difference += (g - f) * (g - f);
    }
    length = std::sqrt(length);
    // A key's bias moves all scores of a row alike: no slope.
    if (item.parameter.name.ends_with("key.bias")) {
      EXPECT_LT(length, 1e-5) << item.parameter.name;
      continue;
    }
    ASSERT_GT(length, 1e-4) << item.parameter.name;
    EXPECT_LT(std::sqrt(difference), 1e-3 * length) << item.parameter.name;
    // Along the gradient and along a random direction.
    const std::vector<float> saved(value.f32(), value.f32() + value.size());
    for (const bool random : {false, true}) {
      std::vector<double> along;
      double square = 0, slope = 0;
      for (int64_t i = 0; i < value.size(); ++i) {
        along.push_back(random ? Normal(7, static_cast<uint64_t>(i))
                               : item.gradient.f32()[i]);
        square += along.back() * along.back();
      }
      for (int64_t i = 0; i < value.size(); ++i) {
        along[static_cast<size_t>(i)] /= std::sqrt(square);
        slope += along[static_cast<size_t>(i)] * item.gradient.f32()[i];
      }
      const auto loss_at = [&](double s) {
        for (size_t i = 0; i < saved.size(); ++i) {
          value.f32()[i] = static_cast<float>(saved[i] + s * along[i]);
        }
        return stepper.Loss(batch);
      };
      const double h = 1e-2;
      const double measured = (loss_at(h) - loss_at(-h)) / (2 * h);
      std::copy(saved.begin(), saved.end(), value.f32());
      EXPECT_NEAR(measured, slope, 5e-3 * length + 2e-5)
          << item.parameter.name << (random ? ", random" : "");
    }
  }
}

// How often the second crop of a document is nearest to its first one.
double Found(const OwnedEncoder& owned, const Documents& documents) {
  const auto encoder =
      model::Encoder::Create(owned.config, owned.weights, true);
  EXPECT_TRUE(encoder.ok());
  CropOptions options = Options();
  options.batch_documents = std::ssize(documents);
  options.seed = 99;
  const CropBatch batch = CropBatchAt(documents, options, 0);
  const auto vectors = [&](const Documents& crops) {
    std::vector<model::EncoderInput> inputs;
    for (const auto& ids : crops) inputs.push_back({ids, {}});
    std::vector<float> out(crops.size() *
                           static_cast<size_t>(owned.config.width));
    EXPECT_TRUE(encoder
                    ->Encode(math::Cpu(), math::Product::kExact, inputs,
                             nullptr, out.data())
                    .ok());
    return out;
  };
  const std::vector<float> q = vectors(batch.queries),
                           d = vectors(batch.documents);
  const auto width = static_cast<size_t>(owned.config.width);
  int64_t found = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    std::vector<double> scores(documents.size());
    for (size_t j = 0; j < documents.size(); ++j) {
      for (size_t c = 0; c < width; ++c) {
        scores[j] += q[i * width + c] * d[j * width + c];
      }
    }
    found += std::max_element(scores.begin(), scores.end()) ==
             scores.begin() + static_cast<int64_t>(i);
  }
  return static_cast<double>(found) / static_cast<double>(documents.size());
}

TEST(Crops, LossFallsAndUnseenDocumentsAreFound) {
  OwnedEncoder owned = InitialEncoder(Config(), 1);
  const Documents all = Topics(240, 1);
  const Documents train(all.begin(), all.begin() + 200);
  const Documents held_out(all.begin() + 200, all.end());
  CropOptions options = Options();
  options.steps = 200;
  const auto result = TrainEncoder(owned, train, options, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LT(result->loss_curve.back(), 0.5 * result->loss_curve.front());
  EXPECT_EQ(result->steps, 200);
  EXPECT_GT(Found(owned, held_out), 0.5);  // by chance: 1 of 40
}

std::vector<float> Numbers(OwnedEncoder& owned) {
  std::vector<float> all;
  for (const Parameter& p : EncoderParameters(owned)) {
    all.insert(all.end(), p.value.f32(), p.value.f32() + p.value.size());
  }
  return all;
}

TEST(Crops, SameBitsForAnyThreadsAndInterruptions) {
  const Documents documents = Topics(40, 1);
  CropOptions options = Options();
  options.steps = 12;
  OwnedEncoder whole = InitialEncoder(Config(), 1);
  const auto all = TrainEncoder(whole, documents, options, nullptr);
  ASSERT_TRUE(all.ok()) << all.status();

  const std::string path = ::testing::TempDir() + "crop.safetensors";
  std::filesystem::remove(path);
  options.checkpoint_path = path;
  options.checkpoint_every = 5;
  const int threads = math::Threads();
  math::SetThreads(1);
  OwnedEncoder parts = InitialEncoder(Config(), 1);
  const auto stopped =
      TrainEncoder(parts, documents, options,
                   [](const TrainProgress& p) { return p.step != 7; });
  EXPECT_EQ(stopped.status().code(), absl::StatusCode::kCancelled);
  math::SetThreads(threads);
  parts = InitialEncoder(Config(), 1);
  int64_t first = 0;
  const auto resumed = TrainEncoder(parts, documents, options,
                                    [&](const TrainProgress& p) {
                                      if (first == 0) first = p.step;
                                      return true;
                                    });
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(first, 8);
  EXPECT_EQ(resumed->tokens, all->tokens);
  const std::vector<float> a = Numbers(whole), b = Numbers(parts);
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);

  options.temperature = 0.1;  // another run
  const auto other = TrainEncoder(parts, documents, options, nullptr);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("temperature"));
  std::filesystem::remove(path);
}

TEST(Crops, EverythingThatIsWrongIsNamed) {
  OwnedEncoder owned = InitialEncoder(Config(), 1);
  CropOptions options = Options();
  options.steps = 0;
  options.batch_documents = 1;
  options.crop_most = 31;
  options.begin = 64;
  options.temperature = 0;
  const auto result = TrainEncoder(owned, {{5, 6, 7}, {5, 6, 7, 8}}, options,
                                   nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* part :
       {"0 steps", "batches of 1", "crops of 31 tokens (want at most 30",
        "[CLS] and [SEP] as 64", "temperature 0",
        "document 0 of 3 tokens (want at least 4"}) {
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(part));
  }
  EXPECT_THAT(
      std::string(
          TrainEncoder(owned, {}, Options(), nullptr).status().message()),
      HasSubstr("0 documents of a crop's length (want at least 2)"));
}

}  // namespace
}  // namespace motet::learn
