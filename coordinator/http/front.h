// SPDX-License-Identifier: Apache-2.0
// The routes of `motet serve`: checks, asks the gate, calls the engine, maps
// the outcome. Everything a client sees is made by openai.h.
#pragma once

#include <string>

#include "coordinator/engine.h"
#include "coordinator/http/server.h"
#include "coordinator/policy.h"

namespace motet::coordinator {

class Front {
 public:
  Front(const assemble::ServedModel& model, const PolicyGate& gate,
        Engine& engine);
  void Handle(const HttpRequest& request, HttpReply& reply);

 private:
  void Completions(const HttpRequest& request, HttpReply& reply);

  const assemble::ServedModel& model_;
  const PolicyGate& gate_;
  Engine& engine_;
};

}  // namespace motet::coordinator
