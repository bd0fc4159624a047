// SPDX-License-Identifier: Apache-2.0
// motet init: a federation with its own certificate authority, and the
// certificates of its coordinator and registry.
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cli.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::string registry = "127.0.0.1:7443";
  std::string coordinator = "127.0.0.1:7442";
};

// The key is made in the folder that will use it.
absl::Status Enrol(const proto::Authority& authority, const std::string& folder,
                   const proto::SpiffeId& id) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder, 0700));
  MOTET_ASSIGN_OR_RETURN(proto::KeyPair key, proto::MakeKey());
  MOTET_ASSIGN_OR_RETURN(std::string request,
                         proto::MakeRequest(key.private_pem, id));
  MOTET_ASSIGN_OR_RETURN(proto::RequestInfo info,
                         proto::InspectRequest(request));
  MOTET_ASSIGN_OR_RETURN(std::string certificate,
                         proto::Issue(authority, request, info.fingerprint));
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(absl::StrCat(folder, "/key.pem"),
                                               key.private_pem, 0600));
  return proto::WriteFileAtomic(absl::StrCat(folder, "/certificate.pem"),
                                certificate);
}

absl::Status Run(const Options& options, const Context& context) {
  const std::string& dir = context.federation;
  MOTET_RETURN_IF_ERROR(proto::CheckName("init", options.name));
  if (proto::Exists(absl::StrCat(dir, "/motet.toml"))) {
    return proto::Error(absl::StatusCode::kAlreadyExists, "init",
                        absl::StrCat("a federation in ", dir),
                        "a folder without one", "choose another folder");
  }
  for (const char* folder :
       {"", "/members", "/packages", "/compositions", "/jobs", "/registry"}) {
    MOTET_RETURN_IF_ERROR(proto::MakeDirectories(absl::StrCat(dir, folder)));
  }
  MOTET_RETURN_IF_ERROR(
      proto::MakeDirectories(absl::StrCat(dir, "/ca"), 0700));
  MOTET_ASSIGN_OR_RETURN(proto::Authority authority,
                         proto::MakeAuthority(options.name));
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(absl::StrCat(dir, "/ca/ca.key"),
                                               authority.private_pem, 0600));
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
      absl::StrCat(dir, "/ca/ca.pem"), authority.certificate_pem));
  MOTET_RETURN_IF_ERROR(
      Enrol(authority, absl::StrCat(dir, "/coordinator"),
            {options.name, "coordinator", "", "main"}));
  MOTET_RETURN_IF_ERROR(Enrol(authority, absl::StrCat(dir, "/registry"),
                              {options.name, "registry", "", "main"}));
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(absl::StrCat(dir, "/registry/ca.pem"),
                             authority.certificate_pem));
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
      absl::StrCat(dir, "/registry/registry.toml"),
      absl::StrFormat("# motet-registry run --config THIS\n"
                      "federation = \"%s\"\n"
                      "address = \"%s\"\n"
                      "data = \"data\"\n"
                      "authority = \"ca.pem\"\n"
                      "certificate = \"certificate.pem\"\n"
                      "private_key = \"key.pem\"\n",
                      options.name, options.registry)));
  // Last: a folder with a motet.toml is a whole federation.
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
      absl::StrCat(dir, "/motet.toml"),
      absl::StrFormat("# A Motet federation (docs/federation.md).\n"
                      "name = \"%s\"\n"
                      "registry = \"%s\"      # where motet-registry listens\n"
                      "coordinator = \"%s\"   # where `motet daemon run` "
                      "listens\n",
                      options.name, options.registry, options.coordinator)));
  if (context.json) {
    nlohmann::json j{{"federation", options.name},
                     {"folder", dir},
                     {"authority", absl::StrCat(dir, "/ca/ca.pem")}};
    absl::PrintF("%s\n", JsonText(j));
  } else {
    absl::PrintF(
        "Federation \"%s\" made in %s.\n"
        "  ca/            its certificate authority; ca.key stays here\n"
        "  registry/      start it: motet-registry run --config "
        "%s/registry/registry.toml\n"
        "  coordinator/   start it: motet daemon run --federation %s\n"
        "Next: give owners ca/ca.pem; approve their requests with `motet "
        "member approve`.\n",
        options.name, dir, dir, dir);
  }
  return absl::OkStatus();
}

}  // namespace

void AddInit(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "init", "Make a federation: its authority, and certificates for its "
              "coordinator and registry, in the --federation folder");
  command->add_option("name", options->name, "The federation's name, DNS-like")
      ->required();
  command
      ->add_option("--registry-address", options->registry,
                   "Where the registry will listen")
      ->capture_default_str();
  command
      ->add_option("--coordinator-address", options->coordinator,
                   "Where the coordinator's daemon will listen")
      ->capture_default_str();
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
