// SPDX-License-Identifier: Apache-2.0
// Names of experts into masks and back. Where a name means several experts (a
// domain that two owners serve, an owner with two experts), it means all.
#include "compose/assemble/composition.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::assemble {

absl::StatusOr<math::ExpertMask> Composition::Resolve(
    const std::vector<std::string>& names) const {
  math::ExpertMask mask = 0;
  for (const std::string& name : names) {
    // The base is in every set: naming it is no error and adds nothing.
    bool found = name == "base" || name == lock.base().id();
    for (int i = 0; i < lock.experts_size(); ++i) {
      const v1::LockedExpert& expert = lock.experts(i);
      const std::string& id = expert.id();
      const std::string path = id.substr(0, id.find('@'));
      const std::string owner = id.substr(0, id.find('/'));
      if (name == id || name == path || name == owner ||
          (!expert.domain().empty() && name == expert.domain())) {
        mask |= math::ExpertMask{1} << (i + 1);
        found = true;
      }
    }
    if (!found) {
      std::vector<std::string> known;
      for (const v1::LockedExpert& expert : lock.experts()) {
        known.push_back(expert.domain().empty()
                            ? expert.id()
                            : absl::StrCat(expert.id(), " (domain ",
                                           expert.domain(), ")"));
      }
      return proto::Error(
          absl::StatusCode::kNotFound, "experts",
          absl::StrCat("an unknown expert \"", name, "\""),
          known.empty() ? "none: this composition is the base alone"
                        : absl::StrCat("one of ", absl::StrJoin(known, ", ")),
          "name an expert by id, owner or domain");
    }
  }
  return mask;
}

math::ExpertMask Composition::All() const {
  const int experts = lock.experts_size() + 1;
  return experts >= 64 ? ~math::ExpertMask{0}
                       : (math::ExpertMask{1} << experts) - 1;
}

std::vector<std::string> Composition::Names(math::ExpertMask set) const {
  std::vector<std::string> names = {lock.base().id()};
  for (int i = 0; i < lock.experts_size(); ++i) {
    if (set >> (i + 1) & 1) names.push_back(lock.experts(i).id());
  }
  return names;
}

}  // namespace motet::assemble
