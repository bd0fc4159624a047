// SPDX-License-Identifier: Apache-2.0
// The post_processor of a tokenizer.json: the tokens that it sets before and
// after a text ([CLS] and [SEP], <|begin_of_text|>). Templates for pairs of
// texts are not read: one text goes in.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace motet::model {

struct TokensAround {
  std::vector<int32_t> before, after;
};

// null adds nothing. Ids are below `vocabulary`. Known: ByteLevel (which moves
// offsets alone), TemplateProcessing, BertProcessing, RobertaProcessing, and
// sequences of these.
absl::StatusOr<TokensAround> ParsePostProcessor(const nlohmann::json& part,
                                                int64_t vocabulary);

}  // namespace motet::model
