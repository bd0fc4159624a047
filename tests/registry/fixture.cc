// SPDX-License-Identifier: Apache-2.0
#include "tests/registry/fixture.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "proto/digest.h"
#include "proto/files.h"
#include "proto/signature.h"

namespace motet::registry {
namespace {

namespace fs = std::filesystem;

// The value, or an end of the program that says why: a fixture that cannot be
// made leaves nothing to test.
template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    fprintf(stderr, "fixture: %s\n", value.status().ToString().c_str());
    abort();
  }
  return *std::move(value);
}

}  // namespace

TempFolder::TempFolder() : path_(testing::TempDir() + "registry_XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) abort();
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void WriteFile(const std::string& path, const std::string& bytes, int mode) {
  const absl::Status made =
      proto::MakeDirectories(fs::path(path).parent_path().string());
  ASSERT_TRUE(made.ok()) << made;
  const absl::Status status = proto::WriteFileAtomic(path, bytes, mode);
  ASSERT_TRUE(status.ok()) << status;
}

std::string ReadFile(const std::string& path) {
  return Must(proto::ReadFile(path, int64_t{1} << 30));
}

std::map<std::string, std::string> ReadFolder(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    files[entry.path().lexically_relative(folder).string()] =
        ReadFile(entry.path().string());
  }
  return files;
}

std::string Noise(size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::string noise(bytes, '\0');
  for (char& byte : noise) byte = static_cast<char>(random());
  return noise;
}

Federation::Federation(const std::string& name)
    : name_(name), authority_(Must(proto::MakeAuthority(name))) {}

Member Federation::Make(const proto::SpiffeId& id) {
  Member member;
  member.id = id;
  member.private_pem = Must(proto::MakeKey()).private_pem;
  const std::string request = Must(proto::MakeRequest(member.private_pem, id));
  member.certificate_pem = Must(proto::Issue(
      authority_, request, Must(proto::InspectRequest(request)).fingerprint));
  const std::string folder = folder_ / absl::StrCat("member", members_++);
  member.tls = {folder + "/ca.pem", folder + "/certificate.pem",
                folder + "/key.pem"};
  WriteFile(member.tls.authority, authority_.certificate_pem);
  WriteFile(member.tls.certificate, member.certificate_pem);
  WriteFile(member.tls.private_key, member.private_pem, 0600);
  return member;
}

Member Federation::Node(const std::string& owner) {
  return Make({name_, "node", owner, "one"});
}

Member Federation::Server(const std::string& role) {
  return Make({name_, role, "", "main"});
}

std::string WritePackage(const std::string& folder, const std::string& id,
                         const Member& signer,
                         std::map<std::string, std::string> files) {
  if (files.count("manifest.json") == 0) {
    files["manifest.json"] = absl::StrCat("{\"id\": \"", id, "\"}");
  }
  std::vector<proto::SignedFile> to_sign;
  for (const auto& [path, bytes] : files) {
    WriteFile(folder + "/" + path, bytes);
    to_sign.push_back({path, proto::Sha256(bytes)});
  }
  WriteFile(folder + "/model.sig",
            Must(proto::SignFiles(id, to_sign, signer.private_pem,
                                  signer.certificate_pem)));
  return folder;
}

std::unique_ptr<Server> Serve(Federation& federation,
                              std::shared_ptr<Store> store) {
  ServerOptions options;
  options.federation = federation.name();
  options.address = "127.0.0.1:0";
  options.tls = federation.Server("registry").tls;
  return Must(Server::Start(options, std::move(store)));
}

std::unique_ptr<Client> Connect(const Server& server, const Member& member) {
  return Must(Client::Make(server.address(), member.tls));
}

}  // namespace motet::registry
