// SPDX-License-Identifier: Apache-2.0
// A folder of config.json and safetensors becomes config and weights, and
// back. The weights table (compose/model/weights.h) says which tensors there
// must be; this file only matches it with what lies on disk.
#include "compose/package/huggingface.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/weight_match.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kHuggingFaceWeights = "model.safetensors";

// A tensor of the file, and where its numbers lie.
struct Source {
  TensorLayout to;
  math::Tensor from;
};

// What the matrices are: transformers casts all weights to this one.
std::string DTypeOf(const std::vector<Source>& sources) {
  bool bf16 = true, f16 = true;
  for (const Source& s : sources) {
    if (s.to.shape.rank < 2) continue;
    bf16 = bf16 && s.to.dtype == math::DType::kBF16;
    f16 = f16 && s.to.dtype == math::DType::kF16;
  }
  return bf16 ? "bfloat16" : f16 ? "float16" : "float32";
}

// A matrix that zeros on one side make as large.
bool Narrower(const math::Shape& own, const math::Shape& want) {
  return own.rank == 2 && want.rank == 2 && own.dim[0] <= want.dim[0] &&
         own.dim[1] <= want.dim[1] &&
         (own.dim[0] == want.dim[0] || own.dim[1] == want.dim[1]);
}

// Which mapped file holds a tensor's numbers, and where in it.
class Places {
 public:
  explicit Places(const WeightFiles& mapped) {
    for (const auto& file : mapped) {
      for (const SafetensorsFile::Entry& e : file->entries()) {
        places_[static_cast<const char*>(e.tensor.data)] = {file.get(), &e};
      }
    }
  }
  struct Place {
    const SafetensorsFile* file = nullptr;  // null: in no file
    uint64_t offset = 0;
  };
  Place Find(const char* from, int64_t bytes) const {
    auto it = places_.upper_bound(from);
    if (it == places_.begin()) return {};
    const auto& [begin, place] = *std::prev(it);
    const auto& [file, entry] = place;
    if (from + bytes > begin + entry->tensor.bytes()) return {};
    return {file, entry->file_offset + static_cast<uint64_t>(from - begin)};
  }

 private:
  std::map<const char*, std::pair<const SafetensorsFile*,
                                  const SafetensorsFile::Entry*>>
      places_;
};

// In pieces of this size, in the file's order.
constexpr int64_t kPieceBytes = 8 << 20;

absl::Status AppendZeros(SafetensorsWriter& writer, int64_t bytes) {
  const std::string zeros(static_cast<size_t>(std::min(bytes, kPieceBytes)),
                          '\0');
  for (; bytes > 0; bytes -= kPieceBytes) {
    MOTET_RETURN_IF_ERROR(writer.Append(
        absl::string_view(zeros).substr(0, static_cast<size_t>(bytes))));
  }
  return absl::OkStatus();
}

// Rows one after another, zeros to the right of each.
absl::Status AppendRows(SafetensorsWriter& writer, const math::Tensor& from,
                        int64_t cols, bool mapped) {
  const auto* data = static_cast<const char*>(from.data);
  const int64_t element = math::ByteSize(from.dtype);
  const int64_t own = from.cols() * element, want = cols * element;
  const int64_t rows = std::max<int64_t>(1, kPieceBytes / want);
  std::string piece;
  for (int64_t r = 0; r < from.rows(); r += rows) {
    const int64_t n = std::min(rows, from.rows() - r);
    piece.assign(static_cast<size_t>(n * want), '\0');
    for (int64_t i = 0; i < n; ++i) {
      std::copy_n(data + (r + i) * own, own, piece.data() + i * want);
    }
    MOTET_RETURN_IF_ERROR(writer.Append(piece));
    if (mapped) {  // anything else would be gone
      math::Tensor read = from;
      read.data = const_cast<char*>(data + r * own);
      read.shape = {n, from.cols()};
      SafetensorsFile::LetGo(read);
    }
  }
  return absl::OkStatus();
}

absl::Status Append(SafetensorsWriter& writer, const Source& source,
                    const Places& places) {
  const math::Tensor& from = source.from;
  const auto* data = static_cast<const char*>(from.data);
  const Places::Place place = places.Find(data, from.bytes());
  const bool mapped = place.file != nullptr;
  if (from.shape.rank == 2 && from.cols() != source.to.shape.dim[1]) {
    return AppendRows(writer, from, source.to.shape.dim[1], mapped);
  }
  for (int64_t at = 0; at < from.bytes(); at += kPieceBytes) {
    const auto n =
        static_cast<size_t>(std::min(kPieceBytes, from.bytes() - at));
    MOTET_RETURN_IF_ERROR(
        mapped ? writer.AppendFrom(*place.file,
                                   place.offset + static_cast<uint64_t>(at), n)
               : writer.Append({data + at, n}));
  }
  return AppendZeros(writer,
                     static_cast<int64_t>(source.to.bytes()) - from.bytes());
}

absl::Status Write(const std::string& path, const std::vector<Source>& sources,
                   const SaveOptions& options) {
  std::vector<TensorLayout> layout;
  std::map<absl::string_view, const Source*> by_name;
  uint64_t total = 0, done = 0;
  for (const Source& s : sources) {
    layout.push_back(s.to);
    by_name[s.to.name] = &s;
    total += s.to.bytes();
  }
  MOTET_ASSIGN_OR_RETURN(const auto writer,
                         SafetensorsWriter::Make(path, std::move(layout)));
  const Places places(options.mapped);
  for (const TensorLayout& t : writer->tensors()) {
    MOTET_RETURN_IF_ERROR(Append(*writer, *by_name[t.name], places));
    done += t.bytes();
    if (options.progress) {
      options.progress(static_cast<double>(done) / static_cast<double>(total));
    }
  }
  return writer->Finish();
}

// What AutoTokenizer needs beside tokenizer.json.
std::string TokenizerConfig(const model::ModelConfig& config,
                            const model::Tokenizer& tokenizer) {
  nlohmann::ordered_json j;
  j["tokenizer_class"] = "PreTrainedTokenizerFast";
  j["model_max_length"] = config.max_positions;
  j["clean_up_tokenization_spaces"] = false;
  const std::pair<const char*, int32_t> specials[] = {
      {"bos_token", config.bos_id},
      {"eos_token", config.eos_id},
      {"pad_token", config.pad_id}};
  for (const auto& [key, id] : specials) {
    const std::string token = id < 0 ? "" : tokenizer.TokenBytes(id);
    if (!token.empty()) j[key] = token;
  }
  return j.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

// Null when none lies there.
absl::StatusOr<std::unique_ptr<model::Tokenizer>> LoadTokenizer(
    const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  if (!proto::Exists(path)) return nullptr;
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, proto::kMaxTokenizerBytes));
  auto parsed = model::Tokenizer::Parse(text);
  if (parsed.ok()) return parsed;
  return absl::Status(
      parsed.status().code(),
      absl::StrCat("[model ", path, "] ", parsed.status().message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(
    const std::string& folder, Numbers numbers) {
  auto loaded = std::make_unique<LoadedModel>();
  MOTET_ASSIGN_OR_RETURN(
      const std::string config,
      proto::ReadFile(folder + "/config.json", proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(loaded->config, model::ParseConfig(config));
  MOTET_ASSIGN_OR_RETURN(loaded->files, OpenWeightFiles(folder));
  const std::vector<std::string> problems =
      MatchWeights(loaded->config, loaded->files, loaded->weights,
                   loaded->widened);
  if (!problems.empty()) {
    constexpr size_t kShown = 50;
    std::string list = absl::StrJoin(
        problems.begin(),
        problems.begin() + std::min(problems.size(), kShown), ", ");
    if (problems.size() > kShown) {
      absl::StrAppend(&list, " and ", problems.size() - kShown, " more");
    }
    return Invalid(absl::StrCat("model ", folder),
                   absl::StrCat(problems.size(),
                                " tensors that do not fit config.json (", list,
                                ")"),
                   "the tensors that config.json describes",
                   "check that the files belong together");
  }
  absl::StatusOr<std::unique_ptr<model::Tokenizer>> tokenizer;
  const auto read = [&] { tokenizer = LoadTokenizer(folder); };
  absl::Status finite;
  if (numbers == Numbers::kFinite) {
    finite = CheckFinite(loaded->config, loaded->weights, read);
  } else {
    read();
  }
  MOTET_RETURN_IF_ERROR(tokenizer.status());
  loaded->tokenizer = *std::move(tokenizer);
  MOTET_RETURN_IF_ERROR(finite);
  return loaded;
}

absl::Status SaveModel(const std::string& folder,
                       const model::ModelConfig& config,
                       const model::ModelWeights& weights,
                       const std::string& tokenizer_json,
                       const std::string& weights_name,
                       const SaveOptions& options) {
  MOTET_RETURN_IF_ERROR(model::CheckConfig(config));
  MOTET_RETURN_IF_ERROR(model::CheckExport(config));
  std::vector<Source> sources;
  std::vector<std::string> problems;
  model::ModelWeights copy = weights;
  std::set<const void*> ffns;  // what may be narrower
  for (const model::LayerWeights& layer : weights.layers) {
    for (const model::FfnWeights& ffn : layer.experts) {
      if (ffn.up.rows() != ffn.gate.rows() ||
          ffn.down.cols() != ffn.gate.rows()) {
        continue;
      }
      ffns.insert({ffn.gate.data, ffn.up.data, ffn.down.data});
    }
  }
  model::VisitWeights(config, copy,
                      [&](const std::string& name, const math::Shape& shape,
                          math::Tensor& tensor) {
                        if (tensor.empty() ||
                            !(tensor.shape == shape ||
                              (ffns.contains(tensor.data) &&
                               Narrower(tensor.shape, shape)))) {
                          problems.push_back(absl::StrCat(
                              name, tensor.empty()
                                        ? " is missing"
                                        : absl::StrCat(
                                              " is ", tensor.shape.ToString(),
                                              ", not ", shape.ToString())));
                        }
                        sources.push_back({{name, tensor.dtype, shape},
                                           tensor});
                      });
  if (!problems.empty()) {
    return Invalid(absl::StrCat("model ", folder),
                   absl::StrJoin(problems, ", "),
                   "the tensors that the config describes");
  }
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  if (!tokenizer_json.empty()) {
    MOTET_ASSIGN_OR_RETURN(const auto tokenizer,
                           model::Tokenizer::Parse(tokenizer_json));
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(folder + "/tokenizer.json",
                                                 tokenizer_json));
    // Packages hold what DESIGN lists and nothing for other loaders.
    if (weights_name == kHuggingFaceWeights) {
      MOTET_RETURN_IF_ERROR(
          proto::WriteFileAtomic(folder + "/tokenizer_config.json",
                                 TokenizerConfig(config, *tokenizer)));
    }
  }
  const std::string dtype = DTypeOf(sources);
  MOTET_RETURN_IF_ERROR(
      Write(absl::StrCat(folder, "/", weights_name), sources, options));
  // Last: a folder with config.json is complete.
  return proto::WriteFileAtomic(folder + "/config.json",
                                model::WriteConfig(config, dtype));
}

}  // namespace motet::package
