// SPDX-License-Identifier: Apache-2.0
#include "coordinator/commands/eval_domains.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

void Cut(int64_t max_bytes, std::vector<std::string>& documents) {
  for (size_t i = 0; i < documents.size(); ++i) {
    std::string& text = documents[i];
    if (static_cast<int64_t>(text.size()) < max_bytes) {
      max_bytes -= static_cast<int64_t>(text.size());
      continue;
    }
    size_t end = static_cast<size_t>(max_bytes);
    while (end > 0 && end < text.size() && (text[end] & 0xC0) == 0x80) --end;
    text.resize(end);
    documents.resize(i + 1);
    return;
  }
}

}  // namespace

void AddDomainOptions(CLI::App& command, DomainOptions& options) {
  command
      .add_option("--domain", options.domains,
                  "NAME=FILE.jsonl, held-out text of a domain; once for each")
      ->allow_extra_args(false)
      ->required();
  command
      .add_option("--max-bytes", options.max_bytes,
                  "At most this many bytes of text a domain; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

absl::StatusOr<std::vector<measure::Domain>> ReadDomains(
    const DomainOptions& options) {
  std::vector<measure::Domain> domains;
  for (const std::string& text : options.domains) {
    const size_t equal = text.find('=');
    if (equal == 0 || equal == std::string::npos ||
        equal + 1 == text.size()) {
      return proto::Invalid("--domain", absl::StrCat("\"", text, "\""),
                            "NAME=FILE.jsonl");
    }
    measure::Domain domain;
    domain.name = text.substr(0, equal);
    MOTET_ASSIGN_OR_RETURN(domain.documents,
                           learn::ReadJsonl(text.substr(equal + 1)));
    if (options.max_bytes > 0) Cut(options.max_bytes, domain.documents);
    domains.push_back(std::move(domain));
  }
  return domains;
}

}  // namespace motet::coordinator
