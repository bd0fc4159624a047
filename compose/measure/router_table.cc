// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/router_table.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/hash.h"
#include "compose/measure/kmeans.h"
#include "compose/measure/softmax_classifier.h"
#include "nlohmann/json.hpp"

namespace motet::measure {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr int kBase = -1;

// What every row is made of.
struct Bench {
  const std::vector<RoutedSet>& sets;
  int experts = 0;
  int adapters = 0;
  int64_t width = 0;
  const RouterTableOptions& options;

  int64_t Columns() const { return 1 + experts + adapters; }
  int64_t Count(const RoutedQueries& q) const {
    return static_cast<int64_t>(q.vectors.size()) / width;
  }
  std::span<const float> Vector(const RoutedQueries& q, int64_t i) const {
    return std::span(q.vectors).subspan(static_cast<size_t>(i * width),
                                        static_cast<size_t>(width));
  }
  // encoder: kBase, an expert, or experts + an adapter.
  double Score(const RoutedQueries& q, int64_t i, int encoder) const {
    return q.scores[static_cast<size_t>(i * Columns() + 1 + encoder)];
  }
  double MeanScore(const RoutedQueries& q, int encoder) const {
    double sum = 0;
    for (int64_t i = 0; i < Count(q); ++i) sum += Score(q, i, encoder);
    return sum / static_cast<double>(Count(q));
  }
  // The best expert but `out`: own where it is among the best, else the first.
  int Best(const RoutedQueries& q, int64_t i, int out, int own) const {
    int best = kBase;
    const auto try_one = [&](int e) {
      if (e == out || e < 0) return;
      if (best == kBase || Score(q, i, e) > Score(q, i, best)) best = e;
    };
    try_one(own);
    for (int e = 0; e < experts; ++e) try_one(e);
    return best;
  }
};

// Which encoder answers a query of a set.
using Choose = std::function<int(const RoutedSet& set, int64_t query)>;
// A router, made as if the expert `out` had been withdrawn; kBase: of all.
using Make = std::function<Choose(int out)>;

double Measure(const Bench& bench, const RoutedSet& set, const Choose& choose,
               std::vector<double>* went) {
  double sum = 0;
  const int64_t n = bench.Count(set.test);
  if (went != nullptr) went->assign(static_cast<size_t>(1 + bench.experts), 0);
  for (int64_t i = 0; i < n; ++i) {
    const int chosen = choose(set, i);
    sum += bench.Score(set.test, i, chosen);
    if (went != nullptr) {
      (*went)[static_cast<size_t>(1 + chosen)] += 1.0 / static_cast<double>(n);
    }
  }
  return sum / static_cast<double>(n);
}

RouterRow RoutedRow(const Bench& bench, std::string name, std::string kind,
                    const Make& make) {
  RouterRow row{std::move(name), std::move(kind), {}, {}, {}};
  const Choose all = make(kBase);
  for (const RoutedSet& set : bench.sets) {
    row.went.emplace_back();
    row.values.push_back(Measure(bench, set, all, &row.went.back()));
    row.without.push_back(
        set.expert < 0 ? kNone
                       : Measure(bench, set, make(set.expert), nullptr));
  }
  return row;
}

// One encoder for every query.
RouterRow EncoderRow(const Bench& bench, std::string name, int encoder) {
  RouterRow row{std::move(name), "encoder", {}, {}, {}};
  // An adapter that all data made knows of the withdrawn owner's: it would
  // have to be trained anew.
  const bool everyones = encoder >= bench.experts;
  for (const RoutedSet& set : bench.sets) {
    row.values.push_back(bench.MeanScore(set.test, encoder));
    const bool withdrawn = encoder == set.expert && encoder != kBase;
    row.without.push_back(set.expert < 0 || withdrawn || everyones
                              ? kNone
                              : row.values.back());
  }
  return row;
}

// Each owner's domain by `samples` of its queries: the nearest one's owner.
Make DatasetRouter(const Bench& bench) {
  return [&bench](int out) -> Choose {
    std::vector<float> vectors;
    std::vector<int> owners;
    for (const RoutedSet& set : bench.sets) {
      if (set.expert < 0 || set.expert == out) continue;
      const int64_t count = bench.Count(set.train);
      const int64_t samples = std::min(count, bench.options.samples);
      for (int64_t i = 0; i < samples; ++i) {
        const auto v = bench.Vector(
            set.train, learn::Shuffled(i, count, bench.options.seed));
        vectors.insert(vectors.end(), v.begin(), v.end());
        owners.push_back(set.expert);
      }
    }
    // The nearest of all pilots: each query a pilot, the maximum.
    auto router = std::make_shared<retrieve::PilotRouter>(
        std::move(vectors), std::move(owners), bench.width,
        retrieve::Similarity::kCosine, retrieve::Aggregate::kMax);
    return [router, &bench](const RoutedSet& set, int64_t i) {
      return router->Route(bench.Vector(set.test, i))[0];
    };
  };
}

// A linear classifier whose classes are the experts that rank best.
Make Classifier(const Bench& bench) {
  return [&bench](int out) -> Choose {
    std::vector<float> vectors;
    std::vector<int> labels;
    for (const RoutedSet& set : bench.sets) {
      if (set.expert < 0 || set.expert == out) continue;
      for (int64_t i = 0; i < bench.Count(set.train); ++i) {
        const int best = bench.Best(set.train, i, out, set.expert);
        if (best == kBase) continue;
        const auto v = bench.Vector(set.train, i);
        vectors.insert(vectors.end(), v.begin(), v.end());
        labels.push_back(best);
      }
    }
    if (labels.empty()) return [](const RoutedSet&, int64_t) { return kBase; };
    auto classifier = std::make_shared<SoftmaxClassifier>(
        vectors, labels, bench.experts, bench.width);
    return [classifier, &bench](const RoutedSet& set, int64_t i) {
      return classifier->Classify(bench.Vector(set.test, i));
    };
  };
}

// A library as an owner publishes it: of experts, or of the base as well,
// which then is candidate 0.
struct Library {
  int of = kBase;
  std::vector<float> pilots;
  std::vector<int> candidates;
  std::vector<int64_t> queries;  // behind each pilot
  std::vector<double> gates;     // of each; not of clusters
};

std::vector<Library> Libraries(const Bench& bench, bool base_too,
                               int64_t clusters) {
  std::vector<Library> libraries;
  const int first = base_too ? 0 : 1;
  const int64_t candidates = bench.experts + 1 - first;
  for (const RoutedSet& set : bench.sets) {
    if (set.expert < 0) continue;
    const int64_t n = bench.Count(set.train);
    std::vector<double> scores;
    for (int64_t i = 0; i < n; ++i) {
      for (int e = first - 1; e < bench.experts; ++e) {
        scores.push_back(bench.Score(set.train, i, e));
      }
    }
    retrieve::PilotOptions options = bench.options.pilots;
    options.own = set.expert + 1 - first;
    const std::vector<int> best =
        retrieve::BestExperts(scores, candidates, options.own);
    retrieve::MadePilots made = retrieve::MakePilots(
        scores, set.train.vectors, candidates, bench.width, options);
    retrieve::SetGates(scores, set.train.vectors, candidates, bench.width,
                       options.own, retrieve::kGateShare, made);
    Library library{set.expert, {}, {}, {}, {}};
    for (const retrieve::PilotGroup& group : made.groups) {
      if (clusters <= 1) {
        library.pilots.insert(library.pilots.end(), group.mean.begin(),
                              group.mean.end());
        library.candidates.push_back(group.expert);
        library.queries.push_back(group.queries);
        library.gates.push_back(group.gate);
        continue;
      }
      std::vector<float> members;
      for (int64_t i = 0; i < n; ++i) {
        if (best[static_cast<size_t>(i)] != group.expert) continue;
        const auto v = bench.Vector(set.train, i);
        members.insert(members.end(), v.begin(), v.end());
      }
      const std::vector<float> means =
          KMeans(members, bench.width, clusters, bench.options.seed);
      library.pilots.insert(library.pilots.end(), means.begin(), means.end());
      library.candidates.insert(
          library.candidates.end(),
          means.size() / static_cast<size_t>(bench.width), group.expert);
      library.queries.resize(library.candidates.size(), 1);
    }
    libraries.push_back(std::move(library));
  }
  return libraries;
}

// RouterRetriever. A withdrawal deletes the expert's pilots and the library of
// its owner; nobody's other pilots move.
Make Pilots(const Bench& bench, retrieve::Aggregate aggregate, bool base_too,
            int64_t clusters, bool gated = false) {
  auto libraries = std::make_shared<std::vector<Library>>(
      Libraries(bench, base_too, clusters));
  const int shift = base_too ? 1 : 0;
  return [&bench, libraries, aggregate, shift, gated](int out) -> Choose {
    Library kept;
    for (const Library& library : *libraries) {
      if (library.of == out) continue;
      for (size_t p = 0; p < library.candidates.size(); ++p) {
        if (library.candidates[p] - shift == out && out != kBase) continue;
        const auto at = library.pilots.begin() +
                        static_cast<int64_t>(p) * bench.width;
        kept.pilots.insert(kept.pilots.end(), at, at + bench.width);
        kept.candidates.push_back(library.candidates[p]);
        kept.queries.push_back(library.queries[p]);
        if (gated) kept.gates.push_back(library.gates[p]);
      }
    }
    auto router = std::make_shared<retrieve::PilotRouter>(
        std::move(kept.pilots), std::move(kept.candidates), bench.width,
        bench.options.similarity, aggregate, std::move(kept.queries),
        std::move(kept.gates));
    return [router, shift, &bench](const RoutedSet& set, int64_t i) {
      const int chosen = router->Route(bench.Vector(set.test, i))[0];
      return chosen < 0 ? kBase : chosen - shift;
    };
  };
}

Make SetOracle(const Bench& bench) {
  return [&bench](int out) -> Choose {
    return [&bench, out](const RoutedSet& set, int64_t) {
      int best = kBase;
      for (int e = 0; e < bench.experts; ++e) {
        if (e == out) continue;
        if (best == kBase || bench.MeanScore(set.test, e) >
                                 bench.MeanScore(set.test, best)) {
          best = e;
        }
      }
      return best;
    };
  };
}

Make QueryOracle(const Bench& bench) {
  return [&bench](int out) -> Choose {
    return [&bench, out](const RoutedSet& set, int64_t i) {
      return bench.Best(set.test, i, out, set.expert);
    };
  };
}

}  // namespace

double RowMean(const std::vector<double>& values) {
  double sum = 0;
  int n = 0;
  for (double value : values) {
    if (std::isnan(value)) continue;
    sum += value;
    ++n;
  }
  return n == 0 ? kNone : sum / n;
}

RouterTable MakeRouterTable(const std::vector<RoutedSet>& sets,
                            const std::vector<std::string>& experts,
                            const std::vector<std::string>& adapters,
                            int64_t width, const RouterTableOptions& options) {
  const Bench bench{sets, static_cast<int>(experts.size()),
                    static_cast<int>(adapters.size()), width, options};
  RouterTable table{{}, experts, {}};
  RouterRow bm25{"BM25", "encoder", {}, {}, {}};
  for (const RoutedSet& set : sets) {
    table.sets.push_back(set.name);
    bm25.values.push_back(set.bm25);
    bm25.without.push_back(set.expert < 0 ? kNone : set.bm25);
  }
  table.rows.push_back(std::move(bm25));
  table.rows.push_back(EncoderRow(bench, "base", kBase));
  for (int a = 0; a < bench.adapters; ++a) {
    table.rows.push_back(EncoderRow(bench, adapters[static_cast<size_t>(a)],
                                    bench.experts + a));
  }
  for (int e = 0; e < bench.experts; ++e) {
    table.rows.push_back(EncoderRow(
        bench, absl::StrCat("expert ", experts[static_cast<size_t>(e)]), e));
  }
  using retrieve::Aggregate;
  const auto add = [&](const char* name, const char* kind, const Make& make) {
    table.rows.push_back(RoutedRow(bench, name, kind, make));
  };
  add("dataset router", "router", DatasetRouter(bench));
  add("classifier", "router", Classifier(bench));
  add("RouterRetriever, mean", "router",
      Pilots(bench, Aggregate::kMean, false, 1));
  add("RouterRetriever, max", "router",
      Pilots(bench, Aggregate::kMax, false, 1));
  add("RouterRetriever, weighted", "router",
      Pilots(bench, Aggregate::kWeighted, false, 1));
  add("RouterRetriever, weighted, gated", "router",
      Pilots(bench, Aggregate::kWeighted, false, 1, true));
  add("RouterRetriever, mean, k-means", "router",
      Pilots(bench, Aggregate::kMean, false, options.clusters));
  add("RouterRetriever, max, k-means", "router",
      Pilots(bench, Aggregate::kMax, false, options.clusters));
  add("RouterRetriever, mean, base too", "router",
      Pilots(bench, Aggregate::kMean, true, 1));
  add("oracle by set", "oracle", SetOracle(bench));
  add("oracle by query", "oracle", QueryOracle(bench));
  return table;
}

std::string RouterTableCsv(const RouterTable& table) {
  const auto number = [](double value) {
    return std::isnan(value) ? std::string() : absl::StrFormat("%.6f", value);
  };
  std::string csv = "row,kind,set,ndcg10,without\n";
  for (const RouterRow& row : table.rows) {
    const auto line = [&](const std::string& set, double value,
                          double without) {
      absl::StrAppend(&csv, "\"", row.name, "\",", row.kind, ",", set, ",",
                      number(value), ",", number(without), "\n");
    };
    for (size_t s = 0; s < table.sets.size(); ++s) {
      line(table.sets[s], row.values[s], row.without[s]);
    }
    line("(mean)", RowMean(row.values), RowMean(row.without));
  }
  return csv;
}

std::string RouterTableJson(const RouterTable& table) {
  // JSON has no NaN: null.
  const auto numbers = [](const std::vector<double>& values) {
    auto list = nlohmann::ordered_json::array();
    for (double value : values) {
      list.push_back(std::isnan(value) ? nlohmann::ordered_json()
                                       : nlohmann::ordered_json(value));
    }
    return list;
  };
  nlohmann::ordered_json json;
  json["sets"] = table.sets;
  json["experts"] = table.experts;
  json["rows"] = nlohmann::ordered_json::array();
  for (const RouterRow& row : table.rows) {
    nlohmann::ordered_json line;
    line["name"] = row.name;
    line["kind"] = row.kind;
    line["ndcg@10"] = numbers(row.values);
    line["without"] = numbers(row.without);
    if (!row.went.empty()) line["went"] = row.went;
    json["rows"].push_back(std::move(line));
  }
  return json.dump(2, ' ', false,
                   nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

std::string RouterScoresJsonl(const std::vector<RoutedSet>& sets) {
  std::string lines;
  const auto add = [&](const RoutedSet& set, const char* split,
                       const RoutedQueries& queries) {
    const size_t n = queries.ids.size();
    for (size_t q = 0; q < n; ++q) {
      const size_t columns = queries.scores.size() / n;
      const auto from = queries.scores.begin() +
                        static_cast<int64_t>(q * columns);
      nlohmann::ordered_json line;
      line["set"] = set.name;
      line["split"] = split;
      line["query"] = queries.ids[q];
      line["scores"] =
          std::vector<double>(from, from + static_cast<int64_t>(columns));
      absl::StrAppend(&lines,
                      line.dump(-1, ' ', false,
                                nlohmann::json::error_handler_t::replace),
                      "\n");
    }
  };
  for (const RoutedSet& set : sets) {
    add(set, "train", set.train);
    add(set, "test", set.test);
  }
  return lines;
}

}  // namespace motet::measure
