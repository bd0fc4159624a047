// SPDX-License-Identifier: Apache-2.0
// The file of a package that scores public documents. Any expert may carry
// one; the manifest's file table and training record name it.
#pragma once

#include <string>
#include <vector>

#include "compose/package/safetensors.h"

namespace motet::package {

// An expert's scores of the base's public documents, for proxy data (METHODS
// 1, step 6): documents I64 [N], each the 64-bit FNV-1a of a text, and scores
// F32 [N], finite.
inline constexpr char kProxyFile[] = "proxy.safetensors";
std::vector<std::string> CheckProxy(const SafetensorsFile& proxy);

}  // namespace motet::package
