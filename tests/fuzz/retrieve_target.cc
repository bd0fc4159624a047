// SPDX-License-Identifier: Apache-2.0

#include "compose/math/tensor.h"
#include "compose/retrieve/beir.h"
#include "compose/retrieve/bm25.h"
#include "compose/retrieve/index_files.h"
#include "compose/retrieve/text_store.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/targets.h"

namespace motet::fuzz {

bool BeirLine(const std::string& line) {
  bool taken = false;
  const auto document = retrieve::ParseDocument(line, "fuzz");
  if (document.ok()) {
    taken = true;
    MOTET_CHECK(!document->id.empty());
    const auto again =
        retrieve::ParseDocument(retrieve::DocumentJson(*document), "fuzz");
    MOTET_CHECK(again.ok() && again->text == document->text &&
                again->title == document->title && again->id == document->id &&
                again->metadata == document->metadata);
    for (const std::string& term :
         retrieve::TermsOf(retrieve::TextOf(*document))) {
      MOTET_CHECK(!term.empty());
    }
  }
  taken |= retrieve::ParseQuery(line, "fuzz").ok();
  const auto judgement = retrieve::ParseJudgement(line, "fuzz");
  if (judgement.ok()) {
    taken = true;
    MOTET_CHECK(!judgement->query.empty() && !judgement->document.empty());
  }
  return taken;
}

Corpus BeirLineCorpus() {
  Corpus corpus;
  corpus.seeds = {
      R"({"_id": "a", "title": "Sea", "text": "salt \u00e9 water"})",
      R"({"_id": "b", "text": "", "metadata": {"year": 1999, "x": true}})",
      R"({"_id": "q1", "text": "what?"})", "q1\td1\t1", "q1\td1\t-2\r"};
  corpus.words = {"_id", "title",   "text", "metadata", "null", "\t",
                  "1e9", "\\ud800", "{}",   "[",        "=",    "\\u0000"};
  return corpus;
}

bool IndexHeader(const std::string& json) {
  bool taken = false;
  const auto header = retrieve::ParseIndexHeader(json, "fuzz");
  if (header.ok()) {
    taken = true;
    MOTET_CHECK(header->width > 0);
    const auto again =
        retrieve::ParseIndexHeader(retrieve::WriteIndexHeader(*header), "fuzz");
    MOTET_CHECK(again.ok() && *again == *header);
  }
  const auto record = retrieve::ParseStructureRecord(json, "fuzz");
  if (record.ok()) {
    taken = true;
    MOTET_CHECK(record->rows >= 0 && record->bytes >= 0);
    MOTET_CHECK(record->file.find('/') == std::string::npos);
    MOTET_CHECK(retrieve::WriteStructureRecord(*retrieve::ParseStructureRecord(
                    retrieve::WriteStructureRecord(*record), "fuzz")) ==
                retrieve::WriteStructureRecord(*record));
  }
  return taken;
}

Corpus IndexHeaderCorpus() {
  Corpus corpus;
  corpus.seeds = {
      retrieve::WriteIndexHeader(
          {proto::Sha256("a"), "folder", 384, 256, retrieve::IndexKind::kAuto}),
      retrieve::WriteIndexHeader(
          {proto::Sha256("b"), "\xC3\xA9", 1, 2, retrieve::IndexKind::kIvfPq}),
      retrieve::WriteStructureRecord(
          {retrieve::IndexKind::kHnsw, "hnsw-9", 9, 1234, proto::Sha256("c")})};
  corpus.words = {"format", "width",  "-1",   "1e3",  "hnsw",
                  "ivf-pq", "sha256", "rows", "null", "18446744073709551615"};
  // The header's own digest would refuse nearly everything.
  corpus.repair = [](std::string& bytes) {
    const auto header = nlohmann::ordered_json::parse(bytes, nullptr, false);
    if (!header.is_object() || !header.contains("sha256")) return;
    auto rest = header;
    rest.erase("sha256");
    rest["sha256"] = proto::Hex(proto::Sha256(rest.dump(
        -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)));
    bytes = rest.dump(2, ' ', false,
                      nlohmann::ordered_json::error_handler_t::replace);
  };
  return corpus;
}

}  // namespace motet::fuzz
