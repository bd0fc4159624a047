// SPDX-License-Identifier: Apache-2.0
// Ours in the encoding rows: a BERT encoder's vectors of 256 documents of
// about 200 tokens, packed without padding. Ids and lengths are made by
// TokenAt and the lengths below, as the peer makes them.
//
//   encode_bench --model DIR --arithmetic NAME       a player (player.h)
//
// Tasks, in documents a second, mean pooling included:
//   documents           of 150 to 250 tokens
//   collection          as long as those of four real sets (docs/retrieval.md)
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
int64_t EvenLength(int64_t document) { return 150 + document * 37 % 101; }

// Sixteenths of the 16,380 documents of scifact, dccode_law, medquad_health and
// thealgorithms_code, cut at 256 tokens: 192 in the mean, every third cut.
int64_t CollectionLength(int64_t document) {
  constexpr int64_t kLengths[] = {43,  67,  90,  116, 141, 167, 195, 221,
                                  248, 256, 256, 256, 256, 256, 256, 256};
  return kLengths[document * 7 % 16];
}

int32_t TokenAt(int64_t sequence, int64_t position, int64_t vocabulary) {
  return static_cast<int32_t>((sequence * 7919 + position * 1543 + 17) %
                              vocabulary);
}

class Documents {
 public:
  using Length = int64_t (*)(int64_t document);
  static absl::StatusOr<std::unique_ptr<Documents>> Load(
      const std::string& folder, Length length) {
    MOTET_ASSIGN_OR_RETURN(auto loaded, package::LoadEncoder(folder));
    MOTET_ASSIGN_OR_RETURN(
        auto encoder,
        model::Encoder::Create(loaded->config, loaded->weights,
                               loaded->normalise));
    return std::unique_ptr<Documents>(
        new Documents(std::move(loaded), std::move(encoder), length));
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
            model::Encoder encoder, Length length)
      : loaded_(std::move(loaded)),
        encoder_(std::move(encoder)),
        out_(kDocuments * loaded_->config.width) {
    for (int64_t d = 0; d < kDocuments; ++d) {
      ids_.emplace_back();
      for (int64_t t = 0; t < length(d); ++t) {
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
  std::unique_ptr<Documents> documents, collection;
  Player player;
  const auto task = [&](const char* name, std::unique_ptr<Documents>& loaded,
                        Documents::Length length) {
    player.Add(name, [&, length]() -> absl::StatusOr<double> {
      if (loaded == nullptr) {
        MOTET_ASSIGN_OR_RETURN(loaded, Documents::Load(folder, length));
      }
      return loaded->Run(arithmetic->serving);
    });
  };
  task("documents", documents, EvenLength);
  task("collection", collection, CollectionLength);
  return player.Run();
}
