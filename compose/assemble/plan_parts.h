// SPDX-License-Identifier: Apache-2.0
// What the plans of all methods share. A plan is pure: it reads no file, asks
// no server, and does not stop at the first thing that does not fit, so that
// a user repairs a recipe in one go.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "compose/assemble/composition.h"

namespace motet::assemble {

// Collects what does not fit, each line with whose fault it is.
class Problems {
 public:
  explicit Problems(std::vector<std::string>& out) : out_(out) {}
  void Add(const std::string& where, const std::string& text);
  void Same(const std::string& where, const std::string& what,
            const std::string& got, const std::string& want,
            const std::string& hint);

 private:
  std::vector<std::string>& out_;
};

std::string Short(const std::string& sha256);  // 12 digits, or "none"
// Of a file in a manifest's table; "" and 0 when it is not there.
std::string FileSha256(const v1::ExpertManifest& manifest,
                       const std::string& path);
uint64_t FileBytes(const v1::ExpertManifest& manifest,
                   const std::string& path);
int64_t Elements(const v1::TensorDigest& tensor);
// Of the tensors whose names hold `part`; those that serve: the train-time
// bias does not.
int64_t Parameters(const v1::ExpertManifest& manifest, absl::string_view part);

// What a manifest says of itself: tensors of every layer, lengths of means.
void CheckItself(const v1::ExpertManifest& m, Problems& problems);
void CheckBase(const Part& base, Problems& problems);
// A branch of this base: its digests, tokenizer and shape.
void CheckBranch(const Part& part, const Part& base, Problems& problems);
// Whether the parts are what the recipe names, each once and in force.
void CheckNames(const Recipe& recipe, const std::vector<Part>& experts,
                Problems& problems);
// k and most_active against what there is to choose from: total FFNs, the
// base's included.
void CheckChoices(const Recipe& recipe, int total, Problems& problems);
// Numbers of the most FFNs that a token runs, but for anchored routing. ffns:
// each expert's, the base's first; the router's choices are of 1 / chunks.
int64_t MostFfns(const Recipe& recipe, std::vector<int64_t> ffns);
// Consequences of licences, and domains that several experts serve. exact: a
// query that may not have an expert is answered without it; otherwise the
// query is refused.
void AddNotes(const Part& base, const std::vector<Part>& experts, bool exact,
              std::vector<std::string>& notes);
// What every lock holds: base, experts, software.
v1::CompositionLock LockOf(const Recipe& recipe, const Part& base,
                           const std::vector<Part>& experts);

}  // namespace motet::assemble
