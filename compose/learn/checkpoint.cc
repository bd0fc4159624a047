// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compose/learn/hash.h"
#include "compose/package/safetensors.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::learn {
namespace {

using math::DType;
using math::Tensor;

constexpr char kDescription[] = "run.description";
constexpr char kNumbers[] = "run.numbers";
constexpr char kMore[] = "run.more";  // absent in files of version 0.1
constexpr char kChecksum[] = "run.checksum";
constexpr int64_t kFixedNumbers = 6;  // then the curve

// The three tensors of each parameter under the names of the file.
struct Stored {
  std::string name;
  Tensor tensor;
};
std::vector<Stored> Tensors(const Optimizer& optimizer) {
  std::vector<Stored> tensors;
  for (const Optimizer::Item& item : optimizer.items()) {
    const std::string& name = item.parameter.name;
    tensors.push_back({absl::StrCat("weights.", name), item.parameter.value});
    tensors.push_back({absl::StrCat("adam.m.", name), item.m});
    tensors.push_back({absl::StrCat("adam.v.", name), item.v});
  }
  return tensors;
}

std::string BestName(const Parameter& parameter) {
  return absl::StrCat("best.", parameter.name);
}

std::vector<double> Numbers(const RunState& state, int64_t updates) {
  std::vector<double> numbers = {
      static_cast<double>(state.step),
      static_cast<double>(updates),
      static_cast<double>(state.skipped),
      state.seconds,
      state.group_sum,
      static_cast<double>(state.group_count)};
  numbers.insert(numbers.end(), state.curve.begin(), state.curve.end());
  return numbers;
}

RunState StateOf(const std::vector<double>& numbers) {
  RunState state;
  state.step = static_cast<int64_t>(numbers[0]);
  state.skipped = static_cast<int64_t>(numbers[2]);
  state.seconds = numbers[3];
  state.group_sum = numbers[4];
  state.group_count = static_cast<int64_t>(numbers[5]);
  state.curve.assign(numbers.begin() + kFixedNumbers, numbers.end());
  return state;
}

// What joined the state later, in one list: six numbers, then the losses
// and the evaluations with their lengths in front, then the tokens.
std::vector<double> More(const RunState& state) {
  std::vector<double> more = {
      static_cast<double>(state.spikes),
      static_cast<double>(state.skipped_in_a_row),
      static_cast<double>(state.best.step),
      state.best.loss,
      static_cast<double>(state.stale),
      state.stopped_early ? 1.0 : 0.0,
      static_cast<double>(state.losses.size())};
  more.insert(more.end(), state.losses.begin(), state.losses.end());
  more.push_back(static_cast<double>(state.evaluations.size()));
  for (const Evaluation& e : state.evaluations) {
    more.push_back(static_cast<double>(e.step));
    more.push_back(e.loss);
  }
  more.push_back(static_cast<double>(state.tokens));
  return more;
}

// false: the list is not one that More made.
bool SetMore(const std::vector<double>& more, RunState& state) {
  size_t at = 0;
  bool whole = true;
  const auto next = [&] {
    whole = whole && at < more.size();
    return whole ? more[at++] : 0.0;
  };
  const auto count = [&] { return static_cast<int64_t>(next()); };
  state.spikes = count();
  state.skipped_in_a_row = count();
  state.best.step = count();
  state.best.loss = next();
  state.stale = count();
  state.stopped_early = next() != 0;
  for (int64_t n = count(); n > 0 && whole; --n) {
    state.losses.push_back(next());
  }
  for (int64_t n = count(); n > 0 && whole; --n) {
    const int64_t step = count();
    state.evaluations.push_back({step, next()});
  }
  if (at < more.size()) state.tokens = count();  // older files have none
  return whole && at == more.size();
}

Tensor View(const void* data, DType dtype, int64_t n) {
  Tensor t;
  t.data = const_cast<void*>(data);
  t.dtype = dtype;
  t.shape = math::Shape{n};
  return t;
}

std::vector<double> Doubles(const Tensor& t) {
  std::vector<double> values(static_cast<size_t>(t.size()));
  std::memcpy(values.data(), t.data, static_cast<size_t>(t.bytes()));
  return values;
}

std::string Checksum(const std::vector<double>& numbers,
                     const std::vector<double>& more,
                     const std::vector<Tensor>& tensors) {
  Fingerprint sum;
  sum.Add(numbers.data(), static_cast<int64_t>(numbers.size() * 8));
  sum.Add(more.data(), static_cast<int64_t>(more.size() * 8));
  for (const Tensor& t : tensors) sum.Add(t.data, t.bytes());
  return sum.Hex();
}

absl::Status Damaged(const std::string& path, absl::string_view got) {
  return proto::Error(absl::StatusCode::kDataLoss, path, got,
                      "an undamaged training checkpoint",
                      "remove the file to train from the beginning");
}

// The lines of each side that the other lacks.
absl::Status CompareDescriptions(const std::string& path,
                                 const std::string& stored,
                                 const Description& wanted) {
  std::vector<std::string> here = absl::StrSplit(stored, '\n'), want = wanted;
  std::sort(here.begin(), here.end());
  std::sort(want.begin(), want.end());
  std::vector<std::string> only_here, only_wanted;
  std::set_difference(here.begin(), here.end(), want.begin(), want.end(),
                      std::back_inserter(only_here));
  std::set_difference(want.begin(), want.end(), here.begin(), here.end(),
                      std::back_inserter(only_wanted));
  if (only_here.empty() && only_wanted.empty()) return absl::OkStatus();
  return proto::Error(
      absl::StatusCode::kFailedPrecondition, path,
      absl::StrCat("a checkpoint of another run (",
                   absl::StrJoin(only_here, ", "), ")"),
      absl::StrCat("one of this run (", absl::StrJoin(only_wanted, ", "), ")"),
      "use the options and data it was made with, or remove the file to train "
      "from the beginning");
}

std::string Text(const Tensor& t) {
  return std::string(static_cast<const char*>(t.data),
                     static_cast<size_t>(t.bytes()));
}

}  // namespace

absl::Status SaveCheckpoint(const std::string& path,
                            const Description& description,
                            const RunState& state,
                            const Optimizer& optimizer) {
  const std::string text = absl::StrJoin(description, "\n");
  const std::vector<double> numbers = Numbers(state, optimizer.updates());
  std::vector<package::NamedTensor> file;
  std::vector<Tensor> summed;
  for (const Stored& stored : Tensors(optimizer)) {
    file.push_back({stored.name, stored.tensor});
    summed.push_back(stored.tensor);
  }
  for (size_t i = 0; i < state.best_weights.size(); ++i) {
    const Parameter& parameter = optimizer.items()[i].parameter;
    Tensor best = parameter.value;
    best.data = const_cast<float*>(state.best_weights[i].data());
    file.push_back({BestName(parameter), best});
    summed.push_back(best);
  }
  const std::vector<double> more = More(state);
  const std::string checksum = Checksum(numbers, more, summed);
  const auto length = [](const auto& c) {
    return static_cast<int64_t>(c.size());
  };
  file.push_back({kDescription, View(text.data(), DType::kU8, length(text))});
  file.push_back(
      {kNumbers, View(numbers.data(), DType::kF64, length(numbers))});
  file.push_back({kMore, View(more.data(), DType::kF64, length(more))});
  file.push_back(
      {kChecksum, View(checksum.data(), DType::kU8, length(checksum))});
  return package::WriteSafetensors(path, std::move(file));
}

absl::StatusOr<bool> LoadCheckpoint(const std::string& path,
                                    const Description& description,
                                    RunState& state, Optimizer& optimizer) {
  if (!proto::Exists(path)) return false;
  auto opened = package::SafetensorsFile::Open(path);
  if (!opened.ok()) return Damaged(path, opened.status().message());
  const package::SafetensorsFile& file = **opened;
  const Tensor text = file.Find(kDescription);
  const Tensor numbers = file.Find(kNumbers);
  const Tensor checksum = file.Find(kChecksum);
  if (text.empty() || text.dtype != DType::kU8 || numbers.empty() ||
      numbers.dtype != DType::kF64 || numbers.size() < kFixedNumbers ||
      checksum.empty()) {
    return Damaged(path, "a file without a run's state");
  }
  MOTET_RETURN_IF_ERROR(CompareDescriptions(path, Text(text), description));

  const std::vector<double> values = Doubles(numbers);
  RunState found_state = StateOf(values);
  std::vector<double> more;
  if (const Tensor t = file.Find(kMore); !t.empty()) {
    if (t.dtype == DType::kF64) more = Doubles(t);
    if (!SetMore(more, found_state)) {
      return Damaged(path, "a run's state cut short");
    }
  }
  const std::vector<Stored> wanted = Tensors(optimizer);
  std::vector<Tensor> found;
  for (const Stored& want : wanted) {
    const Tensor t = file.Find(want.name);
    if (t.empty() || t.dtype != want.tensor.dtype ||
        t.bytes() != want.tensor.bytes()) {
      return Damaged(path, absl::StrCat("no fitting tensor ", want.name));
    }
    found.push_back(t);
  }
  // All of the best weights or none.
  for (const Optimizer::Item& item : optimizer.items()) {
    const Tensor t = file.Find(BestName(item.parameter));
    if (t.empty()) continue;
    if (t.dtype != DType::kF32 ||
        t.bytes() != item.parameter.value.bytes()) {
      return Damaged(path, absl::StrCat("no fitting tensor ",
                                        BestName(item.parameter)));
    }
    found.push_back(t);
    found_state.best_weights.emplace_back(t.f32(), t.f32() + t.size());
  }
  if (Checksum(values, more, found) != Text(checksum) ||
      (!found_state.best_weights.empty() &&
       found_state.best_weights.size() != optimizer.items().size())) {
    return Damaged(path, "bytes that do not give their checksum");
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    std::memcpy(wanted[i].tensor.data, found[i].data,
                static_cast<size_t>(found[i].bytes()));
  }
  state = std::move(found_state);
  optimizer.set_updates(static_cast<int64_t>(values[1]));
  return true;
}

}  // namespace motet::learn
