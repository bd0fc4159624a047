// SPDX-License-Identifier: Apache-2.0
// motet eval retrieval MODEL --data DIR: nDCG@10, MRR@10 and recall@100 of an
// encoder's vectors or a composition's, of BM25, or of both together, on a
// folder in BEIR layout (docs/retrieval.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/measure/retrieval.h"
#include "compose/retrieve/adapter_data.h"
#include "compose/retrieve/bm25.h"
#include "compose/retrieve/flat.h"
#include "compose/retrieve/text_encoder.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/query_encoder.h"
#include "coordinator/commands/retrieval_parts.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

using retrieve::Ranking;

// What recall@100 looks at; each of two rankings that are fused is as long.
constexpr int64_t kDepth = 100;

struct Options {
  QueryOptions queries;
  std::string data, mode = "dense", run, cache;
  retrieve::BeirOptions beir;
  math::Product product = math::Product::kExact;
};

struct Measured {
  std::vector<Ranking> rankings;  // one a query
  bool composed = false;
  std::vector<std::string> set;      // of a composition: that may answer
  std::vector<std::string> experts;  // that answered each query
  int64_t cut_documents = 0, cut_queries = 0, max_tokens = 0;
};

absl::Status RankDense(const Options& options, const retrieve::BeirSet& set,
                       const Context& context, Measured& measured) {
  MOTET_ASSIGN_OR_RETURN(
      const OpenedQueries opened,
      OpenQueries(options.queries, options.product, "eval retrieval", context));
  const retrieve::TextEncoder& base = opened.base();
  std::vector<std::string> texts, queries;
  for (const auto& d : set.documents) texts.push_back(retrieve::TextOf(d));
  for (const auto& q : set.queries) queries.push_back(q.text);
  ProgressLine progress("documents");
  bool cached = false;
  MOTET_ASSIGN_OR_RETURN(
      const retrieve::Vectors documents,
      retrieve::CachedVectors(
          base, texts, options.cache,
          [&](double fraction) {
            progress.Update(fraction, absl::StrCat(texts.size(), " documents"));
            return true;
          },
          &cached));
  progress.Finish(absl::StrCat(texts.size(), cached ? " there" : " encoded"));
  MOTET_ASSIGN_OR_RETURN(auto encoded, opened.encoder->Encode(queries));
  measured.rankings = retrieve::SearchFlat(
      documents.values.data(), 0, static_cast<int64_t>(texts.size()),
      base.width(), encoded.vectors.values, kDepth,
      // One that says nothing answers nothing.
      set.empty_documents == 0
          ? std::function<bool(int64_t)>()
          : [&](int64_t row) {
              return !retrieve::IsEmpty(set.documents[row]);
            });
  measured.cut_documents = documents.cut;
  measured.cut_queries = encoded.vectors.cut;
  measured.max_tokens = base.max_tokens();
  measured.composed = opened.composed();
  measured.set = opened.experts;
  measured.experts = std::move(encoded.experts);
  return absl::OkStatus();
}

std::vector<Ranking> RankBm25(const retrieve::BeirSet& set) {
  retrieve::Bm25 bm25;
  for (const auto& d : set.documents) bm25.Add(retrieve::TextOf(d));
  std::vector<Ranking> rankings;
  for (const auto& q : set.queries) {
    rankings.push_back(bm25.Search(q.text, kDepth));
  }
  return rankings;
}

absl::StatusOr<Measured> Rank(const Options& options,
                              const retrieve::BeirSet& set,
                              const Context& context) {
  Measured measured;
  if (options.mode == "bm25") {
    measured.rankings = RankBm25(set);
    return measured;
  }
  MOTET_RETURN_IF_ERROR(RankDense(options, set, context, measured));
  if (options.mode == "fusion") {
    const std::vector<Ranking> bm25 = RankBm25(set);
    for (size_t q = 0; q < bm25.size(); ++q) {
      measured.rankings[q] = retrieve::Fuse(
          std::vector<Ranking>{measured.rankings[q], bm25[q]}, kDepth);
    }
  }
  return measured;
}

std::string Json(const Options& options, const retrieve::BeirSet& set,
                 const Measured& measured,
                 const measure::RetrievalScore& score) {
  nlohmann::ordered_json json;
  json["mode"] = options.mode;
  json["split"] = options.beir.split;
  json["ndcg@10"] = score.ndcg_10;
  json["mrr@10"] = score.mrr_10;
  json["recall@100"] = score.recall_100;
  json["documents"] = set.documents.size();
  json["empty_documents"] = set.empty_documents;
  json["missing_documents"] = set.missing_documents;
  json["cut_documents"] = measured.cut_documents;
  json["cut_queries"] = measured.cut_queries;
  json["max_tokens"] = measured.max_tokens;
  std::map<std::string, std::string> answered;
  if (measured.composed) {
    json["experts"] = measured.set;
    for (size_t q = 0; q < set.queries.size(); ++q) {
      answered[set.queries[q].id] = measured.experts[q];
    }
  }
  json["queries"] = nlohmann::ordered_json::array();
  for (const measure::QueryScore& query : score.queries) {
    json["queries"].push_back({{"query", query.query},
                               {"ndcg@10", query.ndcg_10},
                               {"mrr@10", query.mrr_10},
                               {"recall@100", query.recall_100}});
    // "": the base.
    if (measured.composed) {
      json["queries"].back()["expert"] = answered[query.query];
    }
  }
  return JsonText(json);
}

// How many queries each expert answered.
std::string Answered(const Measured& measured) {
  std::map<std::string, int64_t> counts;
  for (const std::string& id : measured.experts) ++counts[ExpertText(id)];
  return absl::StrJoin(counts, ", ", [](std::string* out, const auto& count) {
    absl::StrAppend(out, count.first, " ", count.second);
  });
}

// What was done to the texts, where anything was.
void PrintNotes(const retrieve::BeirSet& set, const Measured& measured) {
  if (measured.cut_documents + measured.cut_queries > 0) {
    absl::FPrintF(stderr, "cut at %d tokens: %d documents, %d queries\n",
                  measured.max_tokens, measured.cut_documents,
                  measured.cut_queries);
  }
  if (set.empty_documents > 0) {
    absl::FPrintF(stderr, "without text, never found: %d documents\n",
                  set.empty_documents);
  }
  if (set.missing_documents > 0) {
    absl::FPrintF(stderr, "judged but not in the corpus: %d\n",
                  set.missing_documents);
  }
}

absl::Status Run(const Options& options, const Context& context) {
  if (options.mode != "bm25" && options.queries.served.model.empty()) {
    return proto::Invalid("motet eval retrieval", "no MODEL",
                          "an encoder's folder, a composition's name, or "
                          "--mode bm25");
  }
  MOTET_ASSIGN_OR_RETURN(const retrieve::BeirSet set,
                         retrieve::ReadBeir(options.data, options.beir));
  MOTET_ASSIGN_OR_RETURN(const Measured measured, Rank(options, set, context));
  std::vector<measure::RankedQuery> run;
  for (size_t q = 0; q < set.queries.size(); ++q) {
    run.push_back({set.queries[q].id, {}});
    for (const retrieve::Hit& hit : measured.rankings[q]) {
      run.back().documents.push_back(
          {set.documents[static_cast<size_t>(hit.row)].id, hit.score});
    }
  }
  const measure::RetrievalScore score =
      measure::ScoreRetrieval(run, set.judgements);
  if (!options.run.empty()) {
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
        options.run, measure::TrecRun(run, "motet-" + options.mode)));
  }
  PrintNotes(set, measured);
  if (context.json) {
    absl::PrintF("%s\n", Json(options, set, measured, score));
  } else {
    absl::PrintF(
        "nDCG@10 %.4f, MRR@10 %.4f, recall@100 %.4f over %d queries and %d "
        "documents\n",
        score.ndcg_10, score.mrr_10, score.recall_100, score.queries.size(),
        set.documents.size());
    if (measured.composed) absl::PrintF("answered: %s\n", Answered(measured));
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalRetrieval(CLI::App& noun, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = noun.add_subcommand(
      "retrieval",
      "nDCG@10, MRR@10 and recall@100 of an encoder or a composition on a "
      "folder in BEIR layout");
  command->add_option("MODEL", options->queries.served.model,
                      "Folder of a BERT encoder, or a composition's name; not "
                      "needed with --mode bm25");
  command
      ->add_option("--data", options->data,
                   "Folder with corpus.jsonl, queries.jsonl and qrels/")
      ->required();
  command
      ->add_option("--split", options->beir.split,
                   "Judgements: qrels/SPLIT.tsv")
      ->capture_default_str();
  command
      ->add_option("--mode", options->mode,
                   "Rank by vectors, by BM25, or by both fused")
      ->check(CLI::IsMember({"dense", "bm25", "fusion"}))
      ->capture_default_str();
  command->add_option("--adapter", options->queries.adapter,
                      "Folder of a LoRA adapter, in PEFT layout, for the "
                      "queries; documents go through the encoder alone");
  command->add_option("--cache", options->cache,
                      "Folder that keeps the documents' vectors for other "
                      "runs");
  command->add_option("--run", options->run,
                      "Write the rankings to this file, as TREC runs are");
  command->add_flag("--allow-missing", options->beir.allow_missing,
                    "Count judged documents that the corpus has not as never "
                    "found, instead of an error");
  AddQueryOptions(*command, options->queries);
  AddArithmeticOption(*command, options->product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
