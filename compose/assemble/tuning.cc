// SPDX-License-Identifier: Apache-2.0
// The run that tunes a composition's rows, and the file that they lie in.
#include "compose/assemble/tuning.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/assemble/merge_piece.h"
#include "compose/package/safetensors.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::assemble {
namespace {

using math::Tensor;
using Choice = learn::RouterOptions::Choice;

constexpr int64_t kMaxRowsBytes = int64_t{1} << 30;

std::string NameOf(size_t layer, bool attention) {
  return absl::StrCat("layers.", layer,
                      attention ? ".attention_router" : ".router");
}

learn::RouterOptions OptionsOf(const v1::CompositionLock& lock,
                               const TuneOptions& tune) {
  const v1::TuningLock& t = lock.tuning();
  learn::RouterOptions options;
  options.steps = t.steps();
  options.learning_rate = t.learning_rate();
  options.warmup_steps = t.warmup_steps();
  options.batch_sequences = t.batch_sequences();
  options.sequence_tokens = t.sequence_tokens();
  options.router_z_weight = t.router_z_weight();
  options.load_balance_weight = t.load_balance_weight();
  // BTX's u are means of gates, which carry a gradient [METHODS 2].
  options.load_balance_counts = lock.method() != "btx";
  options.weight_decay = t.weight_decay();
  options.seed = t.seed();
  options.k = t.k();
  if (lock.router().kind() == "switch") options.choice = Choice::kSwitch;
  if (lock.router().kind() == "sample") {
    options.choice = Choice::kSample;
    options.last_temperature = lock.router().temperature();
    options.first_temperature = std::max(1.0, options.last_temperature);
  }
  options.checkpoint_path = tune.checkpoint_path;
  if (!tune.checkpoint_path.empty()) {
    options.checkpoint_every = tune.checkpoint_every;
  }
  return options;
}

// The decoder that rows are tuned in. A sampling router's rows are served
// over its temperature and tuned without it.
absl::StatusOr<model::Decoder> Start(const Composition& composition,
                                     learn::RouterRows& rows) {
  const model::Decoder& served = *composition.decoder;
  rows = learn::CopyRows(served);
  if (composition.lock.router().kind() == "sample") {
    const double t = composition.lock.router().temperature();
    for (Tensor& layer : rows.ffn) {
      for (int64_t i = 0; i < layer.size(); ++i) {
        layer.f32()[i] = static_cast<float>(t * layer.f32()[i]);
      }
    }
  }
  learn::RouterOptions plain;
  return learn::TuningDecoder(served, rows, plain, nullptr);
}

absl::Status WriteRows(const std::string& path,
                       const learn::RouterRows& rows) {
  std::vector<package::NamedTensor> tensors;
  for (size_t l = 0; l < rows.ffn.size(); ++l) {
    tensors.push_back({NameOf(l, false), rows.ffn[l]});
    if (!rows.attention.empty()) {
      tensors.push_back({NameOf(l, true), rows.attention[l]});
    }
  }
  return package::WriteSafetensors(path, std::move(tensors));
}

class TunedRows : public model::RowSource {
 public:
  TunedRows(std::vector<Tensor> tuned, std::vector<Tensor> untuned,
            math::ExpertMask all, bool always)
      : tuned_(std::make_shared<const Rows>(Rows{std::move(tuned), {}})),
        untuned_(std::make_shared<const Rows>(Rows{std::move(untuned), {}})),
        all_(all),
        always_(always) {}
  std::shared_ptr<const Rows> For(math::ExpertMask set) override {
    return always_ || (set & all_) == all_ ? tuned_ : untuned_;
  }
  const Rows& untuned() const { return *untuned_; }

 private:
  const std::shared_ptr<const Rows> tuned_, untuned_;
  const math::ExpertMask all_;
  const bool always_;
};

}  // namespace

std::string DocumentsSha256(const std::vector<std::string>& documents) {
  proto::Sha256Stream stream;
  for (const std::string& text : documents) {
    std::string length(8, '\0');
    for (int i = 0; i < 8; ++i) {
      length[i] = static_cast<char>(uint64_t{text.size()} >> (8 * i) & 0xff);
    }
    stream.Update(length);
    stream.Update(text);
  }
  return proto::Hex(stream.Finish());
}

absl::StatusOr<v1::CompositionLock> TuneComposition(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const std::vector<std::string>& documents, const std::string& folder,
    const TuneOptions& options, learn::TrainResult* result) {
  const std::string digest = DocumentsSha256(documents);
  if (digest != lock.tuning().data_sha256()) {
    return proto::Error(absl::StatusCode::kDataLoss, "tuning",
                        absl::StrCat("text of SHA-256 ", digest),
                        absl::StrCat("the lock's ",
                                     lock.tuning().data_sha256()),
                        "apply the recipe again");
  }
  LoadOptions load;
  load.verify = Verify::kFresh;
  MOTET_ASSIGN_OR_RETURN(
      const auto composition,
      LoadComposition(BeforeTuning(lock), folder_of, load));
  learn::RouterRows start;
  MOTET_ASSIGN_OR_RETURN(const model::Decoder decoder,
                         Start(*composition, start));
  const learn::TokenWindows windows(
      composition->tokenizer(), documents,
      learn::SeparatorOf(composition->tokenizer(), composition->config.eos_id),
      lock.tuning().sequence_tokens());
  MOTET_ASSIGN_OR_RETURN(
      const learn::RouterRows rows,
      learn::TuneRouters(decoder, windows, OptionsOf(lock, options),
                         options.progress, result));
  const std::string path = absl::StrCat(folder, "/", kRowsFile);
  MOTET_RETURN_IF_ERROR(WriteRows(path, rows));
  MOTET_ASSIGN_OR_RETURN(const proto::Digest made, proto::Sha256File(path));
  v1::CompositionLock tuned = lock;
  tuned.mutable_tuning()->set_rows_sha256(proto::Hex(made));
  return tuned;
}

absl::StatusOr<learn::RouterRows> ReadTunedRows(
    const v1::CompositionLock& lock, const std::string& folder,
    const model::ModelConfig& config) {
  if (folder.empty()) {
    return proto::Invalid(absl::StrCat("composition ", lock.name()),
                          "no folder to read tuned rows from", "its own");
  }
  const std::string path = absl::StrCat(folder, "/", kRowsFile);
  const std::string hint = "apply the recipe again";
  MOTET_ASSIGN_OR_RETURN(const std::string bytes,
                         proto::ReadFile(path, kMaxRowsBytes));
  const std::string got = proto::Hex(proto::Sha256(bytes));
  if (got != lock.tuning().rows_sha256()) {
    return proto::Error(
        absl::StatusCode::kDataLoss, path, absl::StrCat("SHA-256 ", got),
        absl::StrCat("the lock's ", lock.tuning().rows_sha256()), hint);
  }
  MOTET_ASSIGN_OR_RETURN(const auto entries,
                         package::ParseSafetensors(bytes, path));
  learn::RouterRows rows;
  const math::Shape shape = {config.experts, config.width};
  const auto take = [&](const std::string& name,
                        std::vector<Tensor>& to) -> absl::Status {
    const auto it = std::find_if(
        entries.begin(), entries.end(),
        [&](const auto& entry) { return entry.name == name; });
    if (it == entries.end() || !(it->tensor.shape == shape) ||
        it->tensor.dtype != math::DType::kF32 ||
        !AllFinite(it->tensor.f32(), shape.size(), math::DType::kF32)) {
      return proto::Invalid(path, absl::StrCat("no fitting ", name),
                            absl::StrCat("F32 ", shape.ToString(), ", finite"),
                            hint);
    }
    rows.storage.push_back(
        std::make_unique<float[]>(static_cast<size_t>(shape.size())));
    std::memcpy(rows.storage.back().get(), it->tensor.data,
                static_cast<size_t>(it->tensor.bytes()));
    Tensor t;
    t.data = rows.storage.back().get();
    t.shape = shape;
    to.push_back(t);
    return absl::OkStatus();
  };
  for (int64_t l = 0; l < config.layers; ++l) {
    const auto layer = static_cast<size_t>(l);
    MOTET_RETURN_IF_ERROR(take(NameOf(layer, false), rows.ffn));
    if (config.attention_experts == model::AttentionExperts::kNone) continue;
    MOTET_RETURN_IF_ERROR(take(NameOf(layer, true), rows.attention));
  }
  return rows;
}

bool TunedServe(const v1::CompositionLock& lock, math::ExpertMask set,
                math::ExpertMask all) {
  return lock.has_tuning() &&
         ((set & all) == all || lock.tuning().narrowed() == "tuned");
}

std::shared_ptr<model::RowSource> MakeTunedRows(std::vector<Tensor> tuned,
                                                std::vector<Tensor> untuned,
                                                math::ExpertMask all,
                                                bool always) {
  return std::make_shared<TunedRows>(std::move(tuned), std::move(untuned), all,
                                     always);
}

std::shared_ptr<model::RowSource> UntunedRows(const model::RowSource& tuned) {
  const std::vector<Tensor>& rows =
      static_cast<const TunedRows&>(tuned).untuned().rows;
  return MakeTunedRows(rows, rows, 0, true);
}

}  // namespace motet::assemble
