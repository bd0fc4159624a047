// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/adapter_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "compose/learn/hash.h"

namespace motet::learn {
namespace {

using math::Tensor;

// Tokens of a piece: enough rows for products to run well, few enough for a
// layer's results to stay in the caches. Small batches are cut too, so that
// every thread has work; never by the number of threads.
constexpr int64_t kMostRows = 512;
constexpr int64_t kFewestRows = 128;
constexpr int64_t kPieces = 4;

constexpr int64_t kArenaBlock = int64_t{16} << 20;

int64_t Numbers(const std::vector<Parameter>& parameters) {
  int64_t numbers = 0;
  for (const Parameter& p : parameters) numbers += p.value.size();
  return numbers;
}

}  // namespace

// What one thread computes its pieces with.
struct AdapterStepper::Worker {
  explicit Worker(const std::vector<Parameter>& parameters)
      : results(kArenaBlock), gradients(kArenaBlock), tape(gradients) {
    for (const Parameter& p : parameters) tape.Watch(p.watched);
  }
  math::Arena results, gradients;
  Tape tape;
};

double ContrastiveLoss(const Tensor& scores, std::span<const int32_t> targets,
                       std::span<const uint8_t> masked, double temperature,
                       int64_t count, Tensor d) {
  const int64_t rows = scores.rows(), cols = scores.cols();
  const double inverse = 1 / temperature;
  const double share = 1 / static_cast<double>(count);
  double loss = 0;
  std::vector<double> weights(static_cast<size_t>(cols));
  for (int64_t m = 0; m < rows; ++m) {
    const float* s = scores.f32() + m * cols;
    const uint8_t* gone = masked.data() + m * cols;
    const int32_t target = targets[static_cast<size_t>(m)];
    double top = s[target] * inverse;
    for (int64_t j = 0; j < cols; ++j) {
      if (gone[j] == 0) top = std::max(top, s[j] * inverse);
    }
    double total = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const auto at = static_cast<size_t>(j);
      weights[at] = gone[j] != 0 ? 0 : std::exp(s[j] * inverse - top);
      total += weights[at];
    }
    loss += share * (top + std::log(total) - s[target] * inverse);
    if (d.empty()) continue;
    float* out = d.f32() + m * cols;
    for (int64_t j = 0; j < cols; ++j) {
      const double p = weights[static_cast<size_t>(j)] / total;
      out[j] += static_cast<float>(share * inverse * (p - (j == target)));
    }
  }
  return loss;
}

std::vector<Parameter> AdapterParameters(const model::EncoderConfig& config,
                                         const model::Lora& lora) {
  std::vector<Parameter> parameters;
  model::Lora views = lora;
  model::VisitLora(config, views,
                   [&](const std::string& name, const math::Shape&,
                       Tensor& tensor) {
                     parameters.push_back({name, tensor, tensor, true});
                   });
  return parameters;
}

AdapterStepper::AdapterStepper(const model::Encoder& encoder,
                               const model::Lora& lora,
                               const Tensor& documents,
                               const AdapterStepOptions& options,
                               const math::Kernels& kernels)
    : encoder_(encoder),
      lora_(lora),
      documents_(documents),
      options_(options),
      kernels_(kernels),
      parameters_(AdapterParameters(encoder.config(), lora)),
      tape_(arena_),
      optimizer_(parameters_, tape_, 0.999f) {}

AdapterStepper::~AdapterStepper() = default;

int64_t AdapterStepper::peak_bytes() const {
  int64_t bytes = 0;
  for (const auto& worker : idle_) {
    bytes += worker->results.peak_bytes() + worker->gradients.peak_bytes();
  }
  return bytes;
}

std::unique_ptr<AdapterStepper::Worker> AdapterStepper::TakeWorker() {
  if (idle_.empty()) return std::make_unique<Worker>(parameters_);
  std::unique_ptr<Worker> worker = std::move(idle_.back());
  idle_.pop_back();
  return worker;
}

double AdapterStepper::RunPiece(const AdapterBatch& batch, const Piece& piece,
                                const Tensor& documents,
                                std::optional<uint64_t> noise, Worker& worker,
                                float* gradients) const {
  worker.tape.Reset();
  worker.results.Reset();
  worker.gradients.Reset();
  const size_t queries = piece.last - piece.first;
  std::vector<model::EncoderInput> inputs;
  for (size_t i = piece.first; i < piece.last; ++i) {
    inputs.push_back({batch.queries[i], {}});
  }
  const model::EncoderBatch packed(inputs);
  if (noise.has_value()) noise = Mix(*noise ^ Mix(piece.number));
  math::Exec exec(kernels_, worker.results, options_.product, &worker.tape);
  const Tensor q = encoder_.Pool(
      exec, packed, encoder_.Forward(exec, packed, &lora_, noise));
  math::Exec head(kernels_, worker.results, math::Product::kExact,
                  &worker.tape);
  const Tensor scores = head.Linear(q, documents);
  const size_t cols = batch.columns.size();
  const double loss = ContrastiveLoss(
      scores, std::span(batch.targets).subspan(piece.first, queries),
      std::span(batch.masked).subspan(piece.first * cols, queries * cols),
      options_.temperature, static_cast<int64_t>(batch.queries.size()),
      worker.tape.Gradient(scores));
  worker.tape.Backward();
  for (const Parameter& p : parameters_) {
    const Tensor gradient = worker.tape.Gradient(p.value);
    std::memcpy(gradients, gradient.data,
                static_cast<size_t>(gradient.bytes()));
    gradients += gradient.size();
  }
  return loss;
}

StepResult AdapterStepper::Gradients(const AdapterBatch& batch,
                                     std::optional<uint64_t> noise) {
  int64_t rows = 0;
  for (const auto& query : batch.queries) rows += std::ssize(query);
  const int64_t most = std::clamp(rows / kPieces, kFewestRows, kMostRows);
  std::vector<Piece> pieces;
  int64_t here = 0;
  for (size_t i = 0; i < batch.queries.size(); ++i) {
    const int64_t own = std::ssize(batch.queries[i]);
    if (pieces.empty() || here + own > most) {
      pieces.push_back({i, i, pieces.size()});
      here = 0;
    }
    here += own;
    pieces.back().last = i + 1;
  }

  // The batch's documents, one after another.
  const int64_t width = documents_.cols();
  std::vector<float> chosen;
  chosen.reserve(batch.columns.size() * static_cast<size_t>(width));
  for (int64_t row : batch.columns) {
    const float* from = documents_.f32() + row * width;
    chosen.insert(chosen.end(), from, from + width);
  }
  Tensor documents;
  documents.data = chosen.data();
  documents.shape = {std::ssize(batch.columns), width};

  const int64_t numbers = Numbers(parameters_);
  sums_.resize(pieces.size() * static_cast<size_t>(numbers));
  std::vector<double> losses(pieces.size());
  const auto count = static_cast<int64_t>(pieces.size());
#pragma omp parallel if (count > 1)
  {
    std::unique_ptr<Worker> worker;
#pragma omp critical(motet_adapter_workers)
    worker = TakeWorker();
#pragma omp for schedule(dynamic, 1)
    for (int64_t p = 0; p < count; ++p) {
      const auto at = static_cast<size_t>(p);
      losses[at] = RunPiece(batch, pieces[at], documents, noise, *worker,
                            sums_.data() + p * numbers);
    }
#pragma omp critical(motet_adapter_workers)
    idle_.push_back(std::move(worker));
  }

  StepResult result;
  for (double loss : losses) result.loss += loss;
  result.cross_entropy = result.loss;
  result.tokens = rows;
  const float* sum = sums_.data();
  for (Optimizer::Item& item : optimizer_.items()) {
    const int64_t size = item.gradient.size();
    std::memcpy(item.gradient.data, sum, static_cast<size_t>(size) * 4);
    for (int64_t p = 1; p < count; ++p) {
      for (int64_t i = 0; i < size; ++i) {
        item.gradient.f32()[i] += sum[p * numbers + i];
      }
    }
    sum += size;
  }
  result.gradient_norm = optimizer_.GradientNorm();
  return result;
}

void AdapterStepper::Apply(StepResult& result, double learning_rate) {
  optimizer_.Step(kernels_, learning_rate, options_.weight_decay,
                  result.gradient_norm, options_.clip_norm);
  result.applied = true;
}

}  // namespace motet::learn
