// SPDX-License-Identifier: Apache-2.0
// MODEL on a command line: a Hugging Face model directory, for which no
// federation is needed or looked for, or the name of a composition.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "compose/assemble/served_model.h"
#include "coordinator/cli.h"
#include "coordinator/engine.h"
#include "coordinator/policy.h"
#include "generation.pb.h"
#include "lock.pb.h"
#include "registry/client.h"

namespace motet::coordinator {

struct ServedOptions {
  std::string model;
  std::string name;    // instead of the directory's or composition's own
  std::string router;  // instead of the lock's
  bool offline = false;
  int64_t merge_memory_mib = 2048;  // for expert sets of a merge
  std::vector<std::string> include, exclude;  // AddExpertOptions
  uint32_t active = 0;                        // experts a token; 0 = its own
  std::string purpose;
};
// MODEL, --router, --offline, --merge-memory.
void AddServedOptions(CLI::App& command, ServedOptions& options);
// --include, --exclude, --active, --purpose, for commands that ask one query.
void AddExpertOptions(CLI::App& command, ServedOptions& options);
// --state-memory, of what runs an engine.
void AddStateMemoryOption(CLI::App& command, EngineOptions& options);
v1::ExpertSelection SelectionOf(const ServedOptions& options);

struct Served {
  std::unique_ptr<assemble::ServedModel> model;
  std::set<std::string> revoked;  // manifest SHA-256, for the gate
  std::string router;             // "anchored", "topk"; empty: no experts
};
// Experts of the lock, by manifest SHA-256, that are revoked or whose pilots
// are; asked of the registry.
absl::StatusOr<std::set<std::string>> Revoked(registry::Client& client,
                                              const v1::CompositionLock& lock);
// A composition's revocations are asked of the registry unless offline.
absl::StatusOr<Served> OpenServed(const ServedOptions& options,
                                  const Context& context);

// What the options ask of the gate of anything that answers; says on standard
// error, as `command`, which experts it withheld and why.
absl::StatusOr<Admission> Admit(const assemble::Served& model,
                                const std::set<std::string>& revoked,
                                const ServedOptions& options,
                                const std::string& command);
// The same of a model; says on standard error, as `command`, which
// experts it withheld and why.
absl::StatusOr<Admission> AdmitServed(const Served& served,
                                      const ServedOptions& options,
                                      const std::string& command);

}  // namespace motet::coordinator
