// SPDX-License-Identifier: Apache-2.0
// What a served retrieval composition answers: texts into vectors, and
// searches of its indexes. Every front (HTTP, gRPC) fills these messages and
// calls this: it checks them, asks the gate, runs the engine and fetches the
// documents. Nothing of an expert outside the admitted set is touched, and no
// index depends on experts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/served_model.h"
#include "compose/retrieve/index.h"
#include "coordinator/policy.h"
#include "coordinator/retrieval_engine.h"
#include "retrieval.pb.h"

namespace motet::coordinator {

struct ServedIndex {
  std::string name;
  std::unique_ptr<retrieve::Index> index;
};
// NAME=FOLDER, or a folder that is called by its own last name.
// FailedPrecondition: it was built with another base.
absl::StatusOr<ServedIndex> OpenServedIndex(const std::string& argument,
                                            const retrieve::TextEncoder& base);

// With the admission that it was answered under.
template <typename Reply>
struct Admitted {
  Reply reply;
  Admission admission;
};

struct RetrievalOptions {
  // Whether an answer says which expert each of its queries went to.
  bool tell_experts = true;
};

// Thread-safe.
class Retrieval {
 public:
  // All but indexes must outlive this. InvalidArgument: two indexes of a name.
  static absl::StatusOr<std::unique_ptr<Retrieval>> Create(
      const assemble::Served& served, const retrieve::TextEncoder& base,
      const PolicyGate& gate, RetrievalEngine& engine,
      std::vector<ServedIndex> indexes, const RetrievalOptions& options);

  // InvalidArgument: no text, a blank one, too many or too long ones, an
  // unknown input type. NotFound: another model. And what gate and engine say.
  absl::StatusOr<Admitted<v1::EmbedReply>> Embed(
      const v1::EmbedRequest& request,
      const StillWanted& wanted = nullptr) const;
  // The same, and k out of range, more documents in all than a request may
  // have, an unknown mode or field; NotFound: an unknown index.
  // InvalidArgument: documents' texts beyond what a reply may hold.
  absl::StatusOr<Admitted<v1::SearchReply>> Search(
      const v1::SearchRequest& request,
      const StillWanted& wanted = nullptr) const;

  const assemble::Served& served() const { return served_; }
  const retrieve::TextEncoder& base() const { return base_; }
  const std::vector<ServedIndex>& indexes() const { return indexes_; }
  bool tells_experts() const { return options_.tell_experts; }

 private:
  Retrieval(const assemble::Served& served, const retrieve::TextEncoder& base,
            const PolicyGate& gate, RetrievalEngine& engine,
            const RetrievalOptions& options);
  // Of either request.
  template <typename Request>
  absl::StatusOr<Admission> Admit(const Request& request) const;
  absl::StatusOr<const retrieve::Index*> IndexOf(const std::string& name) const;

  const assemble::Served& served_;
  const retrieve::TextEncoder& base_;
  const PolicyGate& gate_;
  RetrievalEngine& engine_;
  std::vector<ServedIndex> indexes_;
  const RetrievalOptions options_;
};

}  // namespace motet::coordinator
