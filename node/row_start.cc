// SPDX-License-Identifier: Apache-2.0
#include "node/row_start.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/projection.h"
#include "compose/package/manifest_training.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::node {
namespace {

constexpr int64_t kBatch = 64;  // documents between questions whether to go on

int64_t Read(const std::vector<std::string>& documents) {
  return std::min<int64_t>(kRowDocuments,
                           static_cast<int64_t>(documents.size()));
}

// Of norm 1 each, summed in the order of the documents.
absl::StatusOr<std::vector<double>> MeanVector(
    const retrieve::TextEncoder& encoder,
    const std::vector<std::string>& documents,
    const std::function<bool(int64_t)>& go_on) {
  const int64_t count = Read(documents);
  const auto all = static_cast<int64_t>(documents.size());
  const auto width = static_cast<size_t>(encoder.width());
  std::vector<double> mean(width);
  for (int64_t from = 0; from < count; from += kBatch) {
    std::vector<std::string> batch;
    for (int64_t i = from; i < std::min(count, from + kBatch); ++i) {
      batch.push_back(documents[static_cast<size_t>(i * all / count)]);
    }
    MOTET_ASSIGN_OR_RETURN(const retrieve::Vectors vectors,
                           encoder.Encode(batch));
    for (size_t i = 0; i < batch.size(); ++i) {
      const float* v = vectors.values.data() + i * width;
      double square = 0;
      for (size_t c = 0; c < width; ++c) square += double{v[c]} * v[c];
      const double scale =
          square > 0 ? 1 / (std::sqrt(square) * static_cast<double>(count)) : 0;
      for (size_t c = 0; c < width; ++c) mean[c] += scale * v[c];
    }
    if (!go_on(from + static_cast<int64_t>(batch.size()))) {
      return absl::CancelledError("stopped");
    }
  }
  return mean;
}

}  // namespace

absl::StatusOr<std::unique_ptr<retrieve::TextEncoder>> OpenEmbedder(
    const v1::TrainingPlan& plan, const Settings& settings) {
  if (plan.row_init() != package::kRowsEmbedder) {
    return std::unique_ptr<retrieve::TextEncoder>();
  }
  const std::string where = absl::StrCat(settings.dir, "/node.toml: embedder");
  if (settings.embedder.empty()) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, where, "none",
        plan.embedder_sha256().empty()
            ? "the folder of an encoder"
            : absl::StrCat("the folder of the encoder ",
                           plan.embedder_sha256()),
        "name it there, start the node again and approve the job again");
  }
  MOTET_ASSIGN_OR_RETURN(
      auto encoder,
      retrieve::TextEncoder::Load(settings.embedder, math::Product::kExact));
  const std::string digest = proto::Hex(encoder->digest());
  if (!plan.embedder_sha256().empty() && plan.embedder_sha256() != digest) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, where,
        absl::StrCat("an encoder of digest ", digest), plan.embedder_sha256(),
        "name the plan's encoder there, start the node again and approve the "
        "job again");
  }
  return encoder;
}

absl::StatusOr<RowStart> StartOf(
    const retrieve::TextEncoder& encoder, uint64_t seed, int64_t width,
    const std::vector<std::string>& own,
    const std::vector<std::string>& public_text,
    const std::function<bool(double fraction)>& go_on) {
  const auto all = static_cast<double>(Read(own) + Read(public_text));
  MOTET_ASSIGN_OR_RETURN(std::vector<double> mean,
                         MeanVector(encoder, own, [&](int64_t done) {
                           return go_on(static_cast<double>(done) / all);
                         }));
  MOTET_ASSIGN_OR_RETURN(
      const std::vector<double> other,
      MeanVector(encoder, public_text, [&](int64_t done) {
        return go_on(static_cast<double>(Read(own) + done) / all);
      }));
  for (size_t c = 0; c < mean.size(); ++c) mean[c] -= other[c];
  RowStart start;
  start.direction =
      learn::Times(learn::Orthonormal(width, encoder.width(), seed), mean);
  start.embedder.set_sha256(proto::Hex(encoder.digest()));
  start.embedder.set_width(static_cast<uint32_t>(encoder.width()));
  start.embedder.set_seed(seed);
  start.embedder.set_documents(static_cast<uint32_t>(Read(own)));
  return start;
}

}  // namespace motet::node
