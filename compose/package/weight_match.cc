// SPDX-License-Identifier: Apache-2.0
#include "compose/package/weight_match.h"

#include <string.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::package {
namespace {

using math::DType;
using math::Shape;
using math::Tensor;

using ByName = std::map<std::string, Tensor>;

// Old exports carry a constant that the config already says.
bool IsDerived(absl::string_view name) {
  return absl::EndsWith(name, ".rotary_emb.inv_freq");
}

ByName Collect(const WeightFiles& files, std::vector<std::string>& problems) {
  ByName tensors;
  for (const auto& file : files) {
    for (const auto& entry : file->entries()) {
      if (IsDerived(entry.name)) continue;
      if (!tensors.emplace(entry.name, entry.tensor).second) {
        problems.push_back(absl::StrCat(entry.name, " in two files"));
      }
    }
  }
  return tensors;
}

// Matrix e of [E, rows, cols], rows [from, from + count) of it.
Tensor Part(const Tensor& all, int64_t e, int64_t from, int64_t count) {
  const int64_t rows = all.shape.dim[1], cols = all.shape.dim[2];
  Tensor part = all;
  part.shape = {count, cols};
  part.data = static_cast<char*>(all.data) +
              (e * rows + from) * cols * math::ByteSize(all.dtype);
  return part;
}

// transformers 5 holds the experts of a layer in two tensors, and some files
// keep them so, by the names of its memory whatever the family:
//   mlp.experts.gate_up_proj [E,2F,C], mlp.experts.down_proj [E,C,F].
// They become the names that the weights table knows.
void SplitExperts(const model::ModelConfig& config, ByName& tensors,
                  std::vector<std::string>& problems) {
  if (config.experts == 0) return;
  const bool mixtral =
      absl::string_view(model::ExpertsName(config)) != "mlp.experts";
  const int64_t f = config.ffn_width, c = config.width;
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string layer = absl::StrCat("model.layers.", l, ".");
    const auto take = [&](const std::string& name, const Shape& want) {
      const auto it = tensors.find(layer + name);
      if (it == tensors.end()) return Tensor{};
      Tensor found = it->second;
      if (!(found.shape == want)) {
        problems.push_back(absl::StrCat(it->first, " is ",
                                        found.shape.ToString(), ", not ",
                                        want.ToString()));
        found = {};
      }
      tensors.erase(it);
      return found;
    };
    const Tensor both =
        take("mlp.experts.gate_up_proj", {config.experts, 2 * f, c});
    const Tensor down = take("mlp.experts.down_proj", {config.experts, c, f});
    const auto put = [&](int64_t e, const char* name, const Tensor& tensor) {
      tensors.emplace(absl::StrCat(layer, model::ExpertsName(config), ".", e,
                                   ".", name, ".weight"),
                      tensor);
    };
    for (int64_t e = 0; e < config.experts; ++e) {
      if (!both.empty()) {
        put(e, mixtral ? "w1" : "gate_proj", Part(both, e, 0, f));
        put(e, mixtral ? "w3" : "up_proj", Part(both, e, f, f));
      }
      if (!down.empty()) {
        put(e, mixtral ? "w2" : "down_proj", Part(down, e, 0, c));
      }
    }
    if (!mixtral || both.empty()) continue;
    const auto gate = tensors.find(layer + "mlp.gate.weight");
    if (gate == tensors.end()) continue;
    tensors.emplace(layer + "block_sparse_moe.gate.weight", gate->second);
    tensors.erase(gate);
  }
}

Tensor Widened(const Tensor& from, WidenedVectors& widened) {
  Tensor to = from;
  to.dtype = DType::kF32;
  widened.push_back(std::make_unique<float[]>(from.size()));
  to.data = widened.back().get();
  const uint16_t* bits = from.bf16();
  for (int64_t i = 0; i < from.size(); ++i) {
    to.f32()[i] = from.dtype == DType::kBF16 ? math::WidenBf16(bits[i])
                                             : math::WidenF16(bits[i]);
  }
  return to;
}

// A stored copy of a tied head must be one.
void TieHead(ByName& tensors, model::ModelWeights& weights,
             std::vector<std::string>& problems) {
  weights.head = weights.embed;
  const auto copy = tensors.find("lm_head.weight");
  if (copy == tensors.end()) return;
  const Tensor& head = copy->second;
  if (head.dtype != weights.embed.dtype ||
      !(head.shape == weights.embed.shape) ||
      memcmp(head.data, weights.embed.data, head.bytes()) != 0) {
    problems.push_back("lm_head.weight differs from the tied embedding");
  }
  tensors.erase(copy);
}

// The place of the first number that is not finite, or -1: its exponent bits
// are all ones. Blocks of one length, so that the compiler uses vectors.
template <typename Bits>
int64_t FirstBad(const Bits* bits, int64_t n, Bits exponent) {
  constexpr int64_t kBlock = 256;
  int64_t at = 0;
  for (; at + kBlock <= n; at += kBlock) {
    Bits bad = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      bad |= static_cast<Bits>((bits[at + i] & exponent) == exponent);
    }
    if (bad != 0) break;
  }
  while (at < n && (bits[at] & exponent) != exponent) ++at;
  return at < n ? at : -1;
}

int64_t FirstBad(const Tensor& t, int64_t from, int64_t n) {
  if (t.dtype == DType::kF32) {
    return FirstBad(static_cast<const uint32_t*>(t.data) + from, n,
                    uint32_t{0x7f800000});
  }
  return FirstBad(t.bf16() + from, n,
                  t.dtype == DType::kBF16 ? uint16_t{0x7f80}
                                          : uint16_t{0x7c00});
}

// A run of a tensor's numbers, for one thread.
struct Piece {
  size_t tensor;
  int64_t from, count;
};

}  // namespace

std::vector<std::string> MatchWeights(const model::ModelConfig& config,
                                      const WeightFiles& files,
                                      model::ModelWeights& weights,
                                      WidenedVectors& widened) {
  std::vector<std::string> problems;
  ByName left = Collect(files, problems);
  SplitExperts(config, left, problems);
  model::VisitWeights(
      config, weights,
      [&](const std::string& name, const Shape& shape, Tensor& tensor) {
        const auto it = left.find(name);
        if (it == left.end()) {
          problems.push_back(absl::StrCat(name, " is missing"));
          return;
        }
        tensor = it->second;
        left.erase(it);
        if (!(tensor.shape == shape)) {
          problems.push_back(absl::StrCat(name, " is ",
                                          tensor.shape.ToString(), ", not ",
                                          shape.ToString()));
        }
        const bool half =
            tensor.dtype == DType::kBF16 || tensor.dtype == DType::kF16;
        if (tensor.dtype != DType::kF32 && !half) {
          problems.push_back(absl::StrCat(name, " is ",
                                          math::Name(tensor.dtype),
                                          ", not F32, BF16 or F16"));
        } else if (half && shape.rank == 1) {
          tensor = Widened(tensor, widened);
        }
      });
  if (config.tied_head) TieHead(left, weights, problems);
  for (const auto& [name, tensor] : left) {
    problems.push_back(absl::StrCat(name, " is unknown"));
  }
  return problems;
}

absl::Status CheckFinite(const model::ModelConfig& config,
                         const model::ModelWeights& weights,
                         const std::function<void()>& beside) {
  constexpr int64_t kPiece = 1 << 20;
  std::vector<std::pair<std::string, Tensor>> tensors;
  std::vector<Piece> pieces;
  model::ModelWeights copy = weights;
  model::VisitWeights(
      config, copy,
      [&](const std::string& name, const Shape&, Tensor& tensor) {
        for (int64_t at = 0; at < tensor.size(); at += kPiece) {
          pieces.push_back({tensors.size(), at,
                            std::min(kPiece, tensor.size() - at)});
        }
        tensors.emplace_back(name, tensor);
      });
  std::vector<int64_t> bad(pieces.size());
  const int64_t count = static_cast<int64_t>(pieces.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t p = -1; p < count; ++p) {
    if (p < 0) {
      if (beside) beside();
      continue;
    }
    const Piece& piece = pieces[p];
    bad[p] = FirstBad(tensors[piece.tensor].second, piece.from, piece.count);
  }
  std::vector<std::string> found;
  size_t last = tensors.size();  // of those in `found`
  for (size_t p = 0; p < pieces.size(); ++p) {
    if (bad[p] < 0 || pieces[p].tensor == last) continue;
    last = pieces[p].tensor;
    const auto& [name, tensor] = tensors[last];
    const int64_t at = pieces[p].from + bad[p], cols = tensor.cols();
    found.push_back(absl::StrCat(
        name, tensor.shape.rank == 2
                  ? absl::StrCat(" at [", at / cols, ", ", at % cols, "]")
                  : absl::StrCat(" at [", at, "]")));
  }
  if (found.empty()) return absl::OkStatus();
  constexpr size_t kShown = 20;
  const size_t more = found.size() - std::min(found.size(), kShown);
  found.resize(std::min(found.size(), kShown));
  return proto::Error(
      absl::StatusCode::kDataLoss, "weights",
      absl::StrCat("NaN or infinity in ", absl::StrJoin(found, ", "),
                   more > 0 ? absl::StrCat(" and ", more, " more tensors")
                            : ""),
      "finite numbers", "get the model again, or train it again");
}

}  // namespace motet::package
