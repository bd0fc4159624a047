// SPDX-License-Identifier: Apache-2.0
// motet-node join: takes the certificate that an administrator sent back.
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_format.h"
#include "node/cli.h"
#include "node/membership.h"
#include "proto/error.h"

namespace motet::node {
namespace {

struct Options {
  std::string certificate, authority;
};

absl::Status Join(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Settings settings, LoadSettings(context.dir));
  MOTET_RETURN_IF_ERROR(
      JoinFederation(settings, options.certificate, options.authority));
  absl::PrintF(
      "%s is a member of federation %s.\n"
      "Next:\n"
      "  motet-node corpus import --dir %s FILE.jsonl ...\n"
      "  motet-node run --dir %s\n",
      settings.Name(), settings.federation, settings.dir, settings.dir);
  return absl::OkStatus();
}

}  // namespace

void AddJoin(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand(
      "join", "Become a member: check and install the certificate that an "
              "administrator issued");
  auto options = std::make_shared<Options>();
  command
      ->add_option("--certificate", options->certificate,
                   "PEM file that `motet member approve` wrote")
      ->required();
  command
      ->add_option("--authority", options->authority,
                   "The federation's ca.pem, from its administrator")
      ->required();
  SetAction(command, context,
            [options, &context] { return Join(*options, context); });
}

}  // namespace motet::node
