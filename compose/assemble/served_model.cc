// SPDX-License-Identifier: Apache-2.0
// Names of experts into masks and back. Where a name means several experts (a
// domain that two owners serve, an owner with two experts), it means all.
#include "compose/assemble/served_model.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

bool Means(const ServedExpert& expert, const std::string& name) {
  const std::string& id = expert.id;
  return name == id || name == id.substr(0, id.find('@')) ||
         name == id.substr(0, id.find('/')) ||
         (!expert.domain.empty() && name == expert.domain);
}

math::ExpertMask Bit(size_t position) {
  return math::ExpertMask{1} << position;
}

// The directory's own name, without the way there.
std::string NameOf(const std::string& folder) {
  std::error_code error;
  const auto path = std::filesystem::canonical(folder, error);
  const std::string name = path.filename().string();
  return error || name.empty() ? "model" : name;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const model::Decoder>>
ServedModel::DecoderFor(math::ExpertMask) const {
  // Owned by this model.
  return std::shared_ptr<const model::Decoder>(
      std::shared_ptr<const model::Decoder>(), decoder.get());
}

absl::StatusOr<std::shared_ptr<const model::Scorer>> ServedModel::ScorerFor(
    math::ExpertMask set, int32_t active) const {
  MOTET_ASSIGN_OR_RETURN(auto answering, DecoderFor(set));
  return std::make_shared<model::DecoderScorer>(std::move(answering), set,
                                                active);
}

bool Served::NamesAlways(const std::string& name) const {
  for (const ServedExpert& expert : experts) {
    // The base of a composition has no owner's name among the experts.
    if (expert.always && (name == "base" || name == expert.id)) return true;
  }
  return false;
}

absl::StatusOr<math::ExpertMask> Served::Resolve(
    const std::vector<std::string>& names) const {
  math::ExpertMask mask = 0;
  for (const std::string& name : names) {
    bool found = NamesAlways(name);
    std::vector<std::string> known;
    for (size_t i = 0; i < experts.size(); ++i) {
      const ServedExpert& expert = experts[i];
      if (expert.always) continue;
      if (Means(expert, name)) {
        mask |= Bit(i);
        found = true;
      }
      known.push_back(expert.domain.empty()
                          ? expert.id
                          : absl::StrCat(expert.id, " (domain ",
                                         expert.domain, ")"));
    }
    if (found) continue;
    return proto::Error(
        absl::StatusCode::kNotFound, "experts",
        absl::StrCat("an unknown expert \"", name, "\""),
        known.empty() ? "none: this model has no experts to choose from"
                      : absl::StrCat("one of ", absl::StrJoin(known, ", ")),
        "name an expert by id, owner or domain");
  }
  return mask;
}

absl::Status ServedModel::CheckActive(uint32_t active) const {
  if (active == 0) return absl::OkStatus();
  const std::string got = absl::StrCat("active = ", active);
  const bool merged = decoder != nullptr && !experts.empty() &&
                      decoder->config().experts == 0;
  if (experts.empty() || decoder == nullptr || merged ||
      !model::TakesActive(decoder->router())) {
    return proto::Invalid(
        "experts.active", got,
        experts.empty()      ? "none: this model has no experts"
        : decoder == nullptr ? "none: whole models answer together"
        : merged             ? "none: this model's experts are merged"
                             : "none: this model's router takes the base "
                               "and at most one expert",
        "leave it out");
  }
  const model::Router& router = decoder->router();
  int64_t most = decoder->config().experts -
                 math::CountExperts(model::SharedFfns(router));
  if (router.kind == model::Router::Kind::kTopK) most += router.null_experts;
  if (router.most_active > 0) most = std::min(most, router.most_active);
  if (active <= most) return absl::OkStatus();
  return proto::Invalid("experts.active", got,
                        absl::StrCat("1 to ", most, ", what this model allows"),
                        "ask for fewer");
}

math::ExpertMask Served::All() const {
  math::ExpertMask mask = 0;
  for (size_t i = 0; i < experts.size(); ++i) mask |= Bit(i);
  return mask;
}

math::ExpertMask Served::Always() const {
  math::ExpertMask mask = 0;
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i].always) mask |= Bit(i);
  }
  return mask;
}

std::vector<std::string> Served::Names(math::ExpertMask set) const {
  std::vector<std::string> names;
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i].always || (set & Bit(i)) != 0) {
      names.push_back(experts[i].id);
    }
  }
  return names;
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadDirectory(
    const std::string& folder) {
  auto served = std::make_unique<ServedModel>();
  MOTET_ASSIGN_OR_RETURN(
      served->base, package::LoadModel(folder, package::Numbers::kFinite));
  if (served->base->tokenizer == nullptr) {
    return proto::Error(absl::StatusCode::kNotFound,
                        absl::StrCat("model ", folder), "no tokenizer.json",
                        "one beside the weights",
                        "copy the model's tokenizer.json there");
  }
  served->name = NameOf(folder);
  served->config = served->base->config;
  model::Router router = model::RouterOf(served->config);
  for (int64_t e = 0; e < served->config.experts; ++e) {
    ServedExpert expert;
    expert.id = absl::StrCat(e);
    expert.always = e == 0 && router.base_always;
    served->experts.push_back(std::move(expert));
  }
  MOTET_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(served->config, served->base->weights,
                             std::move(router)));
  served->decoder = std::make_unique<model::Decoder>(std::move(decoder));
  return served;
}

}  // namespace motet::assemble
