// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coordinator/cli.h"

namespace motet::coordinator {

// motet expert import, below the noun "expert".
void AddExpertImport(CLI::App& noun, Context& context);

}  // namespace motet::coordinator
