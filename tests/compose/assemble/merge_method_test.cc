// SPDX-License-Identifier: Apache-2.0
// Method merge over real packages: plan, written weights, and the guarantee
// that a set's answer is that of the set composed alone.
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/export.h"
#include "compose/assemble/merge_kinds.h"
#include "compose/measure/exclusion.h"
#include "gmock/gmock.h"
#include "proto/files.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

TinyOptions DenseOptions() {
  TinyOptions options;
  options.dense = true;
  options.block = model::Block::kPreNorm;
  return options;
}

class MergeMethodTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    federation_ = new TinyFederation(DenseOptions());
  }
  static void TearDownTestSuite() { delete federation_; }
  static const TinyFederation& f() { return *federation_; }

  static Recipe RecipeFor(const std::vector<Part>& parts,
                          const std::string& kind) {
    Recipe recipe = TinyFederation::RecipeFor(parts);
    recipe.method = "merge";
    recipe.merge.kind = kind;
    if (kind == "weighted") {
      for (size_t i = 0; i < parts.size(); ++i) {
        recipe.merge.weights.push_back(1.0 / parts.size());
      }
    }
    return recipe;
  }
  static v1::CompositionLock LockFor(const Recipe& recipe,
                                     const std::vector<Part>& parts) {
    const Plan plan = MakePlan(recipe, f().base(), parts);
    EXPECT_THAT(plan.problems, IsEmpty());
    return plan.lock;
  }
  static v1::CompositionLock LockOfKind(const std::string& kind) {
    const auto parts =
        kind == "slerp" ? f().Experts({0, 1}) : f().experts();
    Recipe recipe = RecipeFor(parts, kind);
    if (kind == "weighted") recipe.merge.weights = {0.4, 0.3, 0.2, 0.1};
    if (kind == "ties") recipe.merge.weights = {4, 3, 2, 1};
    return LockFor(recipe, parts);
  }
  static std::string Problems(const Recipe& recipe,
                              const std::vector<Part>& parts) {
    return absl::StrJoin(MakePlan(recipe, f().base(), parts).problems, "\n");
  }
  static std::string Logits(const model::Decoder& decoder,
                            math::ExpertMask set) {
    return measure::LogitsSha256(decoder, f().Ids(40), set, 0);
  }
  static TinyFederation* federation_;
};
TinyFederation* MergeMethodTest::federation_ = nullptr;

// Every kind, every subset.
TEST_F(MergeMethodTest, EverySubsetEqualsItsOwnComposition) {
  for (const MergeKindRow& row : MergeKinds()) {
    const v1::CompositionLock lock = LockOfKind(row.name);
    EXPECT_EQ(lock.exclusion(), "exact");
    const auto whole = f().Load(lock);
    ASSERT_NE(whole, nullptr) << row.name;
    std::set<std::string> different;
    const math::ExpertMask sets = math::ExpertMask{2} << lock.experts_size();
    for (math::ExpertMask set = 1; set < sets; set += 2) {
      SCOPED_TRACE(absl::StrCat(row.name, " ", static_cast<int>(set)));
      LoadOptions only;
      only.all = false;
      for (int e = 1; e <= lock.experts_size(); ++e) {
        if ((set >> e & 1) != 0) only.only.push_back(e);
      }
      const auto alone = f().Load(lock, only);
      ASSERT_NE(alone, nullptr);
      const auto decoder = whole->DecoderFor(set);
      ASSERT_TRUE(decoder.ok()) << decoder.status();
      const std::string got = Logits(**decoder, set);
      EXPECT_EQ(got, Logits(*alone->decoder, alone->All()));
      different.insert(got);
    }
    // Every set has weights of its own.
    EXPECT_EQ(different.size(), static_cast<size_t>(sets / 2)) << row.name;
  }
}

// The set's composition is also the one that a recipe without the expert
// makes, where the recipe leaves weights to be equal.
TEST_F(MergeMethodTest, ASetIsTheRecipeOfTheSet) {
  for (const char* kind : {"linear", "task_arithmetic", "ties", "dare", "pcb",
                           "fisher"}) {
    const auto whole = f().Load(LockOfKind(kind));
    const auto parts = f().Experts({0, 2});
    Recipe recipe = RecipeFor(parts, kind);
    v1::CompositionLock lock = LockFor(recipe, parts);
    if (std::string(kind) == "ties") {
      lock.mutable_merge()->add_weights(4);
      lock.mutable_merge()->add_weights(2);
    }
    const auto set = whole->DecoderFor(1 | 2 | 8);
    ASSERT_TRUE(set.ok()) << set.status();
    EXPECT_EQ(Logits(**set, 11), Logits(*f().Load(lock)->decoder, 7)) << kind;
  }
}

TEST_F(MergeMethodTest, OneModelIsThatModel) {
  const auto parts = f().Experts({1});
  const auto merged = f().Load(LockFor(RecipeFor(parts, "linear"), parts));
  for (const package::NamedTensor& t : f().branch(1)) {
    const math::Tensor got = merged->files[0]->Find(t.name);
    ASSERT_FALSE(got.empty()) << t.name;
    EXPECT_EQ(0, memcmp(got.data, t.tensor.data, t.tensor.bytes()))
        << t.name;
  }
}

TEST_F(MergeMethodTest, NoExpertIsTheBase) {
  const auto whole = f().Load(LockOfKind("ties"));
  const auto base = model::Decoder::Create(whole->base->config,
                                           whole->base->weights, {});
  ASSERT_TRUE(base.ok());
  EXPECT_EQ(Logits(**whole->DecoderFor(1), 1), Logits(*base, 1));
}

TEST_F(MergeMethodTest, WrittenWeightsAreThoseMadeInMemory) {
  const v1::CompositionLock lock = LockOfKind("ties");
  const std::string folder = f().Path("built");
  ASSERT_TRUE(proto::MakeDirectories(folder).ok());
  double last = 0;
  const absl::Status built =
      BuildComposition(lock, f().FolderOf(), folder, [&](double fraction) {
        EXPECT_GE(fraction, last);
        last = fraction;
      });
  ASSERT_TRUE(built.ok()) << built;
  EXPECT_EQ(last, 1);
  EXPECT_THAT(*proto::ListDirectory(folder),
              testing::ElementsAre("weights.safetensors", "weights.sha256"));
  const std::string path = folder + "/weights.safetensors";
  const std::string bytes = *proto::ReadFile(path, 1 << 24);
  LoadOptions options;
  options.folder = folder;
  const auto written = f().Load(lock, options);
  const auto memory = f().Load(lock);
  ASSERT_NE(written, nullptr);
  EXPECT_EQ(written->files[0]->path(), path);
  EXPECT_EQ(Logits(*written->decoder, 31), Logits(*memory->decoder, 31));
  const Plan plan =
      MakePlan(RecipeFor(f().experts(), "linear"), f().base(), f().experts());
  EXPECT_NEAR(static_cast<double>(plan.new_bytes),
              static_cast<double>(bytes.size()), 8192);

  // Again, on more threads: the same bytes.
  math::SetThreads(3);
  ASSERT_TRUE(BuildComposition(lock, f().FolderOf(), folder).ok());
  math::SetThreads(1);
  EXPECT_EQ(*proto::ReadFile(path, 1 << 24), bytes);

  std::string bad = bytes;
  bad[bad.size() - 3] ^= 1;
  ASSERT_TRUE(proto::WriteFileAtomic(path, bad).ok());
  auto damaged = LoadComposition(lock, f().FolderOf(), options);
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kDataLoss);
  std::filesystem::remove(path);
  damaged = LoadComposition(lock, f().FolderOf(), options);
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(damaged.status().message()),
              HasSubstr("motet compose apply"));
}

TEST_F(MergeMethodTest, ExclusionIsProven) {
  for (const char* kind : {"linear", "pcb"}) {
    const auto proofs = measure::ProveExclusion(
        LockOfKind(kind), f().FolderOf(), {1, 2, 3, 4}, f().Ids(30));
    ASSERT_TRUE(proofs.ok()) << proofs.status();
    for (const measure::ExclusionProof& proof : *proofs) {
      EXPECT_TRUE(proof.equal()) << proof.expert;
      EXPECT_NE(proof.excluded_sha256, proof.included_sha256);
    }
  }
}

TEST_F(MergeMethodTest, ASetWithoutRoomOrPartsIsRefused) {
  const v1::CompositionLock lock = LockOfKind("linear");
  LoadOptions small;
  small.set_bytes = 1000;
  const auto refused = f().Load(lock, small)->DecoderFor(1 | 2);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("without legal.example/legal@1.0.0"),
                    HasSubstr("--merge-memory"),
                    Not(HasSubstr("code.example"))));

  bool gone = false;
  const PackageFolder folder_of = [&](const std::string& sha256) {
    return gone ? absl::NotFoundError("[package] got nothing")
                : f().FolderOf()(sha256);
  };
  const auto loaded = LoadComposition(lock, folder_of);
  ASSERT_TRUE(loaded.ok());
  ASSERT_TRUE((*loaded)->DecoderFor(1 | 2).ok());
  gone = true;
  EXPECT_TRUE((*loaded)->DecoderFor(1 | 2).ok()) << "kept";
  const absl::Status lost = (*loaded)->DecoderFor(1 | 4).status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(lost.message()), HasSubstr("got nothing"));
}

// With room for two sets the one unused for longest goes, and what a query
// holds stays whole.
TEST_F(MergeMethodTest, SetsAreKeptWithinTheBudget) {
  const v1::CompositionLock lock = LockOfKind("linear");
  int opened = 0;
  const PackageFolder folder_of = [&](const std::string& sha256) {
    opened += sha256 == lock.base().manifest_sha256() ? 1 : 0;
    return f().FolderOf()(sha256);
  };
  LoadOptions options;
  const auto measured = f().Load(lock);
  options.set_bytes =
      static_cast<int64_t>(measured->files[0]->file_bytes()) * 5 / 2;
  const auto loaded = LoadComposition(lock, folder_of, options);
  ASSERT_TRUE(loaded.ok());
  const auto made = [&](math::ExpertMask set) {
    const int before = opened;
    EXPECT_TRUE((*loaded)->DecoderFor(set).ok());
    return opened > before;
  };
  EXPECT_TRUE(made(3));
  const auto held = *(*loaded)->DecoderFor(3);
  const std::string logits = Logits(*held, 3);
  EXPECT_TRUE(made(5));
  EXPECT_FALSE(made(3));
  EXPECT_TRUE(made(9));   // 5 goes
  EXPECT_FALSE(made(3));
  EXPECT_TRUE(made(5));   // 9 goes
  EXPECT_TRUE(made(9));   // 3 goes
  EXPECT_TRUE(made(3));
  EXPECT_EQ(Logits(*held, 3), logits);
}

TEST_F(MergeMethodTest, LockComesBackAndSaysWhatIsWrong) {
  v1::CompositionLock lock = LockOfKind("weighted");
  const std::string text = WriteLock(lock);
  EXPECT_THAT(text, Not(HasSubstr("router")));
  const auto parsed = ParseLock(text, "x");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(WriteLock(*parsed), text);
  lock.mutable_merge()->set_kind("blend");
  lock.mutable_router()->set_kind("topk");
  const auto bad = ParseLock(WriteLock(lock), "x");
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(std::string(bad.status().message()),
              AllOf(HasSubstr("merge.kind = \"blend\""),
                    HasSubstr("want none for method merge")));
  lock = LockOfKind("ties");
  lock.mutable_merge()->set_density(0);
  lock.mutable_merge()->add_weights(1);
  const auto worse = ParseLock(WriteLock(lock), "x");
  EXPECT_THAT(std::string(worse.status().message()),
              AllOf(HasSubstr("merge.density = 0"),
                    HasSubstr("5 merge.weights")));
  const Plan routed = MakePlan(TinyFederation::RecipeFor(f().experts()),
                               f().base(), f().experts());
  EXPECT_THAT(WriteLock(routed.lock), Not(HasSubstr("merge")));
}

TEST_F(MergeMethodTest, PlanListsEverythingAtOnce) {
  auto parts = f().Experts({0, 1, 0});
  parts[1].manifest.mutable_base()->set_tokenizer_sha256(
      std::string(64, 'b'));
  parts[1].manifest.mutable_model()->set_block("olmo2");
  Recipe recipe = RecipeFor(parts, "weighted");
  recipe.merge.weights = {0.5, -0.1};
  recipe.merge.density = 0.5;
  recipe.merge.t = 0.5;
  const std::string problems = Problems(recipe, parts);
  for (const char* part :
       {"merge.density, want none", "merge.t, want none",
        "2 merge.weights, want one for each of 3", "with -0.1",
        "sum to 0.4, want 1", "code.example/code twice", "got tokenizer",
        "got block olmo2"}) {
    EXPECT_THAT(problems, HasSubstr(part));
  }
}

TEST_F(MergeMethodTest, OptionsOutOfRangeAreRefused) {
  const auto& parts = f().experts();
  Recipe ties = RecipeFor(parts, "ties");
  for (const double density : {0.0, -1.0, 1.5}) {
    ties.merge.density = density;
    EXPECT_THAT(Problems(ties, parts), HasSubstr("want a number above 0"));
  }
  Recipe pcb = RecipeFor(parts, "pcb");
  pcb.merge.ratio = 0;
  pcb.merge.epsilon = 0.9;
  pcb.merge.weights = {1, 2, 3, 4};
  EXPECT_THAT(Problems(pcb, parts),
              AllOf(HasSubstr("merge.ratio = 0"),
                    HasSubstr("merge.epsilon = 0.9"),
                    HasSubstr("merge.weights, want none")));
  EXPECT_THAT(Problems(RecipeFor(parts, "slerp"), parts),
              HasSubstr("4 experts, want 2"));
  Recipe weighted = RecipeFor(parts, "weighted");
  weighted.merge.weights.clear();
  EXPECT_THAT(Problems(weighted, parts), HasSubstr("got no merge.weights"));
  EXPECT_THAT(Problems(RecipeFor({}, "linear"), {}),
              HasSubstr("got no experts"));
}

TEST_F(MergeMethodTest, FisherNeedsItsFile) {
  auto parts = f().Experts({0, 1});
  EXPECT_THAT(Problems(RecipeFor(parts, "fisher"), parts), IsEmpty());
  v1::ExpertManifest& m = parts[1].manifest;
  for (int i = 0; i < m.files_size(); ++i) {
    if (m.files(i).path() == "fisher.safetensors") {
      m.mutable_files()->DeleteSubrange(i, 1);
      break;
    }
  }
  EXPECT_THAT(Problems(RecipeFor(parts, "fisher"), parts),
              AllOf(HasSubstr("legal.example/legal@1.0.0"),
                    HasSubstr("no fisher.safetensors")));
}

TEST_F(MergeMethodTest, KindsOfPackagesDoNotMix) {
  TinyOptions options;
  options.block = model::Block::kPreNorm;
  options.experts = 1;
  const TinyFederation other(options);
  EXPECT_THAT(absl::StrJoin(MakePlan(RecipeFor(other.experts(), "linear"),
                                     other.base(), other.experts())
                                .problems,
                            "\n"),
              HasSubstr("got kind \"ffn\", want \"dense\""));
  EXPECT_THAT(absl::StrJoin(MakePlan(TinyFederation::RecipeFor(f().experts()),
                                     f().base(), f().experts())
                                .problems,
                            "\n"),
              HasSubstr("got kind \"dense\", want \"ffn\""));
}

TEST_F(MergeMethodTest, ExportsAsTheBasesFamily) {
  const auto composition = f().Load(LockOfKind("slerp"));
  const std::string folder = f().Path("export");
  const auto report = ExportHuggingFace(*composition, folder);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->architecture, "LlamaForCausalLM");
  const auto loaded = LoadDirectory(folder);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(Logits(*(*loaded)->decoder, 1),
            Logits(*composition->decoder, 7));
}

}  // namespace
}  // namespace motet::assemble
