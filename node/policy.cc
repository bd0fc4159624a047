// SPDX-License-Identifier: Apache-2.0
#include "node/policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "compose/package/manifest_training.h"
#include "node/plan_check.h"
#include "node/toml_table.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::node {
namespace {

constexpr double kMaxNoise = 100;

bool Contains(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// A date, or a date and time with its zone.
bool IsTime(const std::string& text) {
  absl::Time time;
  std::string error;
  return absl::ParseTime("%Y-%m-%d", text, &time, &error) ||
         absl::ParseTime(absl::RFC3339_full, text, &time, &error);
}

void ReadLicence(TomlTable& table, v1::LicenceTerms* licence) {
  const auto text = [&](const char* key, std::string* out) {
    table.Read(absl::StrCat("licence.", key), out);
  };
  const auto list = [&](const char* key, auto* out) {
    std::vector<std::string> values;
    table.Read(absl::StrCat("licence.", key), &values);
    out->Assign(values.begin(), values.end());
  };
  licence->set_spdx("LicenseRef-Federation-Only");
  text("spdx", licence->mutable_spdx());
  list("forbidden_purposes", licence->mutable_forbidden_purposes());
  list("allowed_purposes", licence->mutable_allowed_purposes());
  list("forbidden_tenants", licence->mutable_forbidden_tenants());
  list("allowed_tenants", licence->mutable_allowed_tenants());
  text("not_before", licence->mutable_not_before());
  text("not_after", licence->mutable_not_after());
  text("attribution", licence->mutable_attribution());
  if (licence->spdx().empty()) {
    table.Problem("licence.spdx", "empty", "an SPDX expression");
  }
  for (const auto& [key, value] :
       {std::pair{"licence.not_before", licence->not_before()},
        std::pair{"licence.not_after", licence->not_after()}}) {
    if (!value.empty() && !IsTime(value)) {
      table.Problem(key, absl::StrCat("\"", value, "\""),
                    "a date like 2027-01-31 or a time like "
                    "2027-01-31T00:00:00Z");
    }
  }
}

}  // namespace

absl::StatusOr<Policy> ParsePolicy(const std::string& text,
                                   const std::string& where) {
  auto parsed = TomlTable::Parse(text, where);
  if (!parsed.ok()) return parsed.status();
  TomlTable& table = *parsed;
  Policy p;
  table.Read("approve.methods", &p.methods);
  table.Read("approve.publish", &p.publish);
  table.Read("approve.only_from", &p.only_from);
  table.Read("approve.max_steps", &p.max_steps);
  table.Read("approve.max_tokens", &p.max_tokens);
  table.Read("approve.min_public_fraction", &p.min_public_fraction);
  table.Read("statistics.min_documents", &p.min_documents);
  table.Read("statistics.noise", &p.noise);
  table.Read("pilots.min_queries", &p.min_queries);
  table.Read("pilots.noise", &p.pilot_noise);
  ReadLicence(table, &p.licence);
  for (const std::string& id : p.only_from) {
    if (!proto::ParseSpiffeId(id).ok()) {
      table.Problem("approve.only_from", absl::StrCat("\"", id, "\""),
                    "spiffe://FEDERATION/coordinator/NAME");
    }
  }
  for (const auto& [key, value] :
       {std::pair{"approve.max_steps", p.max_steps},
        std::pair{"approve.max_tokens", p.max_tokens},
        std::pair{"statistics.min_documents", p.min_documents}}) {
    if (value < 0) {
      table.Problem(key, absl::StrCat(value), "a number not below 0");
    }
  }
  for (const auto& [key, value] :
       {std::pair{"statistics.noise", p.noise},
        std::pair{"pilots.noise", p.pilot_noise}}) {
    if (value >= 0 && value <= kMaxNoise) continue;
    table.Problem(key, absl::StrFormat("%g", value),
                  absl::StrFormat("0 to %g", kMaxNoise));
  }
  if (p.min_queries < 2) {
    table.Problem("pilots.min_queries", absl::StrCat(p.min_queries),
                  "2 or more: the mean of one query is its vector");
  }
  if (!(p.min_public_fraction >= 0 && p.min_public_fraction <= 1)) {
    table.Problem("approve.min_public_fraction",
                  absl::StrFormat("%g", p.min_public_fraction), "0 to 1");
  }
  if (absl::Status s = table.Finish(); !s.ok()) return s;
  return p;
}

absl::StatusOr<Policy> LoadPolicy(const std::string& dir) {
  const std::string path = dir + "/policy.toml";
  if (!proto::Exists(path)) return ParsePolicy("", path);
  auto text = proto::ReadFile(path, proto::kMaxConfigBytes);
  if (!text.ok()) return text.status();
  return ParsePolicy(*text, path);
}

std::string NotHidden(const Policy& policy, const v1::TrainingPlan& plan) {
  if (policy.noise == 0 || !plan.second_moments()) return "";
  return absl::StrFormat("its second moments hold the means themselves, which "
                         "[statistics] noise = %g is to hide", policy.noise);
}

Decision Decide(const Policy& policy, const v1::TrainingPlan& plan,
                const std::string& from) {
  Decision d;
  const auto need = [&](bool fine, std::string reason) {
    if (!fine) d.reasons.push_back(std::move(reason));
  };
  if (policy.methods.empty()) {
    d.reasons.push_back("policy.toml approves no method by itself");
    return d;
  }
  need(Contains(policy.methods, plan.method()),
       absl::StrCat("method ", plan.method(), " is not among ",
                    absl::StrJoin(policy.methods, ", ")));
  for (const std::string& what : WouldPublish(plan)) {
    need(Contains(policy.publish, what),
         absl::StrCat("it would publish \"", what,
                      "\", which [approve] publish does not list"));
  }
  if (!policy.only_from.empty()) {
    // Both the sender, whom mutual TLS vouches for, and the issuer it names.
    need(Contains(policy.only_from, from),
         absl::StrCat("it came from ", from, ", not in only_from"));
    need(Contains(policy.only_from, plan.issued_by()),
         absl::StrCat("it was issued by ", plan.issued_by(),
                      ", not in only_from"));
  }
  need(policy.max_steps == 0 ||
           plan.steps() <= static_cast<uint64_t>(policy.max_steps),
       absl::StrCat(plan.steps(), " steps exceed max_steps = ",
                    policy.max_steps));
  need(policy.max_tokens == 0 ||
           PlanTokens(plan) <= static_cast<double>(policy.max_tokens),
       absl::StrFormat("%.0f tokens exceed max_tokens = %d", PlanTokens(plan),
                       policy.max_tokens));
  if (const std::string bare = NotHidden(policy, plan); !bare.empty()) {
    d.reasons.push_back(bare);
  }
  const auto* kind = package::FindTrainingKind(plan.kind());
  need((kind != nullptr && kind->retrieval) ||
           plan.public_fraction() >= policy.min_public_fraction,
       absl::StrFormat("public_fraction %g is below min_public_fraction = %g",
                       plan.public_fraction(), policy.min_public_fraction));
  d.approved = d.reasons.empty();
  return d;
}

std::string PolicyTemplate(const std::string& federation) {
  return absl::StrCat(
      R"(# policy.toml: this owner's consent, written down (docs/node.md).
#
# As it stands nothing is approved and nothing is refused: every training
# plan waits for
#     motet-node jobs approve PLAN     or     motet-node jobs refuse PLAN
# Take the # off the lines of [approve] to let plans that fit all of them run
# without asking. A plan that does not fit waits, and the log says why.

[approve]
# Methods that may run: "flexolmo" trains FFNs beside the base, "branch" a
# copy of the whole base (docs/training.md), "router_retriever" an adapter of
# a query encoder, and pilots (docs/retrieval.md).
# methods = ["flexolmo"]

# What may leave this node. A plan that would publish more waits. Of method
# "router_retriever": "adapter weights" and "mean vectors of groups of
# queries, with counts and reach" (in one line).
# publish = [
#   "ffn weights",
#   "router row and bias",
#   "per-layer means and thresholds",
# ]

# Only plans from these coordinators; leave out for any of the federation.
# only_from = ["spiffe://)", federation, R"(/coordinator/main"]

# Limits of one plan; leave out for none.
# max_steps = 100000
# max_tokens = 1000000000
# min_public_fraction = 0.3     # share of public text in every batch

[licence]
# Terms under which the expert is published; the federation's policy gate
# enforces them at every query. Empty lists do not restrict.
spdx = "LicenseRef-Federation-Only"
forbidden_purposes = []         # e.g. ["advertising"]
allowed_purposes = []
forbidden_tenants = []
allowed_tenants = []
# not_before = "2026-01-01"
# not_after = "2027-01-01"
# attribution = "text to show with answers"

[statistics]
# Published means come from at least this many documents, or the job fails.
min_documents = 20
# Noise on published means, in standard deviations of public text's router
# inputs (docs/training.md); 0 for none. With noise no plan that asks
# for second moments fits: these hold the means themselves.
noise = 0

[pilots]
# A published pilot is the mean of at least this many of your queries' vectors,
# with their number and its reach, the cosine to it that nine tenths of them have
# or exceed; smaller groups stay here and are only counted.
min_queries = 20
# Standard deviation of noise on every number of a pilot, and on its reach; 0
# for none. An encoder that normalises has vectors of length 1.
noise = 0
)");
}

}  // namespace motet::node
