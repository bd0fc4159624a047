// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/set_decoders.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::assemble {

SetDecoders::SetDecoders(std::string method, int64_t most_bytes, Make make)
    : method_(std::move(method)),
      most_bytes_(most_bytes),
      make_(std::move(make)) {}

absl::StatusOr<std::shared_ptr<const model::Decoder>> SetDecoders::For(
    math::ExpertMask set, const std::vector<ServedExpert>& experts) {
  absl::MutexLock hold(&mutex_);
  auto it = sets_.find(set);
  if (it == sets_.end()) {
    auto made = make_(set, [this](int64_t bytes) {
      mutex_.AssertHeld();
      return MakeRoom(bytes);
    });
    if (!made.ok()) {
      std::vector<std::string> out;
      for (size_t i = 0; i < experts.size(); ++i) {
        if ((set >> i & 1) == 0 && !experts[i].always) {
          out.push_back(experts[i].id);
        }
      }
      return absl::UnavailableError(
          absl::StrCat("[exclusion] got no weights without ",
                       absl::StrJoin(out, ", "), ": ",
                       made.status().message()));
    }
    it = sets_.emplace(set, std::pair(*std::move(made), 0)).first;
  }
  it->second.second = ++uses_;
  const std::shared_ptr<SetDecoder>& made = it->second.first;
  return std::shared_ptr<const model::Decoder>(made, made->decoder.get());
}

absl::Status SetDecoders::MakeRoom(int64_t bytes) {
  if (bytes > most_bytes_) {
    return proto::Error(
        absl::StatusCode::kResourceExhausted, method_,
        absl::StrCat(bytes >> 20, " MiB of weights for this expert set"),
        absl::StrCat("at most ", most_bytes_ >> 20, " MiB"),
        "start with more --merge-memory, or compose without the expert");
  }
  const auto held = [&] {
    int64_t sum = 0;
    for (const auto& [set, entry] : sets_) sum += entry.first->bytes;
    return sum;
  };
  while (!sets_.empty() && held() + bytes > most_bytes_) {
    sets_.erase(std::min_element(
        sets_.begin(), sets_.end(), [](const auto& a, const auto& b) {
          return a.second.second < b.second.second;
        }));
  }
  return absl::OkStatus();
}

}  // namespace motet::assemble
