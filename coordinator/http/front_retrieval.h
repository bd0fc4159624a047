// SPDX-License-Identifier: Apache-2.0
// The routes of `motet serve` over a retrieval composition: OpenAI's
// embeddings, and searches. JSON into messages and back; what is done with
// them is Retrieval's.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/http/server.h"
#include "coordinator/retrieval.h"
#include "nlohmann/json.hpp"

namespace motet::coordinator {

struct EmbedCall {
  v1::EmbedRequest request;
  bool base64 = false;  // little-endian f32, else a list of numbers
};
absl::StatusOr<EmbedCall> ParseEmbeddings(absl::string_view body);
absl::StatusOr<v1::SearchRequest> ParseSearch(absl::string_view body);

class RetrievalFront {
 public:
  explicit RetrievalFront(const Retrieval& retrieval);
  void Handle(const HttpRequest& request, HttpReply& reply) const;

 private:
  void Embeddings(const HttpRequest& request, HttpReply& reply) const;
  void Search(const HttpRequest& request, HttpReply& reply) const;

  const Retrieval& retrieval_;
};

}  // namespace motet::coordinator
