// SPDX-License-Identifier: Apache-2.0
// motet member inspect|approve|list: who belongs to the federation. Requests
// and certificates travel as files; a private key never does.
#include <CLI/CLI.hpp>
#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "coordinator/cli.h"
#include "coordinator/federation.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string request;
  std::string fingerprint;
  int days = 365;
};

std::string Date(int64_t seconds) {
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixSeconds(seconds),
                          absl::UTCTimeZone());
}

absl::Status Inspect(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(
      std::string request,
      proto::ReadFile(options.request, proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(proto::RequestInfo info,
                         proto::InspectRequest(request));
  if (context.json) {
    absl::PrintF("%s\n",
                 JsonText(nlohmann::json{{"id", info.id.ToString()},
                                         {"owner", info.id.owner},
                                         {"fingerprint", info.fingerprint}}));
  } else {
    absl::PrintF("request of   %s\nfingerprint  %s\n", info.id.ToString(),
                 info.fingerprint);
  }
  return absl::OkStatus();
}

absl::Status Approve(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Federation federation,
                         OpenFederation(context.federation));
  MOTET_ASSIGN_OR_RETURN(
      std::string request,
      proto::ReadFile(options.request, proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(proto::RequestInfo info,
                         proto::InspectRequest(request));
  if (info.id.role != "node") {
    return proto::Invalid("member approve",
                          absl::StrCat("a request of ", info.id.ToString()),
                          "one of an owner's node");
  }
  proto::Authority authority{federation.authority_pem, ""};
  MOTET_ASSIGN_OR_RETURN(authority.private_pem,
                         proto::ReadFile(federation.Path("ca/ca.key"),
                                         proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(
      std::string certificate,
      proto::Issue(authority, request, options.fingerprint,
                   {.days = options.days, .hosts = {}}));
  const std::string folder =
      federation.Path(absl::StrCat("members/", info.id.owner));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  const std::string path = absl::StrCat(folder, "/", info.id.name, ".pem");
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(path, certificate));
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::json{{"id", info.id.ToString()},
                                                 {"certificate", path}}));
  } else {
    absl::PrintF(
        "Approved %s for %d days.\nCertificate: %s\n"
        "Next, at the owner: motet-node join --certificate %s --authority "
        "%s\n",
        info.id.ToString(), options.days, path, path,
        federation.Path("ca/ca.pem"));
  }
  return absl::OkStatus();
}

absl::Status List(const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Federation federation,
                         OpenFederation(context.federation));
  MOTET_ASSIGN_OR_RETURN(std::vector<std::string> owners,
                         proto::ListDirectory(federation.Path("members")));
  nlohmann::json list = nlohmann::json::array();
  std::vector<std::vector<Cell>> rows;
  for (const std::string& owner : owners) {
    const std::string folder = federation.Path(absl::StrCat("members/", owner));
    MOTET_ASSIGN_OR_RETURN(std::vector<std::string> nodes,
                           proto::ListDirectory(folder));
    for (const std::string& node : nodes) {
      MOTET_ASSIGN_OR_RETURN(std::string pem,
                             proto::ReadFile(absl::StrCat(folder, "/", node),
                                             proto::kMaxCertificateBytes));
      MOTET_ASSIGN_OR_RETURN(proto::CertificateInfo info,
                             proto::InspectCertificate(pem));
      list.push_back({{"owner", info.id.owner},
                      {"node", info.id.name},
                      {"fingerprint", info.fingerprint},
                      {"not_after", Date(info.not_after)}});
      rows.push_back({{info.id.owner},
                      {info.id.name},
                      {Date(info.not_after)},
                      {info.fingerprint}});
    }
  }
  if (context.json) {
    absl::PrintF("%s\n", JsonText(list));
  } else {
    absl::PrintF("%s", AlignedTable({"owner", "node", "until", "fingerprint"},
                                    rows));
  }
  return absl::OkStatus();
}

}  // namespace

void AddMember(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "member", "Owners' nodes: look at requests, "
                                       "approve them, list members");
  auto options = std::make_shared<Options>();
  CLI::App* inspect = noun->add_subcommand(
      "inspect", "Show whose a request is, and its fingerprint");
  inspect->add_option("request", options->request, "request.pem of a node")
      ->required();
  SetAction(inspect, context,
            [options, &context] { return Inspect(*options, context); });
  CLI::App* approve = noun->add_subcommand(
      "approve",
      "Issue a node's certificate. The fingerprint must come from the owner "
      "by another way (telephone, paper): it proves whose key this is");
  approve->add_option("request", options->request, "request.pem of a node")
      ->required();
  approve
      ->add_option("--fingerprint", options->fingerprint,
                   "SHA256:… as the owner's `motet-node init` printed it")
      ->required();
  approve->add_option("--days", options->days, "How long it is valid")
      ->check(CLI::Range(1, 3650))
      ->capture_default_str();
  SetAction(approve, context,
            [options, &context] { return Approve(*options, context); });
  CLI::App* list = noun->add_subcommand("list", "List approved nodes");
  SetAction(list, context, [&context] { return List(context); });
}

}  // namespace motet::coordinator
