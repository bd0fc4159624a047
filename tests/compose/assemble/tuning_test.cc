// SPDX-License-Identifier: Apache-2.0
// Router tuning of compositions: what plans say, what the run leaves, what a
// lock holds, and what is refused. The guarantee: guarantee_test.cc.
#include "compose/assemble/tuning.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_diff.h"
#include "compose/measure/exclusion.h"
#include "gmock/gmock.h"
#include "proto/digest.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class TuningTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { federation_ = new TinyFederation; }
  static void TearDownTestSuite() {
    delete federation_;
    federation_ = nullptr;
  }
  static const TinyFederation& f() { return *federation_; }
  static Recipe RecipeFor(const std::vector<Part>& parts) {
    Recipe recipe = TinyFederation::RecipeFor(parts, "topk");
    Recipe::Tuning& t = recipe.tuning.emplace();
    t.data = {"text.jsonl"};
    t.data_sha256 = DocumentsSha256(TinyFederation::Documents());
    t.documents = TinyFederation::Documents().size();
    t.steps = 6;
    t.learning_rate = 0.05;
    t.batch_sequences = 2;
    t.sequence_tokens = 16;
    return recipe;
  }
  static Plan PlanOf(const Recipe& recipe) {
    return MakePlan(recipe, f().base(), f().experts());
  }
  std::string Folder(const std::string& name) const {
    const std::string folder = f().Path(name);
    EXPECT_TRUE(proto::MakeDirectories(folder).ok());
    return folder;
  }
  v1::CompositionLock Tune(const v1::CompositionLock& lock,
                           const std::string& folder,
                           const TuneOptions& options = {},
                           learn::TrainResult* result = nullptr) const {
    const auto tuned =
        TuneComposition(lock, f().FolderOf(), TinyFederation::Documents(),
                        folder, options, result);
    EXPECT_TRUE(tuned.ok()) << tuned.status();
    return tuned.ok() ? *tuned : lock;
  }
  static TinyFederation* federation_;
};
TinyFederation* TuningTest::federation_ = nullptr;

TEST_F(TuningTest, PlanSaysWhatIsTunedInWhosePresence) {
  const Plan plan = PlanOf(RecipeFor(f().experts()));
  ASSERT_THAT(plan.problems, IsEmpty());
  const v1::TuningLock& t = plan.lock.tuning();
  EXPECT_EQ(plan.lock.router().rows(), "tuned");
  EXPECT_EQ(plan.lock.router().k(), 2u);
  EXPECT_EQ(t.untuned_rows(), "trained");
  EXPECT_EQ(t.k(), 4u);  // METHODS 1.6
  EXPECT_EQ(t.router_z_weight(), 1e-3);
  EXPECT_EQ(t.load_balance_weight(), 0);
  EXPECT_EQ(t.rows_sha256(), "");
  EXPECT_EQ(plan.lock.exclusion(), "exact");
  const std::string notes = absl::StrJoin(plan.notes, "\n");
  EXPECT_THAT(notes, AllOf(HasSubstr("in the presence of choir/base@1.0.0, "
                                     "code.example/code@1.0.0, "
                                     "legal.example/legal@1.0.0"),
                           HasSubstr("the rows before tuning (trained)"),
                           HasSubstr("the gate will exclude it")));
}

// k counts experts beside the base, and one of these is enough.
TEST_F(TuningTest, BesideASharedBase) {
  Recipe recipe = RecipeFor(f().experts());
  recipe.router.k = 1;
  recipe.router.shared = true;
  const Plan plan = PlanOf(recipe);
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.tuning().k(), 3u);  // METHODS 1.6, the base apart
  recipe.tuning->k = 1;
  EXPECT_THAT(PlanOf(recipe).problems, IsEmpty());
  recipe.tuning->k = 5;
  EXPECT_THAT(absl::StrJoin(PlanOf(recipe).problems, "\n"),
              HasSubstr("tuning.k = 5, want at most 4, the experts beside"));
}

TEST_F(TuningTest, TunedForNarrowerSetsIsRoutedAndSaysWhatIsRefused) {
  Recipe recipe = RecipeFor(f().experts());
  recipe.tuning->narrowed = "tuned";
  const Plan plan = PlanOf(recipe);
  ASSERT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.exclusion(), "routed");
  EXPECT_THAT(absl::StrJoin(plan.notes, "\n"),
              AllOf(HasSubstr("exclusion: routed"),
                    HasSubstr("legal.example/legal@1.0.0 may not serve purpose "
                              "advertising: queries are refused"),
                    Not(HasSubstr("the gate will exclude it"))));
  const std::string folder = Folder("routed");
  LoadOptions load;
  load.folder = folder;
  const auto composition = f().Load(Tune(plan.lock, folder), load);
  ASSERT_NE(composition, nullptr);
  EXPECT_FALSE(composition->exact_exclusion);
  // Masked, tuned rows are not those of a composition without the expert.
  LoadOptions only;
  only.all = false;
  only.only = {1, 2, 3};
  const auto never = f().Load(composition->lock, only);
  ASSERT_NE(never, nullptr);
  EXPECT_EQ(never->lock.exclusion(), "exact");
  const auto decoder = composition->DecoderFor(0b01111);
  ASSERT_TRUE(decoder.ok());
  EXPECT_NE(
      measure::LogitsSha256(**decoder, f().Ids(30), 0b01111, 0),
      measure::LogitsSha256(*never->decoder, f().Ids(30), never->All(), 0));
}

TEST_F(TuningTest, LossFallsAndTheSameLockGivesTheSameBytes) {
  Recipe recipe = RecipeFor(f().experts());
  recipe.tuning->steps = 40;
  const Plan plan = PlanOf(recipe);
  learn::TrainResult result;
  const v1::CompositionLock one = Tune(plan.lock, Folder("a"), {}, &result);
  EXPECT_LT(result.loss_curve.back(), result.loss_curve.front());
  EXPECT_EQ(WriteLock(Tune(plan.lock, Folder("b"))), WriteLock(one));
  const auto parsed = ParseLock(WriteLock(one), "motet.lock");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(TunedAlike(*parsed, plan.lock));
  v1::CompositionLock upgraded = plan.lock;
  upgraded.set_software("motet of next year");
  EXPECT_TRUE(TunedAlike(*parsed, upgraded));
  upgraded.mutable_tuning()->set_seed(99);
  EXPECT_FALSE(TunedAlike(*parsed, upgraded));
  EXPECT_EQ(WriteLock(BeforeTuning(one)), WriteLock(f().Lock("topk")));
}

TEST_F(TuningTest, StoppedItGoesOnFromItsCheckpoint) {
  const Plan plan = PlanOf(RecipeFor(f().experts()));
  const v1::CompositionLock whole = Tune(plan.lock, Folder("unbroken"));
  TuneOptions options;
  options.checkpoint_path = f().Path("tune.checkpoint");
  options.checkpoint_every = 2;
  options.progress = [](const learn::TrainProgress& p) { return p.step < 3; };
  const std::string folder = Folder("stopped");
  const auto stopped =
      TuneComposition(plan.lock, f().FolderOf(), TinyFederation::Documents(),
                      folder, options);
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  EXPECT_FALSE(proto::Exists(absl::StrCat(folder, "/", kRowsFile)));
  int64_t first = 0;
  options.progress = [&](const learn::TrainProgress& p) {
    if (first == 0) first = p.step;
    return true;
  };
  EXPECT_EQ(WriteLock(Tune(plan.lock, folder, options)), WriteLock(whole));
  EXPECT_EQ(first, 4);
}

TEST_F(TuningTest, RowsThatAreNotTheLocksAreRefused) {
  const std::string folder = Folder("damaged");
  const v1::CompositionLock lock =
      Tune(PlanOf(RecipeFor(f().experts())).lock, folder);
  const auto error = [&](const v1::CompositionLock& l,
                         const std::string& where) {
    LoadOptions load;
    load.folder = where;
    const auto loaded = LoadComposition(l, f().FolderOf(), load);
    EXPECT_FALSE(loaded.ok());
    return std::string(loaded.status().message());
  };
  EXPECT_THAT(error(lock, ""), HasSubstr("no folder to read tuned rows from"));
  EXPECT_THAT(error(lock, Folder("empty")), HasSubstr("rows.safetensors"));
  {
    std::fstream file(folder + "/rows.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x7f');
  }
  EXPECT_THAT(error(lock, folder),
              AllOf(HasSubstr("rows.safetensors"), HasSubstr("SHA-256")));
  // A file of another model, with its own digest in the lock.
  const math::Tensor wrong = f().base_weights()[0].tensor;
  const std::string path = Folder("other") + "/rows.safetensors";
  ASSERT_TRUE(
      package::WriteSafetensors(path, {{"layers.0.router", wrong}}).ok());
  v1::CompositionLock other = lock;
  other.mutable_tuning()->set_rows_sha256(
      proto::Hex(*proto::Sha256File(path)));
  EXPECT_THAT(error(other, f().Path("other")),
              HasSubstr("no fitting layers.0.router"));
  // And the text must be what the plan was made with.
  const auto text = TuneComposition(lock, f().FolderOf(), {"another text"},
                                    folder, {});
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("SHA-256"));
}

TEST_F(TuningTest, PlanListsEveryProblem) {
  Recipe recipe = RecipeFor(f().experts());
  recipe.tuning->k = 1;
  recipe.tuning->data.clear();
  recipe.tuning->narrowed = "both";
  EXPECT_THAT(absl::StrJoin(PlanOf(recipe).problems, "\n"),
              AllOf(HasSubstr("tuning.k = 1, want at least 2"),
                    HasSubstr("[tuning] without data"),
                    HasSubstr("tuning.narrowed = \"both\"")));
  recipe.tuning->k = 6;
  EXPECT_THAT(absl::StrJoin(PlanOf(recipe).problems, "\n"),
              HasSubstr("tuning.k = 6, want at most 5"));
  recipe.router.kind = "anchored";
  EXPECT_THAT(absl::StrJoin(PlanOf(recipe).problems, "\n"),
              HasSubstr("[tuning] with router.kind = \"anchored\""));
  EXPECT_THAT(MakePlan(RecipeFor({}), f().base(), {}).problems,
              Contains(HasSubstr("[tuning] without experts")));
}

TEST_F(TuningTest, LocksThatContradictThemselvesAreRefused) {
  const v1::CompositionLock lock =
      Tune(PlanOf(RecipeFor(f().experts())).lock, Folder("contradict"));
  const auto error = [&](const std::function<void(v1::CompositionLock&)>& set) {
    v1::CompositionLock changed = lock;
    set(changed);
    const auto parsed = ParseLock(WriteLock(changed), "motet.lock");
    EXPECT_FALSE(parsed.ok());
    return std::string(parsed.status().message());
  };
  EXPECT_THAT(error([](auto& l) { l.clear_tuning(); }),
              HasSubstr("router.rows = \"tuned\" without tuning"));
  EXPECT_THAT(error([](auto& l) { l.mutable_tuning()->clear_rows_sha256(); }),
              HasSubstr("tuning.rows_sha256"));
  EXPECT_THAT(error([](auto& l) { l.set_exclusion("routed"); }),
              HasSubstr("want exact"));
  EXPECT_THAT(error([](auto& l) { l.mutable_tuning()->set_narrowed("tuned"); }),
              HasSubstr("want routed"));
}

TEST_F(TuningTest, DiffNamesThePresenceAndNotTheDigest) {
  const v1::CompositionLock lock =
      Tune(PlanOf(RecipeFor(f().experts())).lock, Folder("diff"));
  const Plan again = PlanOf(RecipeFor(f().experts()));
  EXPECT_TRUE(DiffPlan(lock, again, {}).same());
  const auto parts = f().Experts({0, 1, 2});
  const PlanDiff less =
      DiffPlan(lock, MakePlan(RecipeFor(parts), f().base(), parts), {});
  EXPECT_THAT(absl::StrJoin(less.notes, "\n"),
              AllOf(HasSubstr("tuned in the presence of code.example"),
                    HasSubstr("tune them again for the new set")));
}

TEST(TuningRecipeTest, OptionsAndTheirErrors) {
  const std::string head = "name = \"a\"\nexperts = []\n[router]\nkind = ";
  const auto good = ParseRecipe(
      head + "\"topk\"\n[tuning]\ndata = [\"a.jsonl\", \"b.jsonl\"]\n"
             "steps = 12\nk = 3\nwarmup_steps = 0\nrouter_z_weight = 0\n"
             "narrowed = \"tuned\"\n",
      "r.toml");
  ASSERT_TRUE(good.ok()) << good.status();
  ASSERT_TRUE(good->tuning.has_value());
  EXPECT_EQ(good->tuning->data.size(), 2u);
  EXPECT_EQ(good->tuning->steps, 12);
  EXPECT_EQ(good->tuning->k, 3);
  EXPECT_EQ(good->tuning->warmup_steps, 0);
  EXPECT_EQ(good->tuning->narrowed, "tuned");
  EXPECT_EQ(good->tuning->weight_decay, std::nullopt);
  const auto error = [&](const std::string& rest) {
    const auto recipe = ParseRecipe(head + rest, "r.toml");
    EXPECT_FALSE(recipe.ok()) << rest;
    return std::string(recipe.status().message());
  };
  EXPECT_THAT(error("\"topk\"\n[tuning]\nsteps = 0\n"),
              AllOf(HasSubstr("\"tuning.steps\""),
                    HasSubstr("no key \"tuning.data\"")));
  EXPECT_THAT(error("\"anchored\"\n[tuning]\ndata = [\"a\"]\n"),
              HasSubstr("router.kind \"topk\" or \"topp\""));
  EXPECT_THAT(error("\"topp\"\n[tuning]\ndata = [\"a\"]\nk = 2\n"),
              AllOf(HasSubstr("line 7"), HasSubstr("\"tuning.k\"")));
  EXPECT_THAT(error("\"topk\"\n[tuning]\ndata = [1]\n"),
              HasSubstr("a list of .jsonl files"));
  const auto dume = ParseRecipe(
      "name = \"a\"\nexperts = []\nmethod = \"dume\"\n[tuning]\n"
      "data = [\"a\"]\n",
      "r.toml");
  EXPECT_THAT(std::string(dume.status().message()),
              AllOf(HasSubstr("a section [tuning]"), HasSubstr("\"btx\"")));
  const auto moved =
      RecipeWith(head + "\"topk\"\n[tuning]\ndata = [\"a.jsonl\"]\n",
                 {"x.example/x@1.0.0"}, {0}, {"/data/a.jsonl"});
  ASSERT_TRUE(moved.ok());
  const auto there = ParseRecipe(*moved, "r.toml");
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_THAT(there->tuning->data, testing::ElementsAre("/data/a.jsonl"));
}

}  // namespace
}  // namespace motet::assemble
