// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/text_encoder.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::retrieve {
namespace {

// Texts between two calls of progress, which may end it.
constexpr size_t kStep = 64;

proto::Digest DigestOf(const package::LoadedEncoder& loaded,
                       const std::string& tokenizer) {
  proto::Sha256Stream stream;
  stream.Update(absl::StrCat("motet encoder 1\n",
                             model::WriteEncoderConfig(loaded.config), "\n",
                             "normalise ", loaded.normalise ? 1 : 0,
                             " max_tokens ", loaded.max_tokens, "\n"));
  model::EncoderWeights weights = loaded.weights;
  model::VisitEncoderWeights(
      loaded.config, weights,
      [&](const std::string& name, const math::Shape& shape,
          math::Tensor& tensor) {
        stream.Update(absl::StrCat(name, " ", shape.ToString(), "\n"));
        stream.Update({static_cast<const char*>(tensor.data),
                       static_cast<size_t>(tensor.bytes())});
      });
  stream.Update(absl::StrCat("tokenizer ", tokenizer.size(), "\n"));
  stream.Update(tokenizer);
  return stream.Finish();
}

}  // namespace

TextEncoder::TextEncoder(std::string folder,
                         std::unique_ptr<package::LoadedEncoder> loaded,
                         model::Encoder encoder,
                         std::unique_ptr<model::Tokenizer> tokenizer,
                         math::Product product, const proto::Digest& digest)
    : folder_(std::move(folder)),
      loaded_(std::move(loaded)),
      encoder_(std::move(encoder)),
      tokenizer_(std::move(tokenizer)),
      product_(product),
      digest_(digest) {}

absl::StatusOr<std::unique_ptr<TextEncoder>> TextEncoder::Load(
    const std::string& folder, math::Product product) {
  MOTET_ASSIGN_OR_RETURN(auto loaded, package::LoadEncoder(folder));
  MOTET_ASSIGN_OR_RETURN(auto encoder,
                         model::Encoder::Create(loaded->config, loaded->weights,
                                                loaded->normalise));
  const std::string path = folder + "/tokenizer.json";
  MOTET_ASSIGN_OR_RETURN(const std::string json,
                         proto::ReadFile(path, proto::kMaxTokenizerBytes));
  MOTET_ASSIGN_OR_RETURN(auto tokenizer, model::Tokenizer::Parse(json));
  if (tokenizer->vocabulary() > loaded->config.vocabulary) {
    return proto::Invalid(
        path, absl::StrCat(tokenizer->vocabulary(), " tokens"),
        absl::StrCat("at most the encoder's ", loaded->config.vocabulary),
        "use the tokenizer that belongs to the encoder");
  }
  // Limits below what the tokenizer adds around a text make no sense.
  if (tokenizer->Encode("").empty() ||
      static_cast<int64_t>(tokenizer->Encode("").size()) >=
          loaded->max_tokens) {
    return proto::Invalid(
        path,
        absl::StrCat(tokenizer->Encode("").size(), " tokens around a text, ",
                     loaded->max_tokens, " in all"),
        "[CLS] and [SEP] around a text, and room for it",
        "use the tokenizer that belongs to the encoder");
  }
  const proto::Digest digest = DigestOf(*loaded, json);
  return std::unique_ptr<TextEncoder>(
      new TextEncoder(folder, std::move(loaded), std::move(encoder),
                      std::move(tokenizer), product, digest));
}

std::vector<int32_t> TextEncoder::Tokenize(const std::string& text,
                                           int64_t* all) const {
  std::vector<int32_t> ids = tokenizer_->Encode(text);
  *all = std::ssize(ids);
  if (*all > max_tokens()) {
    ids = tokenizer_->Encode(text, {.max_tokens = max_tokens()});
  }
  return ids;
}

absl::StatusOr<Vectors> TextEncoder::Encode(std::span<const std::string> texts,
                                            const model::Lora* lora,
                                            const Fraction& progress) const {
  Vectors out;
  out.values.resize(texts.size() * static_cast<size_t>(width()));
  for (size_t first = 0; first < texts.size(); first += kStep) {
    const auto step =
        texts.subspan(first, std::min(kStep, texts.size() - first));
    std::vector<std::vector<int32_t>> ids;
    for (const std::string& text : step) {
      int64_t all = 0;
      ids.push_back(Tokenize(text, &all));
      out.tokens.push_back(static_cast<int32_t>(all));
      out.cut += all > std::ssize(ids.back()) ? 1 : 0;
    }
    std::vector<model::EncoderInput> inputs;
    for (const auto& one : ids) inputs.push_back({one, {}});
    MOTET_RETURN_IF_ERROR(encoder_.Encode(
        math::Cpu(), product_, inputs, lora,
        out.values.data() + first * static_cast<size_t>(width())));
    const double done = static_cast<double>(first + step.size()) /
                        static_cast<double>(texts.size());
    if (progress && !progress(done)) {
      return absl::CancelledError("[encode] stopped between texts");
    }
  }
  return out;
}

absl::StatusOr<QueryEncoder::Queries> FixedQueryEncoder::Encode(
    std::span<const std::string> queries) const {
  Queries out;
  MOTET_ASSIGN_OR_RETURN(out.vectors, base_->Encode(queries, lora_));
  out.experts.assign(queries.size(), expert_);
  return out;
}

}  // namespace motet::retrieve
