// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/adapter_data.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "compose/learn/hash.h"
#include "compose/package/safetensors.h"
#include "compose/retrieve/flat.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::retrieve {
namespace {

using math::DType;
using math::Tensor;

constexpr char kVectors[] = "vectors";  // [N,C] f32
constexpr char kCut[] = "cut";          // [1] i64
constexpr char kDigest[] = "sha256";    // [32] u8, of the other two's bytes

proto::Digest KeyOf(const TextEncoder& base,
                    std::span<const std::string> texts) {
  proto::Sha256Stream stream;
  stream.Update(absl::StrCat(
      "motet document vectors 1\narithmetic ", static_cast<int>(base.product()),
      "\n", proto::ToBytes(base.digest()), texts.size(), "\n"));
  for (const std::string& text : texts) {
    stream.Update(absl::StrCat(text.size(), "\n", text));
  }
  return stream.Finish();
}

absl::string_view Bytes(const Tensor& t) {
  return {static_cast<const char*>(t.data), static_cast<size_t>(t.bytes())};
}

proto::Digest DigestOf(const Tensor& vectors, const Tensor& cut) {
  proto::Sha256Stream stream;
  stream.Update(Bytes(vectors));
  stream.Update(Bytes(cut));
  return stream.Finish();
}

// false: no such file, or one that is not what was written.
bool ReadVectors(const std::string& path, size_t texts, int64_t width,
                 Vectors& out) {
  if (!proto::Exists(path)) return false;
  const auto file = package::SafetensorsFile::Open(path);
  if (!file.ok()) return false;
  const Tensor vectors = (*file)->Find(kVectors), cut = (*file)->Find(kCut);
  const Tensor digest = (*file)->Find(kDigest);
  if (vectors.empty() || vectors.dtype != DType::kF32 ||
      vectors.shape != math::Shape{static_cast<int64_t>(texts), width} ||
      cut.empty() || cut.dtype != DType::kI64 || cut.size() != 1 ||
      digest.empty() ||
      Bytes(digest) != proto::ToBytes(DigestOf(vectors, cut))) {
    return false;
  }
  out.values.assign(vectors.f32(), vectors.f32() + vectors.size());
  std::memcpy(&out.cut, cut.data, sizeof out.cut);
  return true;
}

absl::Status WriteVectors(const std::string& path, int64_t width,
                          Vectors& made) {
  const auto tensor = [](void* data, DType dtype, const math::Shape& shape) {
    return Tensor{data, dtype, math::Device::kCpu, shape};
  };
  const Tensor vectors =
      tensor(made.values.data(), DType::kF32,
             {static_cast<int64_t>(made.values.size()) / width, width});
  const Tensor cut = tensor(&made.cut, DType::kI64, {1});
  std::string digest = proto::ToBytes(DigestOf(vectors, cut));
  return package::WriteSafetensors(
      path, {{kVectors, vectors},
             {kCut, cut},
             {kDigest, tensor(digest.data(), DType::kU8,
                              {static_cast<int64_t>(digest.size())})}});
}

// Queries of one set that have a document, with their rows.
struct Answered {
  std::vector<std::string> texts;
  std::vector<std::vector<int64_t>> relevant;
  int64_t unanswered = 0;
};

Answered AnsweredOf(const BeirSet& set, int64_t max_queries, uint64_t seed) {
  absl::flat_hash_map<std::string, int64_t> rows;
  for (size_t i = 0; i < set.documents.size(); ++i) {
    if (!IsEmpty(set.documents[i])) {
      rows.emplace(set.documents[i].id, static_cast<int64_t>(i));
    }
  }
  Answered all;
  for (const Query& query : set.queries) {
    std::vector<int64_t> relevant;
    for (const auto& [id, score] : set.judgements.at(query.id)) {
      const auto found = rows.find(id);
      if (score > 0 && found != rows.end()) relevant.push_back(found->second);
    }
    if (relevant.empty()) {
      ++all.unanswered;
      continue;
    }
    std::sort(relevant.begin(), relevant.end());
    all.texts.push_back(query.text);
    all.relevant.push_back(std::move(relevant));
  }
  const int64_t count = std::ssize(all.texts);
  if (max_queries == 0 || count <= max_queries) return all;
  std::vector<size_t> kept;
  for (int64_t i = 0; i < max_queries; ++i) {
    kept.push_back(static_cast<size_t>(learn::Shuffled(i, count, seed)));
  }
  std::sort(kept.begin(), kept.end());
  Answered drawn;
  drawn.unanswered = all.unanswered;
  for (size_t i : kept) {
    drawn.texts.push_back(std::move(all.texts[i]));
    drawn.relevant.push_back(std::move(all.relevant[i]));
  }
  return drawn;
}

// The base's best documents for each query that nobody judged relevant.
absl::StatusOr<std::vector<std::vector<int64_t>>> Mine(
    const TextEncoder& base, const BeirSet& set, const Answered& answered,
    std::span<const float> documents, const AdapterDataOptions& options,
    double done) {
  // Queries are no part of the progress, but can be stopped like documents.
  const auto go_on = [&](double) {
    return !options.progress || options.progress(done);
  };
  MOTET_ASSIGN_OR_RETURN(const Vectors queries,
                         base.Encode(answered.texts, nullptr, go_on));
  size_t most = 0;
  for (const auto& rows : answered.relevant) most = std::max(most, rows.size());
  const int64_t depth = options.hard_skip + options.hard_pool +
                        static_cast<int64_t>(most);
  const auto rankings = SearchFlat(
      documents.data(), 0, static_cast<int64_t>(set.documents.size()),
      base.width(), queries.values, depth,
      [&](int64_t row) { return !IsEmpty(set.documents[row]); });
  std::vector<std::vector<int64_t>> hard;
  for (size_t q = 0; q < rankings.size(); ++q) {
    std::vector<int64_t> rows;
    int64_t skipped = 0;
    const auto& relevant = answered.relevant[q];
    for (const Hit& hit : rankings[q]) {
      if (std::binary_search(relevant.begin(), relevant.end(), hit.row) ||
          skipped++ < options.hard_skip) {
        continue;
      }
      if (std::ssize(rows) == options.hard_pool) break;
      rows.push_back(hit.row);
    }
    std::sort(rows.begin(), rows.end());
    hard.push_back(std::move(rows));
  }
  return hard;
}

}  // namespace

absl::StatusOr<Vectors> CachedVectors(const TextEncoder& base,
                                      std::span<const std::string> texts,
                                      const std::string& folder,
                                      const Fraction& progress, bool* cached,
                                      size_t texts_a_file) {
  *cached = false;
  if (folder.empty()) return base.Encode(texts, nullptr, progress);
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  Vectors all;
  all.values.reserve(texts.size() * static_cast<size_t>(base.width()));
  bool encoded = false;
  for (size_t first = 0; first < texts.size(); first += texts_a_file) {
    const auto part =
        texts.subspan(first, std::min(texts_a_file, texts.size() - first));
    const std::string path =
        absl::StrCat(folder, "/documents-",
                     proto::Hex(KeyOf(base, part)).substr(0, 32),
                     ".safetensors");
    Vectors vectors;
    if (!ReadVectors(path, part.size(), base.width(), vectors)) {
      const auto so_far = [&](double fraction) {
        return !progress ||
               progress((static_cast<double>(first) +
                         fraction * static_cast<double>(part.size())) /
                        static_cast<double>(texts.size()));
      };
      MOTET_ASSIGN_OR_RETURN(vectors, base.Encode(part, nullptr, so_far));
      MOTET_RETURN_IF_ERROR(WriteVectors(path, base.width(), vectors));
      encoded = true;
    }
    all.values.insert(all.values.end(), vectors.values.begin(),
                      vectors.values.end());
    all.cut += vectors.cut;
  }
  *cached = !encoded;
  return all;
}

absl::StatusOr<MadeAdapterData> MakeAdapterData(
    const TextEncoder& base, const std::vector<BeirSet>& sets,
    const AdapterDataOptions& options) {
  size_t all = 0, done = 0;
  for (const BeirSet& set : sets) all += set.documents.size();
  MadeAdapterData made;
  for (const BeirSet& set : sets) {
    std::vector<std::string> texts;
    for (const Document& d : set.documents) texts.push_back(TextOf(d));
    bool cached = false;
    MOTET_ASSIGN_OR_RETURN(
        const Vectors documents,
        CachedVectors(base, texts, options.cache,
                      [&](double part) {
                        if (!options.progress) return true;
                        return options.progress(
                            (static_cast<double>(done) +
                             part * static_cast<double>(texts.size())) /
                            static_cast<double>(all));
                      },
                      &cached));
    done += texts.size();
    made.cached += cached ? 1 : 0;
    made.cut_documents += documents.cut;
    const Answered answered =
        AnsweredOf(set, options.max_queries, options.seed);
    made.unanswered += answered.unanswered;
    std::vector<std::vector<int64_t>> hard;
    if (options.hard_pool > 0 && !answered.texts.empty()) {
      MOTET_ASSIGN_OR_RETURN(
          hard, Mine(base, set, answered, documents.values, options,
                     static_cast<double>(done) / static_cast<double>(all)));
    }
    // Rows of this set begin where those before it end.
    const int64_t before =
        static_cast<int64_t>(made.documents.size()) / base.width();
    const auto append = [&](const std::vector<std::vector<int64_t>>& from,
                            std::vector<std::vector<int64_t>>& to) {
      for (const auto& rows : from) {
        to.push_back(rows);
        for (int64_t& row : to.back()) row += before;
      }
    };
    append(answered.relevant, made.data.relevant);
    append(hard, made.data.hard);
    for (const std::string& text : answered.texts) {
      int64_t all_tokens = 0;
      made.data.queries.push_back(base.Tokenize(text, &all_tokens));
      made.cut_queries +=
          all_tokens > std::ssize(made.data.queries.back()) ? 1 : 0;
    }
    made.data.sets.push_back(std::ssize(answered.texts));
    made.documents.insert(made.documents.end(), documents.values.begin(),
                          documents.values.end());
  }
  if (made.data.queries.empty()) {
    return proto::Invalid(
        "training of an adapter",
        absl::StrCat("no query with a document, of ", made.unanswered,
                     " judged ones"),
        "judgements above 0 of documents with text", "correct the judgements");
  }
  made.data.documents = made.documents;
  return made;
}

}  // namespace motet::retrieve
