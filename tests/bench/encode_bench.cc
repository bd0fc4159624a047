// SPDX-License-Identifier: Apache-2.0
// Ours in the encoding rows: a BERT encoder's vectors of 256 documents of
// about 200 tokens, packed without padding. Ids and lengths are made by
// TokenAt and LengthOf, as the peer makes them.
//
//   encode_bench --model DIR --arithmetic NAME       a player (player.h)
//
// Task, in documents a second:
//   documents           all 256, mean pooling included
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compose/package/encoder_folder.h"
#include "proto/error.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

constexpr int64_t kDocuments = 256;

// 150 to 250 tokens, 200 in the mean.
int64_t LengthOf(int64_t document) { return 150 + document * 37 % 101; }

int32_t TokenAt(int64_t sequence, int64_t position, int64_t vocabulary) {
  return static_cast<int32_t>((sequence * 7919 + position * 1543 + 17) %
                              vocabulary);
}

class Documents {
 public:
  static absl::StatusOr<std::unique_ptr<Documents>> Load(
      const std::string& folder) {
    MOTET_ASSIGN_OR_RETURN(auto loaded, package::LoadEncoder(folder));
    MOTET_ASSIGN_OR_RETURN(
        auto encoder,
        model::Encoder::Create(loaded->config, loaded->weights,
                               loaded->normalise));
    return std::unique_ptr<Documents>(
        new Documents(std::move(loaded), std::move(encoder)));
  }
  absl::StatusOr<double> Run(math::Product product) {
    absl::Status status;
    const double seconds = Seconds([&] {
      status = encoder_.Encode(math::Cpu(), product, inputs_, nullptr,
                               out_.data());
    });
    MOTET_RETURN_IF_ERROR(status);
    return kDocuments / seconds;
  }

 private:
  Documents(std::unique_ptr<package::LoadedEncoder> loaded,
            model::Encoder encoder)
      : loaded_(std::move(loaded)),
        encoder_(std::move(encoder)),
        out_(kDocuments * loaded_->config.width) {
    for (int64_t d = 0; d < kDocuments; ++d) {
      ids_.emplace_back();
      for (int64_t t = 0; t < LengthOf(d); ++t) {
        ids_.back().push_back(TokenAt(d, t, loaded_->config.vocabulary));
      }
    }
    for (const auto& ids : ids_) inputs_.push_back({ids, {}});
  }

  std::unique_ptr<package::LoadedEncoder> loaded_;
  model::Encoder encoder_;
  std::vector<std::vector<int32_t>> ids_;
  std::vector<model::EncoderInput> inputs_;
  std::vector<float> out_;
};

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) {
  using namespace motet::bench;
  const std::string folder = Option(argc, argv, "model", "");
  const Arithmetic* arithmetic =
      FindArithmetic(Option(argc, argv, "arithmetic", "f32"));
  if (arithmetic == nullptr) return 2;
  std::unique_ptr<Documents> documents;
  Player player;
  player.Add("documents", [&]() -> absl::StatusOr<double> {
    if (documents == nullptr) {
      MOTET_ASSIGN_OR_RETURN(documents, Documents::Load(folder));
    }
    return documents->Run(arithmetic->serving);
  });
  return player.Run();
}
