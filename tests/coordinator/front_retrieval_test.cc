// SPDX-License-Identifier: Apache-2.0
// The routes of a served retrieval composition, without sockets: every field,
// every error, who answered, and that the bits are those of direct calls.
#include "coordinator/http/front_retrieval.h"

#include <bit>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/tiny_retrieval.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Recorder final : HttpReply {
  void Reply(int s, const std::string&, const std::string& b) override {
    EXPECT_EQ(status, 0) << "two answers";
    status = s;
    body = b;
  }
  void StartStream() override { ADD_FAILURE(); }
  bool Send(const std::string&) override { return false; }
  bool Connected() override { return true; }
  int status = 0;
  std::string body;
};

class RetrievalFrontTest : public ::testing::Test {
 protected:
  RetrievalFrontTest() {
    tiny_.StartEngine();
    retrieval_ = tiny_.Open({"notes"});
    front_ = std::make_unique<RetrievalFront>(*retrieval_);
  }
  Recorder Ask(const std::string& method, const std::string& path,
               const std::string& body = "") const {
    Recorder reply;
    front_->Handle({method, path, body}, reply);
    return reply;
  }
  Recorder Post(const char* path, json fields) const {
    if (!fields.contains("model")) fields["model"] = "finder";
    return Ask("POST", path, fields.dump());
  }
  static json Parsed(const Recorder& reply) {
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body, nullptr, false);
  }
  json Embed(const json& fields) const {
    return Parsed(Post("/v1/embeddings", fields));
  }
  json Search(const json& fields) const {
    return Parsed(Post("/v1/search", fields));
  }
  // Status and message of a request that is refused.
  std::string Refused(int status, const char* path, const json& fields) const {
    const Recorder reply = Post(path, fields);
    EXPECT_EQ(reply.status, status) << fields << reply.body;
    const json body = json::parse(reply.body, nullptr, false);
    return body["error"]["message"].get<std::string>();
  }
  static std::vector<float> Floats(const json& embedding) {
    std::vector<float> values;
    for (const json& value : embedding) values.push_back(value.get<float>());
    return values;
  }
  static std::vector<float> FromBase64(const std::string& text) {
    std::string bytes;
    EXPECT_TRUE(absl::Base64Unescape(text, &bytes));
    std::vector<float> values;
    for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
      uint32_t bits = 0;
      for (int b = 3; b >= 0; --b) {
        bits = bits << 8 | static_cast<unsigned char>(bytes[i + b]);
      }
      values.push_back(std::bit_cast<float>(bits));
    }
    return values;
  }

  TinyRetrieval tiny_;
  std::unique_ptr<Retrieval> retrieval_;
  std::unique_ptr<RetrievalFront> front_;
};

// Bit i: expert i; bit 0 is the base.
TEST_F(RetrievalFrontTest, EmbeddingsAreThoseOfDirectCalls) {
  const std::vector<std::string> texts = {"salt water", "sorting numbers",
                                          "law of the land"};
  const struct {
    json fields;
    math::ExpertMask set;
  } cases[] = {
      {json::object(), 0b111},
      {{{"experts", {{"exclude", {"legal"}}}}}, 0b011},
      {{{"experts", {{"include", {"legal.example"}}}}}, 0b101},
      {{{"model", "finder@no-legal@no-code"}}, 0b001},
      {{{"purpose", "advertising"}}, 0b011},
      {{{"input_type", "query"}, {"user", "x"}}, 0b111},
  };
  for (const auto& c : cases) {
    json fields = c.fields;
    fields["input"] = texts;
    const json all = Embed(fields);
    fields["encoding_format"] = "base64";
    const json base64 = Embed(fields);
    EXPECT_EQ(all["object"], "list");
    ASSERT_EQ(all["data"].size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto direct = tiny_.Direct(texts[i], c.set);
      const json& entry = all["data"][i];
      EXPECT_EQ(entry["object"], "embedding");
      EXPECT_EQ(entry["index"], i);
      EXPECT_EQ(Floats(entry["embedding"]), direct.vectors.values)
          << c.fields << i;
      EXPECT_EQ(FromBase64(base64["data"][i]["embedding"]),
                direct.vectors.values);
      EXPECT_EQ(entry["expert"],
                direct.experts[0].empty() ? "base" : direct.experts[0]);
      fields["input"] = texts[i];
      EXPECT_EQ(Embed(fields)["data"][0]["embedding"],
                base64["data"][i]["embedding"]);
    }
  }
}

TEST_F(RetrievalFrontTest, AnswersSayWhoCouldAnswer) {
  const json all = Embed({{"input", "ab"}, {"purpose", "advertising"}});
  EXPECT_EQ(all["model"], "finder");
  EXPECT_EQ(all["usage"]["prompt_tokens"], 4);  // [CLS] a ##b [SEP]
  EXPECT_EQ(all["usage"]["total_tokens"], 4);
  EXPECT_EQ(all["motet"]["experts"].size(), 2u);
  EXPECT_EQ(all["motet"]["withheld"][0]["expert"], "legal.example/legal@1.0.0");
  EXPECT_EQ(all["motet"]["lock_sha256"], std::string(64, 'a'));
  EXPECT_TRUE(all["motet"].contains("expert_set_sha256"));
  EXPECT_FALSE(all["motet"].contains("cut"));
  EXPECT_EQ(Embed({{"input", std::string(100, 'z')}})["motet"]["cut"], 1);
  // A megabyte is cut, too.
  std::string megabyte;
  while (megabyte.size() < 1 << 20) megabyte += "q ";
  EXPECT_EQ(Embed({{"input", megabyte}})["motet"]["cut"], 1);
  EXPECT_THAT(Refused(400, "/v1/embeddings", {{"input", megabyte + "q"}}),
              StartsWith("[input]"));
}

TEST_F(RetrievalFrontTest, DocumentsGoThroughTheBase) {
  const json document =
      Embed({{"input", "salt water"}, {"input_type", "document"}});
  const std::vector<std::string> text = {"salt water"};
  EXPECT_EQ(Floats(document["data"][0]["embedding"]),
            tiny_.base().Encode(text)->values);
  EXPECT_EQ(document["data"][0]["expert"], "base");
}

TEST_F(RetrievalFrontTest, WrongEmbeddingsNameTheField) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"input",
       {"3", "{}", "[]", "[1, 2]", "[[1], [2]]", "[\"a\", 3]", "\" \"",
        "[\"a\", \"\"]", "null", "true"}},
      {"input_type", {"\"queries\"", "3"}},
      {"encoding_format", {"\"int8\"", "true"}},
      {"dimensions", {"16", "\"16\""}},
      {"experts", {"[]", "{\"only\": []}"}},
      {"purpose", {"3"}},
      {"model", {"3", "null"}},
  };
  for (const auto& [field, values] : cases) {
    for (const char* value : values) {
      json fields = {{"input", "a"}};
      fields[field] = json::parse(value);
      EXPECT_THAT(Refused(400, "/v1/embeddings", fields),
                  StartsWith(absl::StrCat("[", field)))
          << value;
    }
  }
  EXPECT_THAT(Refused(400, "/v1/embeddings",
                      {{"input", std::vector<std::string>(2049, "a")}}),
              HasSubstr("at most 2048"));
  EXPECT_THAT(Refused(400, "/v1/embeddings", {{"input", {1, 2}}}),
              HasSubstr("token ids"));
  EXPECT_THAT(Refused(400, "/v1/embeddings", {{"input", "a"}, {"inputs", "a"}}),
              HasSubstr("one of dimensions, encoding_format, experts, input, "
                        "input_type, model, purpose, user"));
  // A client cannot say who it is, nor how many experts work on a token.
  Refused(400, "/v1/embeddings", {{"input", "a"}, {"tenant", "x"}});
  EXPECT_THAT(Refused(400, "/v1/embeddings",
                      {{"input", "a"}, {"experts", {{"active", 2}}}}),
              StartsWith("[experts.active]"));
  EXPECT_EQ(Ask("POST", "/v1/embeddings", "{").status, 400);
  Refused(404, "/v1/embeddings", {{"input", "a"}, {"model", "gpt"}});
  Refused(404, "/v1/embeddings", {{"input", "a"}, {"model", ""}});
  Refused(404, "/v1/embeddings",
          {{"input", "a"}, {"experts", {{"exclude", {"nobody"}}}}});
  Refused(404, "/v1/embeddings", {{"input", "a"}, {"model", "finder@no-x"}});
  Refused(403, "/v1/embeddings",
          {{"input", "a"},
           {"experts", {{"include", {"legal"}}}},
           {"purpose", "advertising"}});
}

TEST_F(RetrievalFrontTest, SearchesFindAndSayWhoAnswered) {
  for (const char* mode : {"dense", "bm25", "fusion"}) {
    const json found = Search({{"index", "notes"},
                               {"query", "salt water of the sea"},
                               {"mode", mode},
                               {"k", 2},
                               {"text", true},
                               {"model", "finder@no-code@no-legal"}});
    ASSERT_EQ(found["results"].size(), 1u) << mode;
    const json& result = found["results"][0];
    const json& best = result["documents"][0];
    EXPECT_EQ(best["id"], "sea");
    EXPECT_EQ(best["text"], "salt water of the sea");
    EXPECT_EQ(best["title"], "");
    EXPECT_EQ(best["metadata"], json({{"wet", "true"}, {"year", "1999"}}));
    if (std::string(mode) == "dense") {
      EXPECT_NEAR(best["score"].get<double>(), 1, 1e-5);
    }
    // BM25 asks no expert.
    EXPECT_EQ(result.contains("expert"), std::string(mode) != "bm25");
    EXPECT_EQ(found["usage"]["total_tokens"].get<int>() > 0,
              std::string(mode) != "bm25");
    EXPECT_EQ(found["motet"]["experts"].size(), 1u);
  }
}

// Whatever is asked together: each its own, with the direct call's scores.
TEST_F(RetrievalFrontTest, ManySearchesAreAsEachAlone) {
  const std::vector<std::string> queries = {"salt", "law of the", "numbers"};
  const json together = Search({{"queries", queries}});
  ASSERT_EQ(together["results"].size(), 3u);
  const auto index = *retrieve::Index::Open(tiny_.folder() + "/notes");
  for (size_t q = 0; q < queries.size(); ++q) {
    const json alone = Search({{"query", queries[q]}});
    EXPECT_EQ(alone["results"][0], together["results"][q]);
    const auto direct = tiny_.Direct(queries[q], 0b111);
    EXPECT_EQ(alone["results"][0]["expert"], direct.experts[0]);
    const auto ranking = (*index->SearchVectors(direct.vectors.values, 10))[0];
    const json& documents = alone["results"][0]["documents"];
    ASSERT_EQ(documents.size(), 3u);  // k beyond the documents: all
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(documents[i]["score"], ranking[i].score);
      EXPECT_FALSE(documents[i].contains("text"));
    }
  }
}

TEST_F(RetrievalFrontTest, FiltersNarrow) {
  const auto ids = [&](const json& filters) {
    std::vector<std::string> found;
    const json answer = Search({{"query", "of"}, {"filters", filters}});
    for (const json& document : answer["results"][0]["documents"]) {
      found.push_back(document["id"]);
    }
    return found;
  };
  EXPECT_THAT(ids({{"year", 1999}}), ::testing::ElementsAre("sea"));
  EXPECT_THAT(ids({{"year", "2001"}}), ::testing::ElementsAre("law"));
  EXPECT_THAT(ids({{"wet", true}, {"year", 1999}}),
              ::testing::ElementsAre("sea"));
  EXPECT_THAT(ids({{"wet", true}, {"year", 2001}}), ::testing::IsEmpty());
  EXPECT_EQ(ids(json::object()).size(), 3u);
}

TEST_F(RetrievalFrontTest, WrongSearchesNameTheField) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"query", {"3", "[\"a\"]", "null"}},
      {"queries", {"\"a\"", "[]", "[1]"}},
      {"k", {"0", "1001", "1.5", "\"3\"", "-1"}},
      {"mode", {"3"}},
      {"search mode", {}},
      {"filters", {"[]", "{\"year\": [1]}", "{\"year\": null}"}},
      {"text", {"1"}},
      {"index", {"3"}},
  };
  for (const auto& [field, values] : cases) {
    for (const char* value : values) {
      json fields = {{"query", "a"}};
      fields[field] = json::parse(value);
      const std::string message = Refused(400, "/v1/search", fields);
      // Both query and queries: that is said of query.
      const bool both =
          std::string(field) == "queries" && message.starts_with("[query]");
      EXPECT_TRUE(both || message.starts_with(absl::StrCat("[", field)))
          << field << value << message;
    }
  }
  EXPECT_THAT(Refused(400, "/v1/search", {{"queries", json::array()}}),
              StartsWith("[queries]"));
  EXPECT_THAT(Refused(400, "/v1/search", {{"query", " "}}), HasSubstr("blank"));
  EXPECT_THAT(Refused(400, "/v1/search", {{"query", "a"}, {"mode", "best"}}),
              HasSubstr("dense, bm25, fusion"));
  EXPECT_THAT(Refused(400, "/v1/search",
                      {{"query", "a"}, {"filters", {{"colour", "red"}}}}),
              ::testing::AllOf(HasSubstr("colour"), HasSubstr("wet, year")));
  EXPECT_THAT(Refused(404, "/v1/search", {{"query", "a"}, {"index", "x"}}),
              HasSubstr("one of notes"));
  EXPECT_THAT(
      Refused(400, "/v1/search",
              {{"queries", std::vector<std::string>(11, "a")}, {"k", 1000}}),
      HasSubstr("10000 in all"));
  EXPECT_THAT(Refused(400, "/v1/search", {{"query", "a"}, {"top", 3}}),
              HasSubstr("filters, index, k, mode"));
  Refused(403, "/v1/search",
          {{"query", "a"},
           {"experts", {{"include", {"legal"}}}},
           {"purpose", "advertising"}});
}

TEST_F(RetrievalFrontTest, IndexesHaveNames) {
  tiny_.MakeIndex("more", tiny_.base());
  const auto two = tiny_.Open({"notes", "more"});
  const RetrievalFront front(*two);
  Recorder reply;
  front.Handle({"POST", "/v1/search", R"({"model": "finder", "query": "a"})"},
               reply);
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.body, HasSubstr("one of notes, more"));
  const auto none = tiny_.Open({});
  const RetrievalFront bare(*none);
  Recorder refused;
  bare.Handle({"POST", "/v1/search", R"({"model": "finder", "query": "a"})"},
              refused);
  EXPECT_EQ(refused.status, 404);
  EXPECT_THAT(refused.body, HasSubstr("--index"));

  ::motet::testing::WriteEncoderDirectory(tiny_.folder() + "/other",
                                          {.seed = 2});
  const auto other = *retrieve::TextEncoder::Load(tiny_.folder() + "/other",
                                                  math::Product::kExact);
  tiny_.MakeIndex("foreign", *other);
  const auto foreign =
      OpenServedIndex(tiny_.folder() + "/foreign", tiny_.base());
  EXPECT_EQ(foreign.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(OpenServedIndex(tiny_.folder() + "/notes/", tiny_.base())->name,
            "notes");
  EXPECT_FALSE(OpenServedIndex("=", tiny_.base()).ok());
  EXPECT_FALSE(OpenServedIndex("x=/nowhere", tiny_.base()).ok());
}

TEST_F(RetrievalFrontTest, WhoAnsweredNeedNotBeTold) {
  const auto silent = tiny_.Open({"notes"}, {.tell_experts = false});
  const RetrievalFront front(*silent);
  for (const char* path : {"/v1/embeddings", "/v1/search"}) {
    Recorder reply;
    front.Handle(
        {"POST", path,
         absl::StrCat(R"({"model": "finder", ")",
                      path[4] == 'e' ? "input" : "query", R"(": "a"})")},
        reply);
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_THAT(reply.body, ::testing::Not(HasSubstr("\"expert\"")));
    EXPECT_THAT(reply.body, HasSubstr("\"experts\""));
  }
}

TEST_F(RetrievalFrontTest, SixteenClientsGetTheirOwn) {
  std::vector<std::thread> clients;
  std::vector<std::string> bodies(16);
  for (int c = 0; c < 16; ++c) {
    clients.emplace_back([&, c] {
      bodies[static_cast<size_t>(c)] =
          Post("/v1/search", {{"query", absl::StrCat("query ", c)}}).body;
    });
  }
  for (auto& client : clients) client.join();
  for (int c = 0; c < 16; ++c) {
    EXPECT_EQ(bodies[static_cast<size_t>(c)],
              Post("/v1/search", {{"query", absl::StrCat("query ", c)}}).body);
  }
}

TEST_F(RetrievalFrontTest, OtherRoutes) {
  const json models = Parsed(Ask("GET", "/v1/models"));
  ASSERT_EQ(models["data"].size(), 1u);
  const json& model = models["data"][0];
  EXPECT_EQ(model["id"], "finder");
  EXPECT_EQ(model["dimensions"], tiny_.base().width());
  EXPECT_EQ(model["context_length"], tiny_.base().max_tokens());
  EXPECT_EQ(model["experts"].size(), 2u);
  EXPECT_EQ(model["indexes"], json({{{"name", "notes"}, {"documents", 3}}}));
  EXPECT_EQ(Parsed(Ask("GET", "/v1/models/finder")), model);
  EXPECT_EQ(Ask("GET", "/v1/models/other").status, 404);
  EXPECT_EQ(Ask("GET", "/livez").status, 200);
  EXPECT_EQ(Ask("GET", "/readyz").status, 200);
  EXPECT_EQ(Ask("GET", "/v1/search").status, 404);
  EXPECT_THAT(Ask("POST", "/v1/completions", "{}").body,
              HasSubstr("/v1/embeddings"));
}

}  // namespace
}  // namespace motet::coordinator
