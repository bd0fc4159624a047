// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/crop_run.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/adapter_step.h"
#include "compose/learn/contrastive_loop.h"
#include "compose/learn/hash.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using math::Tensor;

constexpr double kInitialDeviation = 0.02;

// What draws are for: streams of one seed that have nothing to do with each
// other.
enum Stream : uint64_t { kOrder = 0x63726f70, kCrop };

uint64_t Draw(uint64_t seed, Stream stream, uint64_t index) {
  return Mix(Mix(seed ^ Mix(stream)) ^ index);
}

// A crop with its special tokens: length and place are uniform.
std::vector<int32_t> Crop(const std::vector<int32_t>& ids, const CropOptions& o,
                          uint64_t drawn) {
  const int64_t size = std::ssize(ids);
  const auto share =
      static_cast<int64_t>(o.crop_share * static_cast<double>(size));
  const int64_t most =
      std::clamp(share, o.crop_least, std::min(o.crop_most, size));
  const auto below = [&](uint64_t salt, int64_t n) {
    return static_cast<int64_t>(Mix(drawn ^ Mix(salt)) %
                                static_cast<uint64_t>(n));
  };
  const int64_t length = o.crop_least + below(1, most - o.crop_least + 1);
  const int64_t first = below(2, size - length + 1);
  std::vector<int32_t> crop = {o.begin};
  crop.insert(crop.end(), ids.begin() + first, ids.begin() + first + length);
  crop.push_back(o.end);
  return crop;
}

model::EncoderBatch Packed(const std::vector<std::vector<int32_t>>& texts) {
  std::vector<model::EncoderInput> inputs;
  for (const auto& ids : texts) inputs.push_back({ids, {}});
  return model::EncoderBatch(inputs);
}

absl::Status Wrong(const std::vector<std::string>& reasons) {
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("training of an encoder", absl::StrJoin(reasons, "; "),
                        "options and documents that fit each other",
                        "correct the options");
}

std::vector<std::string> Reasons(const CropOptions& o, int64_t max_positions) {
  std::vector<std::string> reasons = WrongOptions(o);
  const auto want = [&](bool fine, const auto&... reason) {
    if (!fine) reasons.push_back(absl::StrCat(reason...));
  };
  want(o.batch_documents >= 2, "batches of ", o.batch_documents,
       " documents (want at least 2: the others are the negatives)");
  want(o.crop_least >= 1, "crops of ", o.crop_least,
       " tokens (want at least 1)");
  want(o.crop_most >= o.crop_least, "crops of at most ", o.crop_most,
       " tokens (want at least ", o.crop_least, ", the shortest)");
  want(o.crop_most + 2 <= max_positions, "crops of ", o.crop_most,
       " tokens (want at most ", max_positions - 2,
       ": the encoder's positions less [CLS] and [SEP])");
  want(o.crop_share > 0 && o.crop_share <= 1, "crops of at most ", o.crop_share,
       " of a document (want above 0, at most 1)");
  return reasons;
}

absl::Status Check(const model::Encoder& encoder,
                   const std::vector<std::vector<int32_t>>& documents,
                   const CropOptions& o) {
  std::vector<std::string> reasons = Reasons(o, encoder.config().max_positions);
  const int64_t vocabulary = encoder.config().vocabulary;
  const auto known = [&](int32_t id) { return id >= 0 && id < vocabulary; };
  if (!known(o.begin) || !known(o.end)) {
    reasons.push_back(absl::StrCat("[CLS] and [SEP] as ", o.begin, " and ",
                                   o.end, " (want ids below ", vocabulary,
                                   ")"));
  }
  if (documents.size() < 2) {
    reasons.push_back(absl::StrCat(
        documents.size(), " documents of a crop's length (want at least 2)"));
  }
  for (size_t i = 0; i < documents.size(); ++i) {
    if (std::ssize(documents[i]) >= o.crop_least &&
        std::all_of(documents[i].begin(), documents[i].end(), known)) {
      continue;
    }
    reasons.push_back(absl::StrCat("document ", i, " of ", documents[i].size(),
                                   " tokens (want at least ", o.crop_least,
                                   ", ids below ", vocabulary, ")"));
    break;
  }
  return Wrong(reasons);
}

Description Describe(const OwnedEncoder& encoder,
                     const std::vector<std::vector<int32_t>>& documents,
                     const CropOptions& o) {
  const auto exact = [](double value) {
    return absl::StrFormat("%.17g", value);
  };
  Fingerprint sum;
  for (const auto& ids : documents) {
    sum.Add(static_cast<uint64_t>(ids.size()));
    sum.Add(ids.data(), std::ssize(ids) * int64_t{sizeof(ids[0])});
  }
  const model::EncoderConfig& c = encoder.config;
  Description lines = {
      "run = an encoder by random crops",
      absl::StrCat("shape = ",
                   absl::StrJoin({c.vocabulary, c.width, c.layers, c.heads,
                                  c.ffn_width, c.max_positions, c.token_types},
                                 " ")),
      absl::StrCat("batch_documents = ", o.batch_documents),
      absl::StrCat("crop = ", o.crop_least, " ", o.crop_most, " ",
                   exact(o.crop_share)),
      absl::StrCat("special = ", o.begin, " ", o.end),
      absl::StrCat("data = ", documents.size(), " documents ", sum.Hex())};
  for (std::string& line : Describe(o)) lines.push_back(std::move(line));
  return lines;
}

}  // namespace

absl::Status CheckCropOptions(const CropOptions& options,
                              int64_t max_positions) {
  return Wrong(Reasons(options, max_positions));
}

OwnedEncoder InitialEncoder(const model::EncoderConfig& config, uint64_t seed) {
  OwnedEncoder owned;
  owned.config = config;
  model::VisitEncoderWeights(
      config, owned.weights,
      [&](const std::string& name, const math::Shape& shape, Tensor& tensor) {
        owned.storage.push_back(
            std::make_unique<float[]>(static_cast<size_t>(shape.size())));
        float* data = owned.storage.back().get();
        tensor = {data, math::DType::kF32, math::Device::kCpu, shape};
        if (shape.rank < 2) {
          std::fill(data, data + shape.size(),
                    name.ends_with(".weight") ? 1.0f : 0.0f);
          return;
        }
        const uint64_t stream = Mix(seed ^ Fnv1a(name));
        for (int64_t i = 0; i < shape.size(); ++i) {
          data[i] = static_cast<float>(
              kInitialDeviation * Normal(stream, static_cast<uint64_t>(i)));
        }
      });
  return owned;
}

std::vector<Parameter> EncoderParameters(OwnedEncoder& encoder) {
  std::vector<Parameter> parameters;
  model::VisitEncoderWeights(
      encoder.config, encoder.weights,
      [&](const std::string& name, const math::Shape& shape, Tensor& tensor) {
        parameters.push_back({name, tensor, tensor, shape.rank >= 2});
      });
  return parameters;
}

CropBatch CropBatchAt(const std::vector<std::vector<int32_t>>& documents,
                      const CropOptions& options, int64_t step) {
  const int64_t count = std::ssize(documents);
  const int64_t size = std::min(options.batch_documents, count);
  // Whole batches each time round, so that no document is in one twice.
  const int64_t a_round = count / size;
  const auto round = static_cast<uint64_t>(step / a_round);
  CropBatch batch;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t place = step % a_round * size + i;
    const int64_t index =
        Shuffled(place, count, Draw(options.seed, kOrder, round));
    const uint64_t drawn =
        Draw(options.seed, kCrop,
             Mix(static_cast<uint64_t>(step)) ^ static_cast<uint64_t>(index));
    const auto& ids = documents[static_cast<size_t>(index)];
    batch.queries.push_back(Crop(ids, options, Mix(drawn ^ 1)));
    batch.documents.push_back(Crop(ids, options, Mix(drawn ^ 2)));
  }
  return batch;
}

CropStepper::CropStepper(const model::Encoder& encoder,
                         std::vector<Parameter> parameters,
                         const CropOptions& options,
                         const math::Kernels& kernels)
    : encoder_(encoder),
      temperature_(options.temperature),
      clip_norm_(options.clip_norm),
      weight_decay_(options.weight_decay),
      product_(options.product),
      kernels_(kernels),
      results_(kStepArenaBlock),
      gradients_(kStepArenaBlock),
      tape_(gradients_),
      optimizer_(std::move(parameters), tape_, 0.999f) {}

double CropStepper::Forward(const CropBatch& batch, math::Recorder* recorder) {
  results_.Reset();
  const model::EncoderBatch queries = Packed(batch.queries);
  const model::EncoderBatch documents = Packed(batch.documents);
  math::Exec exec(kernels_, results_, product_, recorder);
  const Tensor q =
      encoder_.Pool(exec, queries, encoder_.Forward(exec, queries));
  const Tensor d =
      encoder_.Pool(exec, documents, encoder_.Forward(exec, documents));
  math::Exec head(kernels_, results_, math::Product::kExact, recorder);
  const Tensor scores = head.Linear(q, d);
  const size_t count = batch.queries.size();
  std::vector<int32_t> targets(count);
  std::iota(targets.begin(), targets.end(), 0);
  const std::vector<uint8_t> masked(count * count, 0);
  const double loss = ContrastiveLoss(
      scores, targets, masked, temperature_, static_cast<int64_t>(count),
      recorder != nullptr ? recorder->Gradient(scores) : Tensor{});
  // Batches are read once more on the way back.
  if (recorder != nullptr) tape_.Backward();
  return loss;
}

double CropStepper::Loss(const CropBatch& batch) {
  return Forward(batch, nullptr);
}

StepResult CropStepper::Gradients(const CropBatch& batch) {
  tape_.Reset();
  gradients_.Reset();
  StepResult result;
  result.loss = result.cross_entropy = Forward(batch, &tape_);
  for (const auto* side : {&batch.queries, &batch.documents}) {
    for (const auto& ids : *side) result.tokens += std::ssize(ids);
  }
  result.gradient_norm = optimizer_.GradientNorm();
  return result;
}

void CropStepper::Apply(StepResult& result, double learning_rate) {
  optimizer_.Step(kernels_, learning_rate, weight_decay_, result.gradient_norm,
                  clip_norm_);
  result.applied = true;
}

absl::StatusOr<TrainResult> TrainEncoder(
    OwnedEncoder& encoder, const std::vector<std::vector<int32_t>>& documents,
    const CropOptions& options, const OnProgress& progress) {
  MOTET_ASSIGN_OR_RETURN(
      const model::Encoder views,
      model::Encoder::Create(encoder.config, encoder.weights, true));
  MOTET_RETURN_IF_ERROR(Check(views, documents, options));
  CropStepper stepper(views, EncoderParameters(encoder), options);
  ContrastiveRun run;
  run.name = "an encoder";
  run.options = options;
  run.description = Describe(encoder, documents, options);
  run.optimizer = &stepper.optimizer();
  run.gradients = [&](int64_t step) {
    return stepper.Gradients(CropBatchAt(documents, options, step));
  };
  run.apply = [&](StepResult& step, double rate) { stepper.Apply(step, rate); };
  return RunContrastive(run, progress);
}

}  // namespace motet::learn
