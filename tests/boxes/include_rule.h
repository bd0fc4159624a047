// SPDX-License-Identifier: Apache-2.0
// Which box may include which (docs/architecture.md). Text in, complaints
// out, so that the rule itself can be tested with made-up files.
#pragma once

#include <string>
#include <vector>

namespace motet::boxes {

// The box of a path below the repository: "compose/math", "registry", ...
// Empty for files that belong to none.
std::string BoxOf(const std::string& path);
// One line a forbidden include: "PATH:LINE includes X: BOX may not".
std::vector<std::string> Forbidden(const std::string& path,
                                   const std::string& text);

}  // namespace motet::boxes
