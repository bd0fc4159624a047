// SPDX-License-Identifier: Apache-2.0
// Which way of choosing an expert for a query is best (METHODS 9): every
// router's nDCG@10 on every set, from one table of how well each encoder ranks
// for each query. Then the same with each set's own expert withdrawn, which is
// what its users get after an opt-out. docs/retrieval.md defines the rows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compose/retrieve/pilots.h"

namespace motet::measure {

// Queries of a set, with all that a router may look at and all that it is
// judged by.
struct RoutedQueries {
  std::vector<std::string> ids;  // [Q]
  std::vector<float> vectors;  // [Q,C], of the base
  // nDCG@10 by the base, each expert, each further adapter.
  std::vector<double> scores;  // [Q,1+E+A]
};
struct RoutedSet {
  std::string name;
  int expert = -1;  // whose owner's it is, from 0; -1: nobody's
  RoutedQueries train;  // the owner's; empty where it is nobody's
  RoutedQueries test;
  double bm25 = 0;  // nDCG@10 of the test queries
};

struct RouterTableOptions {
  retrieve::Similarity similarity = retrieve::Similarity::kDot;
  int64_t samples = 100;  // of each owner's queries, of the dataset router
  int64_t clusters = 4;   // of k-means, where a pilot is one mean else
  retrieve::PilotOptions pilots;
  uint64_t seed = 1;
};

// A row: one way to answer queries. NaN where it means nothing.
struct RouterRow {
  std::string name;
  std::string kind;             // "encoder", "router" or "oracle"
  std::vector<double> values;   // [sets]
  std::vector<double> without;  // [sets], their own experts withdrawn
  // "router", "oracle": share of each set's queries that went to each expert,
  // [sets][1+E], the base first.
  std::vector<std::vector<double>> went;
};
struct RouterTable {
  std::vector<std::string> sets;
  std::vector<std::string> experts;
  std::vector<RouterRow> rows;
};
// The mean over sets, of those that have a value.
double RowMean(const std::vector<double>& values);

// experts: names, [E]; adapters: of further ones that rank for every set (one
// adapter on all data), [A]; width: C.
RouterTable MakeRouterTable(const std::vector<RoutedSet>& sets,
                            const std::vector<std::string>& experts,
                            const std::vector<std::string>& adapters,
                            int64_t width, const RouterTableOptions& options);

// One line a cell: row,kind,set,ndcg10,without; the mean has the set "(mean)".
std::string RouterTableCsv(const RouterTable& table);
std::string RouterTableJson(const RouterTable& table);
// One line a query, {"set", "split", "query", "scores"}: what the table is
// made of, for other routers than ours.
std::string RouterScoresJsonl(const std::vector<RoutedSet>& sets);

}  // namespace motet::measure
