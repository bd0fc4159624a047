// SPDX-License-Identifier: Apache-2.0
// motet compose plan|apply|add|rm|show|export: signed packages become one model.
#include <CLI/CLI.hpp>

#include "coordinator/cli.h"
#include "coordinator/commands/compose_parts.h"

namespace motet::coordinator {

void AddCompose(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "compose",
                        "One model out of the base and owners' experts: "
                        "plan, apply, add, rm, show, export");
  AddComposePlan(*noun, context);
  AddComposeApply(*noun, context);
  AddComposeAdd(*noun, context);
  AddComposeRm(*noun, context);
  AddComposeShow(*noun, context);
  AddComposeExport(*noun, context);
}

}  // namespace motet::coordinator
