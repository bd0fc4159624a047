// SPDX-License-Identifier: Apache-2.0
#include "node/membership.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/policy.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::node {
namespace {

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  return proto::ReadFile(path, proto::kMaxCertificateBytes);
}

}  // namespace

absl::StatusOr<InitResult> InitNode(const Settings& settings) {
  MOTET_RETURN_IF_ERROR(proto::CheckName("--federation", settings.federation));
  MOTET_RETURN_IF_ERROR(proto::CheckName("--owner", settings.owner));
  MOTET_RETURN_IF_ERROR(proto::CheckName("--node", settings.node));
  MOTET_RETURN_IF_ERROR(CheckAddress("--coordinator", settings.coordinator));
  MOTET_RETURN_IF_ERROR(CheckAddress("--registry", settings.registry));
  if (proto::Exists(settings.Path("node.toml"))) {
    return proto::Error(absl::StatusCode::kAlreadyExists,
                        settings.Path("node.toml"), "a node's folder",
                        "an empty or new one",
                        "choose another --dir; to become a member with this "
                        "one, use `motet-node join`");
  }
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(settings.dir, 0700));
  const std::string key_path = settings.Path("key.pem");
  std::string key;
  if (proto::Exists(key_path)) {
    MOTET_ASSIGN_OR_RETURN(key, ReadPem(key_path));
  } else {
    MOTET_ASSIGN_OR_RETURN(proto::KeyPair pair, proto::MakeKey());
    key = pair.private_pem;
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(key_path, key, 0600));
  }
  InitResult result;
  result.request_path = settings.Path("request.pem");
  MOTET_ASSIGN_OR_RETURN(std::string request,
                         proto::MakeRequest(key, settings.Id()));
  MOTET_ASSIGN_OR_RETURN(proto::RequestInfo info,
                         proto::InspectRequest(request));
  result.fingerprint = info.fingerprint;
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(result.request_path, request, 0644));
  if (!proto::Exists(settings.Path("policy.toml"))) {
    MOTET_RETURN_IF_ERROR(
        proto::WriteFileAtomic(settings.Path("policy.toml"),
                               PolicyTemplate(settings.federation), 0600));
  }
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
      settings.Path("node.toml"), WriteSettings(settings), 0644));
  return result;
}

absl::Status JoinFederation(const Settings& settings,
                            const std::string& certificate_path,
                            const std::string& authority_path) {
  MOTET_ASSIGN_OR_RETURN(std::string certificate, ReadPem(certificate_path));
  MOTET_ASSIGN_OR_RETURN(std::string authority, ReadPem(authority_path));
  MOTET_ASSIGN_OR_RETURN(std::string key, ReadPem(settings.Path("key.pem")));
  MOTET_ASSIGN_OR_RETURN(proto::CertificateInfo info,
                         proto::InspectCertificate(certificate));
  std::vector<std::string> problems;
  if (absl::Status s = proto::VerifyCertificate(certificate, authority);
      !s.ok()) {
    problems.push_back(std::string(s.message()));
  }
  if (auto federation = proto::FederationOf(authority); !federation.ok()) {
    problems.push_back(std::string(federation.status().message()));
  } else if (*federation != settings.federation) {
    problems.push_back(absl::StrCat("the authority is of federation ",
                                    *federation, ", this node of ",
                                    settings.federation));
  }
  if (info.id.ToString() != settings.Id().ToString()) {
    problems.push_back(absl::StrCat("the certificate names ",
                                    info.id.ToString(), ", this node is ",
                                    settings.Id().ToString()));
  }
  // A request made from our key shows our public key's fingerprint.
  MOTET_ASSIGN_OR_RETURN(std::string request,
                         proto::MakeRequest(key, settings.Id()));
  MOTET_ASSIGN_OR_RETURN(proto::RequestInfo ours,
                         proto::InspectRequest(request));
  if (ours.fingerprint != info.fingerprint) {
    problems.push_back(absl::StrCat("the certificate is for key ",
                                    info.fingerprint, ", this node's is ",
                                    ours.fingerprint));
  }
  if (!problems.empty()) {
    return proto::Invalid(
        certificate_path, absl::StrJoin(problems, "; "),
        absl::StrCat("a certificate for ", settings.Id().ToString(),
                     " by its federation's authority"),
        absl::StrCat("ask an administrator to approve ",
                     settings.Path("request.pem")));
  }
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(settings.Path("ca.pem"), authority));
  return proto::WriteFileAtomic(settings.Path("certificate.pem"), certificate);
}

absl::Status CheckJoined(const Settings& settings) {
  for (const char* name : {"certificate.pem", "ca.pem"}) {
    if (proto::Exists(settings.Path(name))) continue;
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, settings.Path(name),
        "no such file", "this node's certificate and the authority's",
        absl::StrCat("have an administrator approve ",
                     settings.Path("request.pem"),
                     ", then `motet-node join --dir ", settings.dir,
                     " --certificate FILE --authority FILE`"));
  }
  return absl::OkStatus();
}

}  // namespace motet::node
