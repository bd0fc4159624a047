// SPDX-License-Identifier: Apache-2.0
// A federation of one authority, a coordinator and an owner, and packages of
// a tiny base and a tiny expert, for the tests of compose/package.
#pragma once

#include <string>
#include <vector>

#include "compose/package/package_folder.h"
#include "proto/identity.h"

namespace motet::package {

std::string FreshFolder(const std::string& name);

struct Signer {
  std::string private_pem, certificate_pem;
};
struct Federation {
  proto::Authority authority;
  Signer coordinator;  // spiffe://choir/coordinator/main
  Signer clinic;       // spiffe://choir/owner/clinic.example/node/one
  Signer bank;         // spiffe://choir/owner/bank.example/node/one
};
// Made once a process: keys take time.
const Federation& TheFederation();

// Numbers behind the tensors of one package; must outlive its content.
class TensorNumbers {
 public:
  math::Tensor New(const math::Shape& shape, float first);

 private:
  std::vector<std::unique_ptr<std::vector<float>>> blocks_;
};

inline constexpr int kLayers = 2, kWidth = 4, kFfnWidth = 6, kVocabulary = 8;

PackageContent BaseContent(TensorNumbers& numbers);
PackageContent ExpertContent(const OpenedPackage& base, TensorNumbers& numbers);

// Both built and opened in a fresh folder.
struct Packages {
  std::string base_folder, expert_folder;
  OpenedPackage base, expert;
};
Packages MakePackages();

// Signs a folder's files again, as one who holds the key would after
// changing them.
void SignAgain(const std::string& folder, const std::string& id,
               const Signer& signer);
// ... after replacing `from` by `to` in manifest.json.
void EditManifest(const std::string& folder, const std::string& from,
                  const std::string& to);

}  // namespace motet::package
