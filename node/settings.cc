// SPDX-License-Identifier: Apache-2.0
#include "node/settings.h"

#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/toml_table.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::node {
namespace {

constexpr int64_t kMaxThreads = 1024;

std::string QuoteAll(const std::vector<std::string>& values) {
  std::vector<std::string> quoted;
  for (const std::string& v : values) quoted.push_back(TomlQuote(v));
  return absl::StrCat("[", absl::StrJoin(quoted, ", "), "]");
}

// The environment's values over the file's; an empty variable is unset.
absl::Status ApplyEnvironment(Settings& s) {
  const auto read = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (std::string v = read("MOTET_COORDINATOR"); !v.empty()) {
    MOTET_RETURN_IF_ERROR(CheckAddress("MOTET_COORDINATOR", v));
    s.coordinator = v;
  }
  if (std::string v = read("MOTET_REGISTRY"); !v.empty()) {
    MOTET_RETURN_IF_ERROR(CheckAddress("MOTET_REGISTRY", v));
    s.registry = v;
  }
  if (std::string v = read("MOTET_THREADS"); !v.empty()) {
    if (!absl::SimpleAtoi(v, &s.threads) || s.threads < 0 ||
        s.threads > kMaxThreads) {
      return proto::Invalid("MOTET_THREADS", v,
                            absl::StrCat("0 to ", kMaxThreads),
                            "0 takes every core");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string Settings::Path(const std::string& relative) const {
  return absl::StrCat(dir, "/", relative);
}

proto::SpiffeId Settings::Id() const {
  return {.federation = federation, .role = "node", .owner = owner,
          .name = node};
}

proto::TlsFiles Settings::Tls() const {
  return {.authority = Path("ca.pem"), .certificate = Path("certificate.pem"),
          .private_key = Path("key.pem")};
}

std::string DomainOf(const std::string& owner) {
  return owner.substr(0, owner.find('.'));
}

absl::Status CheckAddress(absl::string_view where, absl::string_view address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return proto::Invalid(where, absl::StrCat("\"", address, "\""),
                          "host:port", "for example 127.0.0.1:7442");
  }
  return absl::OkStatus();
}

absl::StatusOr<Settings> LoadSettings(const std::string& dir) {
  const std::string path = dir + "/node.toml";
  if (!proto::Exists(path)) {
    return proto::Error(
        absl::StatusCode::kNotFound, path, "no such file", "a node's folder",
        "make one with `motet-node init --federation NAME --owner ORG "
        "--node NAME --dir DIR`, or give the folder of one with --dir");
  }
  MOTET_ASSIGN_OR_RETURN(std::string text,
                         proto::ReadFile(path, proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(TomlTable table, TomlTable::Parse(text, path));
  Settings s;
  s.dir = dir;
  table.Read("federation", &s.federation);
  table.Read("owner", &s.owner);
  table.Read("node", &s.node);
  table.Read("coordinator", &s.coordinator);
  table.Read("registry", &s.registry);
  table.Read("domain", &s.domain);
  table.Read("title", &s.title);
  table.Read("tags", &s.tags);
  table.Read("languages", &s.languages);
  table.Read("threads", &s.threads);
  table.Read("embedder", &s.embedder);
  for (const auto& [key, value] :
       {std::pair{"federation", s.federation}, std::pair{"owner", s.owner},
        std::pair{"node", s.node}}) {
    if (!proto::CheckName(key, value).ok()) {
      table.Problem(key, absl::StrCat("\"", value, "\""),
                    "a name of a-z, 0-9, '.' and '-'");
    }
  }
  for (const auto& [key, value] : {std::pair{"coordinator", s.coordinator},
                                   std::pair{"registry", s.registry}}) {
    if (!CheckAddress(key, value).ok()) {
      table.Problem(key, absl::StrCat("\"", value, "\""), "host:port");
    }
  }
  if (s.domain.empty()) s.domain = DomainOf(s.owner);
  if (!s.domain.empty() && !proto::CheckName("domain", s.domain).ok()) {
    table.Problem("domain", absl::StrCat("\"", s.domain, "\""),
                  "a short label of a-z, 0-9, '.' and '-'");
  }
  if (s.threads < 0 || s.threads > kMaxThreads) {
    table.Problem("threads", absl::StrCat(s.threads),
                  absl::StrCat("0 to ", kMaxThreads));
  }
  MOTET_RETURN_IF_ERROR(table.Finish());
  MOTET_RETURN_IF_ERROR(ApplyEnvironment(s));
  if (s.title.empty()) {
    s.title = absl::StrCat(s.domain, " expert of ", s.owner);
  }
  return s;
}

std::string WriteSettings(const Settings& s) {
  return absl::StrCat(
      "# motet-node: who this node is and where it dials. Everything here is\n"
      "# explained in docs/node.md. An unknown key is an error.\n"
      "federation = ",
      TomlQuote(s.federation), "\n", "owner = ", TomlQuote(s.owner), "\n",
      "node = ", TomlQuote(s.node), "\n\n",
      "# Dialled by this node over mutual TLS; nothing is listened to.\n"
      "coordinator = ",
      TomlQuote(s.coordinator), "\n", "registry = ", TomlQuote(s.registry),
      "\n\n",
      "# How the expert describes itself in the registry.\n"
      "domain = ",
      TomlQuote(s.domain.empty() ? DomainOf(s.owner) : s.domain), "\n",
      s.title.empty() ? "# title = \"...\""
                      : absl::StrCat("title = ", TomlQuote(s.title)),
      "\n", "tags = ", QuoteAll(s.tags), "\n",
      "languages = ", QuoteAll(s.languages), "\n\n",
      "# Processor threads of a training run; 0 = every core. A job keeps the\n"
      "# number it began with, so that it resumes to the same bits.\n"
      "threads = ",
      s.threads, "\n\n",
      "# Folder of an encoder (docs/encoder.md), for plans whose router rows\n"
      "# begin from one.\n",
      s.embedder.empty() ? "# embedder = \"...\""
                         : absl::StrCat("embedder = ", TomlQuote(s.embedder)),
      "\n");
}

}  // namespace motet::node
