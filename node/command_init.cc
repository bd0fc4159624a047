// SPDX-License-Identifier: Apache-2.0
// motet-node init: a folder with a key, a request for a certificate, a
// node.toml and a policy.toml. Nothing leaves the machine.
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_format.h"
#include "node/cli.h"
#include "node/membership.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::node {
namespace {

absl::Status Init(Settings settings, const Context& context) {
  settings.dir = context.dir;
  MOTET_ASSIGN_OR_RETURN(InitResult result, InitNode(settings));
  if (context.json) {
    absl::PrintF("%s\n", nlohmann::json{{"request", result.request_path},
                                        {"fingerprint", result.fingerprint},
                                        {"id", settings.Id().ToString()}}
                             .dump(-1, ' ', false,
                                   nlohmann::json::error_handler_t::replace));
    return absl::OkStatus();
  }
  absl::PrintF(
      "Node %s of federation %s, in %s.\n"
      "  key.pem       its private key; it stays here\n"
      "  request.pem   for the federation's administrator\n"
      "  policy.toml   your consent; as made, every plan asks you first\n"
      "  node.toml     addresses, domain, threads\n"
      "Fingerprint of the key: %s\n"
      "\n"
      "Next, give the administrator %s, and tell the fingerprint by\n"
      "another way (telephone, paper). The administrator runs:\n"
      "  motet member approve %s --fingerprint %s\n"
      "and sends back a certificate and the authority's ca.pem. Then here:\n"
      "  motet-node join --dir %s --certificate CERTIFICATE.pem "
      "--authority ca.pem\n",
      settings.Name(), settings.federation, settings.dir, result.fingerprint,
      result.request_path, result.request_path, result.fingerprint,
      settings.dir);
  return absl::OkStatus();
}

}  // namespace

void AddInit(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand(
      "init", "Make a node's folder: its key, a request for a certificate, "
              "and its settings");
  auto settings = std::make_shared<Settings>();
  command
      ->add_option("--federation", settings->federation,
                   "The federation's name")
      ->required();
  command
      ->add_option("--owner", settings->owner,
                   "Your organisation, DNS-like: code.example")
      ->required();
  command->add_option("--node", settings->node, "This node's name: node1")
      ->required();
  command
      ->add_option("--coordinator", settings->coordinator,
                   "host:port that the node dials")
      ->envname("MOTET_COORDINATOR")
      ->capture_default_str();
  command
      ->add_option("--registry", settings->registry,
                   "host:port that the node publishes to")
      ->envname("MOTET_REGISTRY")
      ->capture_default_str();
  command->add_option("--domain", settings->domain,
                      "Short label of your text; default: the first part of "
                      "--owner");
  AddOutput(command, context);
  SetAction(command, context, [settings, &context] {
    return Init(*settings, context);
  });
}

}  // namespace motet::node
