// SPDX-License-Identifier: Apache-2.0
// RoPE in config.json: transformers 4 says rope_theta and rope_scaling at the
// top, transformers 5 puts both into rope_parameters. Files may hold either or
// both; both are written.
#pragma once

#include "compose/model/config.h"
#include "compose/model/config_fields.h"

namespace motet::model {

// Takes rope_theta, rope_scaling and rope_parameters.
void ReadRope(ConfigFields& fields, ModelConfig& config);
void WriteRope(const ModelConfig& config, ConfigJson& out);

}  // namespace motet::model
