// SPDX-License-Identifier: Apache-2.0
// What [tuning] makes of a plan and of a lock. The defaults of each method
// are one row of a table.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/assemble/tuning.h"
#include "compose/learn/schedule.h"
#include "proto/digest.h"

namespace motet::assemble {
namespace {

// METHODS 1.6, 2 and 3.
struct Defaults {
  const char* method;
  // Top-k's while tuning, where there are as many experts; a shared base is
  // one of them.
  int least_k;
  double router_z_weight, load_balance_weight, weight_decay;
};
constexpr Defaults kDefaults[] = {
    {"flexolmo", 4, 1e-3, 0, 0},
    {"btx", 2, 0, 0.01, 0.1},
    {"bam", 1, 1e-3, 0.01, 0},
};

const Defaults* DefaultsOf(const std::string& method) {
  for (const Defaults& row : kDefaults) {
    if (method == row.method) return &row;
  }
  return nullptr;
}

// A weight that does not depend on its row gives the row no gradient. Beside
// a shared base it does.
bool OneIsBlind(const v1::CompositionLock& lock, const Part& base) {
  return !lock.router().shared() &&
         (lock.router().renormalise() ||
          base.manifest.model().block() == "olmo2");
}

// Of top-k, while tuning; 0 for another kind.
int ChoicesWhileTuning(const Recipe& recipe, const Part& base,
                       const Defaults& defaults, const Plan& plan,
                       Problems& problems) {
  const v1::CompositionLock& lock = plan.lock;
  if (lock.router().kind() != "topk") return 0;
  const int chunks = std::max<int>(1, static_cast<int>(lock.btx().chunks()));
  const int shared = lock.router().shared() ? 1 : 0;
  const int total = (lock.experts_size() + 1 - shared) * chunks +
                    static_cast<int>(lock.router().null_experts());
  const bool blind = OneIsBlind(lock, base);
  if (!recipe.tuning->k.has_value()) {
    const int least = std::max(defaults.least_k - shared, blind ? 2 : 1);
    return std::max(static_cast<int>(lock.router().k()),
                    std::min(least, total));
  }
  const int k = *recipe.tuning->k;
  if (k > total) {
    problems.Add("recipe", absl::StrCat("got tuning.k = ", k,
                                        ", want at most ", total,
                                        ", the experts ",
                                        shared ? "beside" : "with",
                                        " the base"));
  }
  if (k < 2 && blind) {
    problems.Add("recipe",
                 "got tuning.k = 1, want at least 2: the one expert's weight "
                 "would not depend on its row, and no row would move");
  }
  return k;
}

std::string Presence(const v1::CompositionLock& lock) {
  std::vector<std::string> ids = {lock.base().id()};
  for (const v1::LockedExpert& e : lock.experts()) ids.push_back(e.id());
  return absl::StrJoin(ids, ", ");
}

}  // namespace

bool TunesRows(const Recipe& recipe) {
  return recipe.tuning.has_value() && DefaultsOf(recipe.method) != nullptr;
}

bool RoutesNarrowed(const Recipe& recipe) {
  return TunesRows(recipe) && recipe.tuning->narrowed == "tuned";
}

void AddTuning(const Recipe& recipe, const Part& base, int64_t numbers,
               Plan& plan) {
  if (!TunesRows(recipe)) return;
  const Defaults* defaults = DefaultsOf(recipe.method);
  const Recipe::Tuning& from = *recipe.tuning;
  Problems problems(plan.problems);
  v1::CompositionLock& lock = plan.lock;
  const std::string& kind = lock.router().kind();
  if (kind == "anchored") {
    problems.Add("recipe",
                 "got [tuning] with router.kind = \"anchored\", want \"topk\" "
                 "or \"topp\", whose rows it tunes");
  }
  if (from.data.empty() && !from.proxy) {
    problems.Add("recipe", "got [tuning] without data, want text to tune on");
  }
  if (lock.experts_size() == 0) {
    problems.Add("recipe", "got [tuning] without experts, want one at least");
  }
  if (from.narrowed != "untuned" && from.narrowed != "tuned") {
    problems.Add("recipe", absl::StrCat("got tuning.narrowed = \"",
                                        from.narrowed,
                                        "\", want \"untuned\" or \"tuned\""));
  }
  v1::TuningLock& t = *lock.mutable_tuning();
  t.set_steps(from.steps);
  t.set_learning_rate(from.learning_rate);
  t.set_warmup_steps(static_cast<uint32_t>(
      from.warmup_steps.has_value() ? *from.warmup_steps
                                    : learn::DefaultWarmupSteps(from.steps)));
  t.set_batch_sequences(from.batch_sequences);
  t.set_sequence_tokens(from.sequence_tokens);
  t.set_k(ChoicesWhileTuning(recipe, base, *defaults, plan, problems));
  t.set_router_z_weight(
      from.router_z_weight.value_or(defaults->router_z_weight));
  t.set_load_balance_weight(
      from.load_balance_weight.value_or(defaults->load_balance_weight));
  t.set_weight_decay(from.weight_decay.value_or(defaults->weight_decay));
  t.set_seed(from.seed);
  t.set_narrowed(from.narrowed);
  t.set_untuned_rows(lock.router().rows());
  t.set_documents(from.documents);
  t.set_data_sha256(from.data_sha256);
  if (from.proxy) {
    t.mutable_proxy()->set_each(static_cast<uint32_t>(from.proxy_documents));
    t.mutable_proxy()->set_documents(from.proxy_taken);
  }
  lock.mutable_router()->set_rows(kTunedRows);
  plan.new_bytes = static_cast<int64_t>(WriteLock(lock).size()) +
                   numbers * int64_t{sizeof(float)};

  const bool routed = RoutesNarrowed(recipe);
  lock.set_exclusion(routed ? "routed" : "exact");
  std::vector<std::string> notes;
  notes.push_back(
      routed ? "exclusion: routed. Tuned rows answer for every set, and they "
               "were tuned in everybody's presence: a licence or policy "
               "exclusion is refused; tuning.narrowed = \"untuned\" is exact"
             : absl::StrCat(
                   "exclusion: exact. Tuned rows answer where all experts may; "
                   "a query without an expert is answered by the rows before "
                   "tuning (",
                   t.untuned_rows(),
                   "), as by a composition that never had it"));
  notes.push_back(absl::StrCat(
      "router rows: tuned by apply in ", from.steps, " steps of ",
      from.batch_sequences, " x ", from.sequence_tokens, " tokens",
      t.k() > 0 ? absl::StrCat(" at k = ", t.k()) : "", " on ",
      from.documents, " documents (", Short(from.data_sha256),
      "), in the presence of ", Presence(lock)));
  if (from.proxy) {
    notes.push_back(absl::StrCat(
        "proxy data: the ", from.proxy_documents,
        " public documents that each owner scored highest, and as many drawn "
        "from all public ones"));
  }
  if ((kind == "switch" || kind == "sample") &&
      base.manifest.model().block() == "olmo2") {
    notes.push_back(absl::StrCat(
        "router.kind \"", kind,
        "\" over a post-norm base: the norm takes the one gate away, so the "
        "rows learn from the load balance alone"));
  }
  plan.notes.insert(plan.notes.begin(), notes.begin(), notes.end());
}

std::string RowsBeforeTuning(const v1::CompositionLock& lock) {
  return lock.has_tuning() ? lock.tuning().untuned_rows()
                           : lock.router().rows();
}

v1::CompositionLock BeforeTuning(v1::CompositionLock lock) {
  if (!lock.has_tuning()) return lock;
  lock.mutable_router()->set_rows(lock.tuning().untuned_rows());
  lock.clear_tuning();
  lock.set_exclusion("exact");
  return lock;
}

bool TunedAlike(const v1::CompositionLock& a, const v1::CompositionLock& b) {
  v1::CompositionLock other = b;
  other.mutable_tuning()->set_rows_sha256(a.tuning().rows_sha256());
  other.set_software(a.software());  // an upgrade tunes nothing anew
  return WriteLock(a) == WriteLock(other);
}

void CheckTuningLock(const v1::CompositionLock& lock,
                     std::vector<std::string>& problems) {
  const auto check = [&](bool good, const auto&... problem) {
    if (!good) problems.push_back(absl::StrCat(problem...));
  };
  check(lock.has_tuning() == (lock.router().rows() == kTunedRows),
        "router.rows = \"", lock.router().rows(), "\" ",
        lock.has_tuning() ? "with" : "without", " tuning (want both or none)");
  if (!lock.has_tuning()) return;
  const v1::TuningLock& t = lock.tuning();
  const bool routed = t.narrowed() == "tuned";
  check(DefaultsOf(lock.method()) != nullptr &&
            lock.router().kind() != "anchored",
        "tuning (want none for method ", lock.method(), " and router.kind ",
        lock.router().kind(), ")");
  check(routed || t.narrowed() == "untuned", "tuning.narrowed = \"",
        t.narrowed(), "\" (want untuned or tuned)");
  check(lock.exclusion() == (routed ? "routed" : "exact"), "exclusion = \"",
        lock.exclusion(), "\" with tuning.narrowed = \"", t.narrowed(),
        "\" (want ", routed ? "routed" : "exact", ")");
  check(!t.has_proxy() || (t.proxy().each() > 0 && t.proxy().documents() > 0 &&
                           t.proxy().documents() <= t.documents()),
        "tuning.proxy of ", t.proxy().each(), " documents an expert and ",
        t.proxy().documents(),
        " in all (want one or more, at most tuning."
        "documents = ",
        t.documents(), ")");
  check(proto::DigestFromHex(t.rows_sha256()).ok(), "tuning.rows_sha256 = \"",
        t.rows_sha256(), "\" (want 64 hex digits)");
  check(proto::DigestFromHex(t.data_sha256()).ok(), "tuning.data_sha256 = \"",
        t.data_sha256(), "\" (want 64 hex digits)");
}

}  // namespace motet::assemble
