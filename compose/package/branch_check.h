// SPDX-License-Identifier: Apache-2.0
// Whether a model from elsewhere is a branch of a base: the same mathematics,
// shapes and tokens, so that their weights mean the same.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "compose/model/config.h"

namespace motet::package {

// Every field that differs, as "width is 64, want 32". Ids of special tokens,
// the context's length and the family's name do not count: they do not change
// what weights mean.
std::vector<std::string> DifferentFields(const model::ModelConfig& got,
                                         const model::ModelConfig& base);
// The same tokens: equal JSON, however it was written, but for truncation and
// padding, which are not the tokenizer's.
bool SameTokenizer(absl::string_view got_json, absl::string_view base_json);

}  // namespace motet::package
