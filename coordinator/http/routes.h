// SPDX-License-Identifier: Apache-2.0
// What every front of `motet serve` has beside its own routes: the list of
// models, health, and errors in OpenAI's form.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "compose/assemble/served_model.h"
#include "coordinator/http/server.h"
#include "nlohmann/json.hpp"

namespace motet::coordinator {

void Fail(HttpReply& reply, const absl::Status& status);
void ReplyJson(HttpReply& reply, const nlohmann::json& body);

// GET /v1/models, /v1/models/NAME, /livez and /readyz; 404 for all else, with
// these and `own`. more: what /v1/models says of this kind of model.
void ServeCommonRoutes(const HttpRequest& request,
                       const assemble::Served& served,
                       const nlohmann::json& more, const std::string& own,
                       HttpReply& reply);

}  // namespace motet::coordinator
