// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/router_sets.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/hash.h"
#include "compose/measure/retrieval.h"
#include "compose/retrieve/adapter_data.h"
#include "compose/retrieve/bm25.h"
#include "compose/retrieve/flat.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

using retrieve::BeirSet;

constexpr int64_t kDepth = 10;

double Ndcg(const BeirSet& set, const retrieve::Query& query,
            const retrieve::Ranking& ranking) {
  RankedQuery ranked{query.id, {}};
  for (const retrieve::Hit& hit : ranking) {
    ranked.documents.push_back(
        {set.documents[static_cast<size_t>(hit.row)].id, hit.score});
  }
  return ScoreQuery(ranked, set.judgements.at(query.id)).ndcg_10;
}

// As ScoreRetrieval: a query that nothing answers does not count.
void KeepAnswered(BeirSet& set) {
  std::erase_if(set.queries, [&](const retrieve::Query& query) {
    const auto& of = set.judgements.at(query.id);
    return std::none_of(of.begin(), of.end(),
                        [](const auto& one) { return one.second > 0; });
  });
}

// `most` of the queries, in their order.
void Draw(int64_t most, uint64_t seed, std::vector<retrieve::Query>& queries) {
  if (most <= 0 || static_cast<int64_t>(queries.size()) <= most) return;
  // Not the order that MakeAdapterData draws by: these are to be as many, not
  // the same.
  const uint64_t apart = learn::Mix(seed ^ learn::Fnv1a("routers"));
  std::set<int64_t> kept;
  for (int64_t i = 0; i < most; ++i) {
    kept.insert(learn::Shuffled(i, std::ssize(queries), apart));
  }
  std::vector<retrieve::Query> drawn;
  for (int64_t i : kept) {
    drawn.push_back(std::move(queries[static_cast<size_t>(i)]));
  }
  queries = std::move(drawn);
}

absl::StatusOr<RoutedQueries> MeasureQueries(
    const retrieve::TextEncoder& base,
    const std::vector<const model::Lora*>& loras, const BeirSet& set,
    const std::vector<float>& documents) {
  std::vector<std::string> texts;
  RoutedQueries queries;
  for (const retrieve::Query& query : set.queries) {
    texts.push_back(query.text);
    queries.ids.push_back(query.id);
  }
  const size_t columns = 1 + loras.size();
  queries.scores.resize(texts.size() * columns);
  for (size_t column = 0; column < columns; ++column) {
    const model::Lora* lora = column == 0 ? nullptr : loras[column - 1];
    MOTET_ASSIGN_OR_RETURN(retrieve::Vectors vectors,
                           base.Encode(texts, lora));
    const auto rankings = retrieve::SearchFlat(
        documents.data(), 0, static_cast<int64_t>(set.documents.size()),
        base.width(), vectors.values, kDepth,
        set.empty_documents == 0
            ? std::function<bool(int64_t)>()
            : [&](int64_t row) {
                return !retrieve::IsEmpty(
                    set.documents[static_cast<size_t>(row)]);
              });
    for (size_t q = 0; q < texts.size(); ++q) {
      queries.scores[q * columns + column] =
          Ndcg(set, set.queries[q], rankings[q]);
    }
    if (column == 0) queries.vectors = std::move(vectors.values);
  }
  return queries;
}

double MeasureBm25(const BeirSet& set) {
  retrieve::Bm25 bm25;
  for (const auto& d : set.documents) bm25.Add(retrieve::TextOf(d));
  double sum = 0;
  for (const retrieve::Query& query : set.queries) {
    sum += Ndcg(set, query, bm25.Search(query.text, kDepth));
  }
  return sum / static_cast<double>(set.queries.size());
}

}  // namespace

absl::StatusOr<std::vector<RoutedSet>> MeasureSets(
    const retrieve::TextEncoder& base,
    const std::vector<const model::Lora*>& loras,
    const std::vector<SetSource>& sources, const RouterSetOptions& options) {
  std::vector<RoutedSet> sets;
  for (size_t s = 0; s < sources.size(); ++s) {
    const SetSource& source = sources[s];
    const auto tell = [&](double fraction, const char* what) {
      if (options.progress == nullptr) return;
      options.progress((static_cast<double>(s) + fraction) /
                           static_cast<double>(sources.size()),
                       absl::StrCat(source.name, ": ", what));
    };
    MOTET_ASSIGN_OR_RETURN(BeirSet test,
                           retrieve::ReadBeir(source.folder, {}));
    KeepAnswered(test);
    std::vector<std::string> texts;
    for (const auto& d : test.documents) texts.push_back(retrieve::TextOf(d));
    bool cached = false;
    MOTET_ASSIGN_OR_RETURN(
        const retrieve::Vectors documents,
        retrieve::CachedVectors(
            base, texts, options.cache,
            [&](double fraction) {
              tell(0.8 * fraction, "documents");
              return true;
            },
            &cached));
    RoutedSet set{source.name, source.expert, {}, {}, 0};
    tell(0.8, "test queries");
    MOTET_ASSIGN_OR_RETURN(
        set.test, MeasureQueries(base, loras, test, documents.values));
    set.bm25 = MeasureBm25(test);
    if (source.expert >= 0) {
      tell(0.9, "the owner's queries");
      MOTET_ASSIGN_OR_RETURN(
          BeirSet train, retrieve::ReadBeir(source.folder, {.split = "train"}));
      KeepAnswered(train);
      Draw(options.max_train, options.seed, train.queries);
      MOTET_ASSIGN_OR_RETURN(
          set.train, MeasureQueries(base, loras, train, documents.values));
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

}  // namespace motet::measure
