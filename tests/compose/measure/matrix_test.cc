// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/matrix.h"

#include <cmath>
#include <stack>

#include "compose/assemble/tuning.h"
#include "compose/measure/perplexity.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/compose/assemble/tiny.h"

namespace motet::measure {
namespace {

using assemble::TinyFederation;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<Domain> Domains() {
  std::vector<Domain> domains;
  const auto texts = TinyFederation::Documents();
  const char* names[] = {"code", "legal", "manual", "public & <other>"};
  for (int d = 0; d < 4; ++d) {
    domains.push_back({names[d], std::vector<std::string>(4, texts[d])});
  }
  return domains;
}

// Every element closed in order, attributes quoted, no stray & or <: enough
// of XML for a file that we write ourselves.
bool WellFormed(const std::string& xml) {
  std::stack<std::string> open;
  for (size_t i = 0; i < xml.size(); ++i) {
    if (xml[i] == '&') {
      const size_t end = xml.find(';', i);
      if (end == std::string::npos || end - i > 6) return false;
    }
    if (xml[i] != '<') continue;
    const size_t end = xml.find('>', i);
    if (end == std::string::npos) return false;
    const std::string tag = xml.substr(i + 1, end - i - 1);
    if (tag.find('<') != std::string::npos) return false;
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return false;
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.top() != tag) return false;
      open.pop();
    } else if (tag.back() != '/') {
      open.push(name);
    }
    i = end;
  }
  return open.empty();
}

class MatrixTest : public testing::TestWithParam<std::string> {};

TEST_P(MatrixTest, RowsAreWhatTheySay) {
  const TinyFederation federation;
  const v1::CompositionLock lock = federation.Lock(GetParam());
  const auto composition = federation.Load(lock);
  MatrixOptions options;
  options.window = 20;
  double last = 0;
  options.progress = [&](double fraction, const std::string&) {
    EXPECT_GE(fraction, last);
    last = fraction;
  };
  const auto domains = Domains();
  const auto matrix = MeasureMatrix(*composition, domains, options);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_DOUBLE_EQ(last, 1.0);
  EXPECT_THAT(matrix->models,
              ElementsAre("base", "base + code", "base + legal",
                          "base + manual", "base + health", "composition",
                          "without code", "without legal", "without manual",
                          "without health"));
  EXPECT_THAT(matrix->is_owners, ElementsAre(true, true, true, false));
  ASSERT_EQ(matrix->values.size(), 10u);

  // Each row again, from a composition that was built for it.
  const auto perplexity = [&](const assemble::Composition& c, size_t d) {
    const learn::TokenWindows windows(
        c.tokenizer(), domains[d].documents,
        c.tokenizer().IdOf("<|endoftext|>"), 20);
    return ScoreWindows(*c.decoder, windows)->Perplexity();
  };
  const auto built = [&](std::vector<int> only, const std::string& router) {
    assemble::LoadOptions load;
    load.all = false;
    load.only = std::move(only);
    load.router = router;
    return federation.Load(lock, load);
  };
  for (size_t d = 0; d < domains.size(); ++d) {
    EXPECT_EQ(matrix->values[0][d], perplexity(*built({}, ""), d));
    EXPECT_EQ(matrix->values[2][d], perplexity(*built({2}, "topk"), d));
    EXPECT_EQ(matrix->values[5][d], perplexity(*composition, d));
    EXPECT_EQ(matrix->values[8][d], perplexity(*built({1, 2, 4}, ""), d));
  }
  const auto& row = matrix->values[5];
  EXPECT_NEAR(matrix->all[5],
              std::pow(row[0] * row[1] * row[2] * row[3], 0.25), 1e-6);
  EXPECT_NEAR(matrix->owners[5], std::cbrt(row[0] * row[1] * row[2]), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Routers, MatrixTest,
                         testing::Values("anchored", "topk", "pooled"),
                         [](const auto& info) { return info.param; });

TEST(MatrixErrorsTest, SayWhatIsWrong) {
  const TinyFederation federation;
  const auto composition = federation.Load(federation.Lock());
  MatrixOptions options;
  options.window = 20;
  EXPECT_FALSE(MeasureMatrix(*composition, {}, options).ok());
  auto domains = Domains();
  domains[1].name = "code";
  EXPECT_THAT(std::string(MeasureMatrix(*composition, domains, options)
                              .status()
                              .message()),
              HasSubstr("code twice"));
  domains = Domains();
  domains[2].documents = {"short"};
  EXPECT_THAT(std::string(MeasureMatrix(*composition, domains, options)
                              .status()
                              .message()),
              HasSubstr("domain manual"));
}

// Tables that need some kinds of rows do not pay for the others.
TEST(MatrixRowsTest, KindsThatAreAskedFor) {
  const TinyFederation federation;
  const std::vector<MatrixRow> all =
      *CompositionRows(federation.Load(federation.Lock("topk")), false);
  std::vector<MatrixRow> rows = all;
  ASSERT_TRUE(KeepKinds({"without", "base"}, rows).ok());
  std::vector<std::string> names;
  for (const MatrixRow& row : rows) names.push_back(row.name);
  EXPECT_THAT(names, ElementsAre("base", "without code", "without legal",
                                 "without manual", "without health"));
  rows = all;
  EXPECT_THAT(std::string(KeepKinds({"only"}, rows).message()),
              HasSubstr("one of base, composition, pair, without"));
}

// Two compositions over one base and its experts, and a third model: what is
// the same is measured once, what is not has its name.
TEST(MatrixRowsTest, SeveralCompositionsShareWhatTheyShare) {
  const TinyFederation federation;
  const std::shared_ptr<const assemble::Composition> anchored =
      federation.Load(federation.Lock("anchored"));
  v1::CompositionLock lock = federation.Lock("topk");
  lock.set_name("other");
  const std::shared_ptr<const assemble::Composition> topk =
      federation.Load(lock);
  std::vector<MatrixRow> rows = *CompositionRows(anchored, true);
  const std::vector<MatrixRow> more = *CompositionRows(topk, true);
  rows.insert(rows.end(), more.begin(), more.end());
  for (MatrixRow& row : DirectoryRows(topk, "directory", "its own")) {
    rows.push_back(row);
  }
  MatrixOptions options;
  options.window = 20;
  int64_t steps = 0;
  double last = 0;
  options.progress = [&](double fraction, const std::string&) {
    ++steps;
    last = fraction;
  };
  const auto matrix = MeasureRows(rows, {"code"}, Domains(), options);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_DOUBLE_EQ(last, 1.0);
  EXPECT_EQ(steps, (5 + 5 + 5 + 1) * 4);  // a batch each, shared rows once
  EXPECT_THAT(matrix->models,
              ElementsAre("base", "base + code", "base + legal",
                          "base + manual", "base + health", "demo",
                          "demo without code", "demo without legal",
                          "demo without manual", "demo without health",
                          "other", "other without code",
                          "other without legal", "other without manual",
                          "other without health", "other (2)"));
  EXPECT_FALSE(matrix->one_tokenizer);
  EXPECT_EQ(matrix->kinds[15], "model");
  // The directory's row is the top-k composition, under another name.
  EXPECT_EQ(matrix->values[15], matrix->values[10]);
  EXPECT_NE(matrix->values[5], matrix->values[10]);

  // Bits per byte by hand: the same loss over the scored tokens' bytes.
  const auto& tokenizer = topk->tokenizer();
  for (size_t d = 0; d < 4; ++d) {
    const learn::TokenWindows windows(tokenizer, Domains()[d].documents,
                                      tokenizer.IdOf("<|endoftext|>"), 20);
    int64_t bytes = 0;
    for (int64_t i = 0; i < windows.count(); ++i) {
      const auto ids = windows.at(i).subspan(1);
      bytes += static_cast<int64_t>(
          tokenizer.Decode({ids.begin(), ids.end()}).size());
    }
    EXPECT_EQ(matrix->scored_bytes[0][d], bytes);
    EXPECT_NEAR(matrix->bits_per_byte[0][d],
                std::log2(matrix->values[0][d]) *
                    static_cast<double>(matrix->scored_tokens[d]) / bytes,
                1e-9);
  }
}

// As their owners trained them: tuning does not show, whatever the narrower
// sets are answered by.
TEST(MatrixRowsTest, PairsAreThoseBeforeTuning) {
  const TinyFederation federation;
  const auto parts = federation.Experts({0, 1});
  assemble::Recipe recipe = TinyFederation::RecipeFor(parts, "topk");
  assemble::Recipe::Tuning& tuning = recipe.tuning.emplace();
  tuning.data = {"text.jsonl"};
  tuning.data_sha256 = assemble::DocumentsSha256(TinyFederation::Documents());
  tuning.documents = TinyFederation::Documents().size();
  tuning.steps = 6;
  tuning.learning_rate = 0.05;
  tuning.batch_sequences = 2;
  tuning.sequence_tokens = 16;
  tuning.narrowed = "tuned";
  assemble::LoadOptions load;
  load.folder = federation.Path("tuned");
  ASSERT_TRUE(proto::MakeDirectories(load.folder).ok());
  const auto lock = assemble::TuneComposition(
      assemble::MakePlan(recipe, federation.base(), parts).lock,
      federation.FolderOf(), TinyFederation::Documents(), load.folder, {});
  ASSERT_TRUE(lock.ok()) << lock.status();
  const std::shared_ptr<const assemble::Composition> tuned =
      federation.Load(*lock, load);
  MatrixOptions options;
  options.window = 20;
  const auto matrix = MeasureMatrix(*tuned, Domains(), options);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  const auto before = MeasureMatrix(
      *federation.Load(assemble::BeforeTuning(*lock)), Domains(), options);
  ASSERT_TRUE(before.ok()) << before.status();
  ASSERT_THAT(matrix->models,
              ElementsAre("base", "base + code", "base + legal", "composition",
                          "without code", "without legal"));
  EXPECT_EQ(matrix->values[1], before->values[1]);
  EXPECT_EQ(matrix->values[2], before->values[2]);
  EXPECT_NE(matrix->values[3], before->values[3]);
  // The same set under tuned rows: another arithmetic, with a key of its own.
  EXPECT_NE(matrix->values[5], matrix->values[1]);
  const auto rows = CompositionRows(tuned, false);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ((*rows)[5].allowed & 0b111, (*rows)[1].allowed);
  EXPECT_NE((*rows)[5].arithmetic, (*rows)[1].arithmetic);
}

// Rows are run once where they are the same arithmetic, and only there: a
// shared base is seen where some expert is left out, and two mixtures of whole
// models differ by more than their routers.
TEST(MatrixRowsTest, ArithmeticOfASharedBaseAndOfMixtures) {
  const TinyFederation federation;
  const auto rows = [](const TinyFederation& f, const assemble::Recipe& recipe,
                       const std::vector<assemble::Part>& parts) {
    auto made = CompositionRows(
        f.Load(assemble::MakePlan(recipe, f.base(), parts).lock), false);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  };
  const auto parts = federation.Experts({0, 1});
  const auto plain =
      rows(federation, TinyFederation::RecipeFor(parts, "topk"), parts);
  const auto shared =
      rows(federation, TinyFederation::RecipeFor(parts, "shared"), parts);
  EXPECT_EQ(shared[1].arithmetic, plain[1].arithmetic);  // pair
  EXPECT_NE(shared[3].arithmetic, plain[3].arithmetic);  // 1 + 1 of 3, 2 of 3
  EXPECT_EQ(shared[4].arithmetic, plain[4].arithmetic);  // without one: both
  EXPECT_EQ(shared[4].arithmetic, shared[2].arithmetic);

  assemble::TinyOptions options;
  options.dense = true;
  options.block = model::Block::kPreNorm;
  const TinyFederation dense(options);
  assemble::Recipe btx = TinyFederation::RecipeFor(dense.experts(), "topk");
  btx.method = "btx";
  btx.btx.rows = "random";
  btx.btx.seed = 1;
  const auto one = rows(dense, btx, dense.experts());
  btx.btx.seed = 2;
  const auto two = rows(dense, btx, dense.experts());
  EXPECT_EQ(one[0].arithmetic, two[0].arithmetic);  // the base
  EXPECT_NE(one[5].arithmetic, two[5].arithmetic);
}

TEST(MatrixRowsTest, ExpertsAloneHaveNoComposition) {
  const TinyFederation federation;
  const auto rows = PairRows(federation.Load(federation.Lock("topk")));
  ASSERT_TRUE(rows.ok()) << rows.status();
  std::vector<std::string> kinds;
  for (const MatrixRow& row : *rows) kinds.push_back(row.kind);
  EXPECT_THAT(kinds, ElementsAre("base", "pair", "pair", "pair", "pair"));
}

// Without a router a set is weights of its own, each as composed alone.
TEST(MatrixRowsTest, AMergesRowsAreTheMergesOfTheirSets) {
  assemble::TinyOptions dense;
  dense.dense = true;
  const TinyFederation federation(dense);
  const auto lock_of = [&](const std::vector<int>& which) {
    const auto parts = federation.Experts(which);
    assemble::Recipe recipe = TinyFederation::RecipeFor(parts);
    recipe.method = "merge";
    return assemble::MakePlan(recipe, federation.base(), parts).lock;
  };
  MatrixOptions options;
  options.window = 20;
  const auto matrix = MeasureMatrix(*federation.Load(lock_of({0, 1, 2})),
                                    Domains(), options);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_THAT(matrix->models,
              ElementsAre("base", "only code", "only legal", "only manual",
                          "composition", "without code", "without legal",
                          "without manual"));
  EXPECT_THAT(matrix->kinds,
              ElementsAre("base", "only", "only", "only", "composition",
                          "without", "without", "without"));
  const auto whole = [&](const std::vector<int>& which) {
    const auto alone = MeasureMatrix(*federation.Load(lock_of(which)),
                                     Domains(), options);
    EXPECT_TRUE(alone.ok()) << alone.status();
    return alone->values[which.size() + 1];
  };
  EXPECT_EQ(matrix->values[2], whole({1}));
  EXPECT_EQ(matrix->values[5], whole({1, 2}));
  EXPECT_NE(matrix->values[5], matrix->values[4]);
  EXPECT_NE(matrix->values[2], matrix->values[0]);
}

TEST(MatrixViewTest, RelativeAndBitsPerByte) {
  Matrix m;
  m.models = {"base", "a, \"b\""};
  m.kinds = {"base", "model"};
  m.domains = {"code", "law"};
  m.is_owners = {true, false};
  m.values = {{16, 4}, {8, 6}};
  m.owners = {16, 8};
  m.all = {8, std::sqrt(48.0)};
  m.bits_per_byte = {{4, 1}, {3, 1.5}};
  m.scored_bytes = {{10, 20}, {10, 20}};
  const Matrix relative = Viewed(m, {.relative = true});
  EXPECT_EQ(relative.measure, "perplexity, relative");
  EXPECT_THAT(relative.values[1], ElementsAre(0.5, 1.5));
  EXPECT_THAT(relative.owners, ElementsAre(1, 0.5));
  EXPECT_DOUBLE_EQ(relative.all[1], std::sqrt(48.0) / 8);
  const Matrix bits = Viewed(m, {.bits_per_byte = true, .relative = true});
  EXPECT_THAT(bits.values[1], ElementsAre(0.75, 1.5));
  EXPECT_DOUBLE_EQ(bits.all[1], std::sqrt(4.5) / 2);
  EXPECT_EQ(MatrixCsv(m),
            "model,kind,domain,perplexity,bits_per_byte,relative,bytes\n"
            "base,base,code,16,4,1,10\n"
            "base,base,law,4,1,1,20\n"
            "base,base,(owners),16,4,1,\n"
            "base,base,(all),8,2,1,\n"
            "\"a, \"\"b\"\"\",model,code,8,3,0.5,10\n"
            "\"a, \"\"b\"\"\",model,law,6,1.5,1.5,20\n"
            "\"a, \"\"b\"\"\",model,(owners),8,3,0.5,\n"
            "\"a, \"\"b\"\"\",model,(all),6.92820323,2.12132034,"
            "0.866025404,\n");
}

TEST(MatrixOutputTest, JsonAndSvg) {
  Matrix m;
  m.composition = "demo";
  m.router = "anchored";
  m.window = 128;
  m.models = {"base", "base + code", "composition", "without code"};
  m.kinds = {"base", "pair", "composition", "without"};
  m.domains = {"code", "other & <b>"};
  m.is_owners = {true, false};
  m.scored_tokens = {127, 254};
  m.values = {{40, 50}, {22, 60}, {21.5, 50.5}, {41, 50}};
  m.owners = {40, 22, 21.5, 41};
  m.all = {44.7, 36.3, 32.9, 45.3};
  const auto json = nlohmann::json::parse(MatrixJson(m));
  EXPECT_EQ(json["models"].size(), 4u);
  EXPECT_EQ(json["domains"].size(), 2u);
  EXPECT_EQ(json["values"][2][1], 50.5);
  EXPECT_EQ(json["means"]["all"][2], 32.9);
  const std::string svg = MatrixSvg(m);
  EXPECT_TRUE(WellFormed(svg)) << svg;
  for (const char* part : {"without code", "other &amp;", "21.5", "50.5",
                           "anchored", "windows of 128"}) {
    EXPECT_THAT(svg, HasSubstr(part));
  }
  // Nothing is fetched from outside.
  EXPECT_EQ(svg.find("href"), std::string::npos);
  EXPECT_FALSE(WellFormed(svg.substr(0, svg.size() / 2)));
}

}  // namespace
}  // namespace motet::measure
