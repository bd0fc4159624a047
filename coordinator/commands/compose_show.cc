// SPDX-License-Identifier: Apache-2.0
// motet compose show NAME: a composition's lock, for people.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/commands/compose_parts.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

absl::Status Show(const std::string& name, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const Federation federation,
                         OpenFederation(context.federation));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(federation, name));
  const std::string text = assemble::WriteLock(lock);
  if (context.json) {
    absl::PrintF("%s", text);
    return absl::OkStatus();
  }
  absl::PrintF("composition  %s\n", lock.name());
  absl::PrintF("lock         %s\n", proto::Hex(proto::Sha256(text)));
  absl::PrintF("method       %s, made by %s\n", lock.method(),
               lock.software());
  const v1::RouterLock& r = lock.router();
  if (lock.has_router()) {
    absl::PrintF("router       %s, rows %s, k %d, smoothing %g, gate %s\n",
                 r.kind(), r.rows(), r.k(), r.smoothing(),
                 r.gate() ? absl::StrFormat("on (q %g)", r.gate_quantile())
                          : "off");
  } else {
    absl::PrintF("how          %s\n", MethodText(lock));
  }
  if (lock.has_tuning()) {
    const v1::TuningLock& t = lock.tuning();
    absl::PrintF("tuning       %d steps on %d documents (%s), in the presence "
                 "of all below; a narrower set: the %s rows\n",
                 t.steps(), t.documents(), t.data_sha256().substr(0, 12),
                 t.narrowed() == "tuned" ? "tuned" : t.untuned_rows());
  }
  absl::PrintF("exclusion    %s\n\n", lock.exclusion());
  std::vector<std::vector<Cell>> rows = {
      {{"0"}, {lock.base().id()}, {"(base)"}, {"-"}, {"-"},
       {lock.base().manifest_sha256().substr(0, 12)}}};
  for (const v1::LockedExpert& e : lock.experts()) {
    rows.push_back({{absl::StrCat(rows.size())},
                    {e.id()},
                    {e.domain()},
                    {assemble::TermsText(e.licence())},
                    {absl::StrCat(e.log_index())},
                    {e.manifest_sha256().substr(0, 12)}});
  }
  for (const v1::LockedPilots& p : lock.retriever().pilots()) {
    rows.push_back({{""},
                    {p.id()},
                    {"(pilots)"},
                    {absl::StrCat("with ", p.of())},
                    {"-"},
                    {p.manifest_sha256().substr(0, 12)}});
  }
  absl::PrintF("%s", AlignedTable({"", "package", "domain", "terms",
                                   "log entry", "digest"},
                                  rows));
  return absl::OkStatus();
}

}  // namespace

void AddComposeShow(CLI::App& noun, Context& context) {
  CLI::App* command =
      noun.add_subcommand("show", "What a composition is made of");
  auto name = std::make_shared<std::string>();
  command->add_option("name", *name, "The composition's name")->required();
  SetAction(command, context,
            [name, &context] { return Show(*name, context); });
}

}  // namespace motet::coordinator
