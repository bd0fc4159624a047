// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_proxy.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace motet::package {

std::vector<std::string> CheckProxy(const SafetensorsFile& proxy) {
  std::vector<std::string> reasons;
  const math::Tensor ids = proxy.Find("documents");
  const math::Tensor scores = proxy.Find("scores");
  const auto fits = [&](const math::Tensor& t, math::DType dtype) {
    return !t.empty() && t.dtype == dtype && t.shape.rank == 1 &&
           t.size() == ids.size();
  };
  if (proxy.entries().size() != 2 || !fits(ids, math::DType::kI64) ||
      !fits(scores, math::DType::kF32)) {
    reasons.push_back(absl::StrCat(
        kProxyFile, " has other tensors than documents I64 [N] and scores F32 "
        "[N]"));
    return reasons;
  }
  for (int64_t i = 0; i < scores.size(); ++i) {
    if (std::isfinite(scores.f32()[i])) continue;
    reasons.push_back(absl::StrCat(kProxyFile, " has a score that is not "
                                   "finite"));
    break;
  }
  return reasons;
}

}  // namespace motet::package
