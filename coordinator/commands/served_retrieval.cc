// SPDX-License-Identifier: Apache-2.0
#include "coordinator/commands/served_retrieval.h"

#include <utility>

#include "coordinator/commands/compose_parts.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

constexpr char kMethod[] = "router_retriever";

absl::StatusOr<ServedRetriever> OpenComposition(const ServedOptions& options,
                                                math::Product product,
                                                const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.model));
  ServedRetriever served;
  if (!options.offline) {
    MOTET_ASSIGN_OR_RETURN(served.revoked, Revoked(*session.client, lock));
  }
  MOTET_ASSIGN_OR_RETURN(
      served.retriever,
      retrieve::Retriever::Load(lock, FolderOf(session), product));
  return served;
}

}  // namespace

bool IsForRetrieval(const std::string& model, const Context& context) {
  const std::string config = model + "/config.json";
  if (proto::Exists(config)) {
    const auto text = proto::ReadFile(config, proto::kMaxConfigBytes);
    if (!text.ok()) return false;
    const auto json = nlohmann::json::parse(*text, nullptr, false);
    return json.is_object() && json.contains("model_type") &&
           json["model_type"] == "bert";
  }
  if (model.find('/') != std::string::npos) return false;
  const auto federation = OpenFederation(context.federation);
  if (!federation.ok()) return false;
  const auto lock = ReadLock(*federation, model);
  return lock.ok() && lock->method() == kMethod;
}

absl::StatusOr<ServedRetriever> OpenRetriever(const ServedOptions& options,
                                              math::Product product,
                                              const Context& context) {
  if (!options.router.empty()) {
    return proto::Invalid("--router", options.router,
                          "none: pilots route queries", "leave it out");
  }
  ServedRetriever served;
  if (proto::Exists(options.model + "/config.json")) {
    MOTET_ASSIGN_OR_RETURN(served.retriever, retrieve::Retriever::OfDirectory(
                                                 options.model, product));
  } else {
    MOTET_ASSIGN_OR_RETURN(served, OpenComposition(options, product, context));
  }
  if (!options.name.empty()) served.retriever->name = options.name;
  return served;
}

}  // namespace motet::coordinator
