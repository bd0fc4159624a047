// SPDX-License-Identifier: Apache-2.0
// Router tuning of a composition [METHODS 1.6, 2, 3]: what a plan says of it,
// the run, and the rows it leaves. Rows are tuned in the presence of all of a
// lock's experts, so they are exact for that set alone: a narrower set is
// answered by the rows before tuning (exclusion "exact"), or, where the
// recipe wants it so, by tuned rows with a mask ("routed").
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"
#include "compose/learn/router_run.h"

namespace motet::assemble {

// Beside the lock: layers.L.router [E,C] and, of attention experts,
// layers.L.attention_router; f32.
inline constexpr char kRowsFile[] = "rows.safetensors";
inline constexpr char kTunedRows[] = "tuned";  // of RouterLock.rows

// Whether the recipe has its rows tuned; and so that tuned rows answer for
// narrower sets too, which makes the exclusion "routed". What a plan says of
// exclusion is then AddTuning's to say.
bool TunesRows(const Recipe& recipe);
bool RoutesNarrowed(const Recipe& recipe);

// The recipe's [tuning], where there is one, into the plan that is made
// otherwise: lock, guarantee, notes, problems, bytes. `numbers`: of all rows.
// The lock's rows_sha256 stays empty: TuneComposition makes them.
void AddTuning(const Recipe& recipe, const Part& base, int64_t numbers,
               Plan& plan);

// Provenance of the rows that packages give, tuned or not.
std::string RowsBeforeTuning(const v1::CompositionLock& lock);
// The lock of the same composition before tuning, whose exclusion is exact.
v1::CompositionLock BeforeTuning(v1::CompositionLock lock);
// Whether the two differ in rows_sha256 and software at most.
bool TunedAlike(const v1::CompositionLock& a, const v1::CompositionLock& b);
void CheckTuningLock(const v1::CompositionLock& lock,
                     std::vector<std::string>& problems);

// SHA-256, hex, of each document's length (8 bytes, little-endian) and text.
std::string DocumentsSha256(const std::vector<std::string>& documents);

struct TuneOptions {
  std::string checkpoint_path;  // as TrainOptions'; "" = none
  int64_t checkpoint_every = 25;
  learn::OnProgress progress;
};
// Loads what the lock was before tuning, tunes its routers on the documents
// (which must be those of data_sha256), writes kRowsFile into `folder`; the
// lock with the file's digest. Cancelled when progress said so: the same call
// goes on from the checkpoint.
absl::StatusOr<v1::CompositionLock> TuneComposition(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const std::vector<std::string>& documents, const std::string& folder,
    const TuneOptions& options, learn::TrainResult* result = nullptr);

// From `folder`, by the lock's digest. DataLoss when the file is another,
// InvalidArgument when folder is "".
absl::StatusOr<learn::RouterRows> ReadTunedRows(
    const v1::CompositionLock& lock, const std::string& folder,
    const model::ModelConfig& config);
// Which rows answer for the set.
bool TunedServe(const v1::CompositionLock& lock, math::ExpertMask set,
                math::ExpertMask all);
// [E,C] a layer, views: tuned ones for `all` (`always`: for every set).
std::shared_ptr<model::RowSource> MakeTunedRows(
    std::vector<math::Tensor> tuned, std::vector<math::Tensor> untuned,
    math::ExpertMask all, bool always);
// Of what MakeTunedRows made: the rows before tuning, for every set.
std::shared_ptr<model::RowSource> UntunedRows(const model::RowSource& tuned);

}  // namespace motet::assemble
