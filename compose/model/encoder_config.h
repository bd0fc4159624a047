// SPDX-License-Identifier: Apache-2.0
// What an encoder is: the sizes of a BERT, read from and written to a Hugging
// Face config.json. A field that would change the mathematics and that we do
// not know is an error which names it; nothing is guessed.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace motet::model {

struct EncoderConfig {
  int64_t vocabulary = 0;     // V
  int64_t width = 0;          // C
  int64_t layers = 0;         // L
  int64_t heads = 0;          // H, divides C
  int64_t ffn_width = 0;      // F
  int64_t max_positions = 0;  // of one sequence
  int64_t token_types = 0;
  float norm_eps = 1e-12f;
  int32_t pad_id = -1;  // -1 = none

  int64_t head_dim() const { return width / heads; }
  bool operator==(const EncoderConfig&) const = default;
};

// Reads the config.json of a BertModel or a BertForMaskedLM (whose head is
// not used). InvalidArgument names every field that does not fit; a config
// that comes back has passed CheckEncoderConfig.
absl::StatusOr<EncoderConfig> ParseEncoderConfig(const std::string& json);
// config.json of a BertModel that stock transformers loads.
std::string WriteEncoderConfig(const EncoderConfig& config);
// OK when the shapes make sense; otherwise every reason in one error.
absl::Status CheckEncoderConfig(const EncoderConfig& config);

}  // namespace motet::model
