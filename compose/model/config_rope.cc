// SPDX-License-Identifier: Apache-2.0
#include "compose/model/config_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace motet::model {
namespace {

using Json = ConfigJson;

// "default" where nothing is said; "" where it is no text or said twice
// differently.
std::string TypeOf(const Json& rope) {
  std::string type = "default";
  bool said = false;
  for (const char* key : {"rope_type", "type"}) {
    const auto it = rope.find(key);
    if (it == rope.end() || it->is_null()) continue;
    const auto* text = it->get_ptr<const std::string*>();
    if (text == nullptr || (said && *text != type)) return "";
    type = *text;
    said = true;
  }
  return type;
}

// The object under `key`; its rope_theta, 0 when it has none.
double ReadObject(ConfigFields& fields, const std::string& key,
                  const Json& value, RopeScaling& scaling) {
  const std::string type = value.is_object() ? TypeOf(value) : "";
  if (type != "default" && type != "llama3") {
    fields.Refuse(key, &value, "rope_type \"default\" or \"llama3\"");
    return 1;
  }
  ConfigFields inside(value);
  inside.Take("rope_type");
  inside.Take("type");
  const double theta =
      value.contains("rope_theta") ? inside.Real("rope_theta") : 0;
  inside.Only("partial_rotary_factor", "1.0");
  if (type == "llama3") {
    scaling.factor = inside.Real("factor");
    scaling.low_factor = inside.Real("low_freq_factor");
    scaling.high_factor = inside.Real("high_freq_factor");
    scaling.original_positions =
        inside.Size("original_max_position_embeddings");
  }
  inside.RefuseRest();
  std::vector<std::string> reasons;
  for (const std::string& reason : inside.reasons()) {
    reasons.push_back(absl::StrCat(key, ".", reason));
  }
  fields.Append(reasons);
  return theta;
}

}  // namespace

void ReadRope(ConfigFields& fields, ModelConfig& config) {
  const Json* top = fields.Take("rope_theta");
  const Json* four = fields.Take("rope_scaling");
  const Json* five = fields.Take("rope_parameters");
  const auto given = [](const Json* value) {
    return value != nullptr && !value->is_null();
  };
  double inside = 0;
  RopeScaling old;
  if (given(four)) inside = ReadObject(fields, "rope_scaling", *four, old);
  config.rope_scaling = old;
  if (given(five)) {
    RopeScaling scaling;
    const double theta = ReadObject(fields, "rope_parameters", *five, scaling);
    if (given(four) && !(old == scaling)) {
      fields.Refuse("rope_scaling", four, "the same as rope_parameters");
    }
    if (theta != 0) inside = theta;
    config.rope_scaling = scaling;
  }
  if (!given(top)) {
    if (inside == 0) fields.Real("rope_theta");  // refuses its absence
    config.rope_theta = inside;
    return;
  }
  config.rope_theta = fields.Real("rope_theta");
  if (inside != 0 && inside != config.rope_theta) {
    fields.Refuse("rope_theta", top,
                  absl::StrCat(inside, " as in rope_parameters"));
  }
}

void WriteRope(const ModelConfig& config, Json& out) {
  const RopeScaling& scaling = config.rope_scaling;
  Json rope;
  if (scaling.original_positions > 0) {
    rope["factor"] = scaling.factor;
    rope["low_freq_factor"] = scaling.low_factor;
    rope["high_freq_factor"] = scaling.high_factor;
    rope["original_max_position_embeddings"] = scaling.original_positions;
    rope["rope_type"] = "llama3";
    out["rope_scaling"] = rope;
  } else {
    rope["rope_type"] = "default";
  }
  rope["rope_theta"] = config.rope_theta;
  out["rope_theta"] = config.rope_theta;
  out["rope_parameters"] = rope;
}

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  const double original = static_cast<double>(scaling.original_positions);
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    double f = std::pow(config.rope_theta,
                        -2.0 * static_cast<double>(i) / config.head_dim);
    if (scaling.original_positions > 0) {
      // How often the pair turns within the original positions decides.
      const double turns = original * f / (2 * std::numbers::pi);
      const double share =
          std::clamp((turns - scaling.low_factor) /
                         (scaling.high_factor - scaling.low_factor),
                     0.0, 1.0);
      f = (1 - share) * f / scaling.factor + share * f;
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

}  // namespace motet::model
