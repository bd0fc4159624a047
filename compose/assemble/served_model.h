// SPDX-License-Identifier: Apache-2.0
// A model that can answer, whatever it was made of: a composition by its
// lock, or a model directory as it lies. What the policy gate, the engine and
// the fronts need to know of it, and no more: who its experts are, on what
// terms, and how a query names them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/model/decoder.h"
#include "compose/model/scorer.h"
#include "compose/package/huggingface.h"
#include "manifest.pb.h"

namespace motet::assemble {

// An expert FFN by its position in the decoder, the bit in an ExpertMask.
struct ServedExpert {
  std::string id;      // "code.example/code@1.0.0"; in a directory "2"
  std::string domain;  // may be empty
  v1::LicenceTerms licence;     // nothing set: nothing is forbidden
  std::string manifest_sha256;  // hex; empty in a directory
  bool always = false;          // in every set: no query can leave it out
};

// The experts of whatever answers, text or searches: all that the policy gate
// needs of it.
struct Served {
  Served() = default;
  virtual ~Served() = default;
  Served(const Served&) = delete;
  Served& operator=(const Served&) = delete;

  std::string name;
  std::string lock_sha256;      // empty: there is no lock
  bool exact_exclusion = true;  // leaving an expert out leaves no trace
  std::vector<ServedExpert> experts;  // none: a dense model

  // Masks by id ("code.example/code@1.0.0", "2"), owner ("code.example"),
  // owner/name, or domain label ("code"); a name of several means all. Those
  // that are in every set are known, as "base" too, and add nothing. NotFound
  // names what exists.
  absl::StatusOr<math::ExpertMask> Resolve(
      const std::vector<std::string>& names) const;
  // True when the name means an expert that is in every set.
  bool NamesAlways(const std::string& name) const;
  math::ExpertMask All() const;
  math::ExpertMask Always() const;
  // Ids, in the decoder's order.
  std::vector<std::string> Names(math::ExpertMask set) const;
  // InvalidArgument where a request may not have so many experts work on a
  // token; 0 is always fine.
  virtual absl::Status CheckActive(uint32_t active) const = 0;
};

struct ServedModel : Served {
  model::ModelConfig config;
  std::unique_ptr<package::LoadedModel> base;  // keeps what is mapped
  // Of all experts; null where several models answer (an ensemble).
  std::unique_ptr<model::Decoder> decoder;
  const model::Tokenizer& tokenizer() const { return *base->tokenizer; }

  // The decoder that answers for a set of experts, with the set as its mask:
  // `decoder` itself where leaving an expert out is a matter of routing. A
  // method whose weights depend on the set makes them when a set is first
  // asked for; Unavailable says why it cannot (no room, a package gone).
  virtual absl::StatusOr<std::shared_ptr<const model::Decoder>> DecoderFor(
      math::ExpertMask set) const;
  // What answers for a set: that decoder, unless the method has more than
  // one. active: SequenceInput::active. The model must outlive it.
  virtual absl::StatusOr<std::shared_ptr<const model::Scorer>> ScorerFor(
      math::ExpertMask set, int32_t active = 0) const;
  absl::Status CheckActive(uint32_t active) const override;
};

// A Hugging Face directory with its tokenizer. Experts of a mixture are
// called by their index; one that the router can do without, if another
// remains, a query can leave out.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadDirectory(
    const std::string& folder);

}  // namespace motet::assemble
