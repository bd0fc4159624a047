// SPDX-License-Identifier: Apache-2.0
// The plan of method router_retriever: what it locks, what it says, and
// everything that does not fit at once.
#include <algorithm>
#include <functional>

#include "absl/strings/str_join.h"
#include "compose/assemble/composition.h"
#include "compose/assemble/plan_diff.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/tiny_retrieval.h"

namespace motet::retrieve {
namespace {

using assemble::Part;
using assemble::Plan;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class RetrieverPlanTest : public ::testing::Test {
 protected:
  RetrieverPlanTest()
      : tiny_(::testing::TempDir() + "retriever_plan_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
  }
  Plan PlanOf(const std::vector<Part>& experts,
              const std::vector<Part>& pilots) const {
    return assemble::MakePlan(TinyRetrieval::RecipeFor(experts), tiny_.base(),
                              experts, pilots);
  }
  static Part Changed(Part part,
                      const std::function<void(v1::ExpertManifest&)>& change) {
    change(part.manifest);
    return part;
  }
  TinyRetrieval tiny_;
};

TEST_F(RetrieverPlanTest, LocksExpertsAndPilotsInTheirOrder) {
  // Whatever the order in which the libraries came.
  std::vector<Part> pilots = tiny_.pilots();
  std::reverse(pilots.begin(), pilots.end());
  const Plan plan = PlanOf(tiny_.experts(), pilots);
  ASSERT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.exclusion(), "exact");
  EXPECT_EQ(plan.lock.retriever().similarity(), "dot");
  EXPECT_EQ(plan.lock.retriever().aggregate(), "mean");
  EXPECT_FALSE(plan.lock.has_router());
  ASSERT_EQ(plan.lock.retriever().pilots_size(), 3);
  for (int e = 0; e < 3; ++e) {
    const v1::LockedPilots& locked = plan.lock.retriever().pilots(e);
    EXPECT_EQ(locked.id(), tiny_.pilots()[e].manifest.id());
    EXPECT_EQ(locked.manifest_sha256(), tiny_.pilots()[e].manifest_sha256);
    EXPECT_EQ(locked.of(), plan.lock.experts(e).id());
  }
  EXPECT_THAT(plan.notes,
              AllOf(Contains(HasSubstr("exclusion: exact")),
                    Contains(HasSubstr("d.example/adapter@1.0.0's owner "
                                       "published no pilots")),
                    Contains(HasSubstr("pilots: 8, of 3 owners")),
                    Not(Contains(HasSubstr("never chosen")))));
  EXPECT_GT(plan.active_parameters, 0);
  EXPECT_LT(plan.active_parameters, plan.parameters);
  EXPECT_GT(plan.referenced_bytes, 0);

  const std::string text = assemble::WriteLock(plan.lock);
  const auto parsed = assemble::ParseLock(text, "here");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(assemble::WriteLock(*parsed), text);
}

TEST_F(RetrieverPlanTest, SaysWhoIsNeverChosenAndWhatIsNotCompared) {
  const Plan plan = PlanOf(tiny_.Experts({0, 3}), tiny_.PilotsOf({0}));
  ASSERT_THAT(plan.problems, IsEmpty());
  EXPECT_THAT(plan.notes,
              AllOf(Contains(HasSubstr("d.example/adapter@1.0.0 has no pilot "
                                       "that points to it: it is never")),
                    Contains(HasSubstr("1 further pilots point to experts"))));
  const Plan none = PlanOf({}, {});
  EXPECT_THAT(none.problems, IsEmpty());  // the base by itself
}

TEST_F(RetrieverPlanTest, AllProblemsAtOnce) {
  std::vector<Part> experts = tiny_.experts();
  experts[0] = Changed(experts[0], [](auto& m) {
    m.mutable_base()->set_manifest_sha256(std::string(64, 'b'));
  });
  experts[1] = Changed(experts[1], [](auto& m) {
    m.mutable_adapter()->set_targets(1, "q_proj");
  });
  experts[2] = Changed(experts[2], [](auto& m) { m.set_kind("ffn"); });
  experts[3] = tiny_.Adapter(3, "1.1.0", {.seed = 99});
  std::vector<Part> pilots = tiny_.pilots();
  pilots[0] = Changed(pilots[0], [](auto& m) {
    m.mutable_base()->set_weights_sha256(std::string(64, 'c'));
    m.mutable_licence()->add_forbidden_purposes("advertising");
  });
  pilots[1].revoked = true;
  pilots.push_back(tiny_.Pilots(1, "1.1.0", {1}));
  pilots.push_back(Changed(tiny_.pilots()[1], [](auto& m) {
    m.set_id("e.example/pilots-other@1.0.0");
    m.mutable_pilots()->set_of("e.example/other@1.0.0");
  }));
  const Plan plan = PlanOf(experts, pilots);
  const auto says = [&](const char* who, const char* what) {
    EXPECT_THAT(plan.problems, Contains(AllOf(HasSubstr(who), HasSubstr(what))))
        << who << " " << what;
  };
  says("a.example/adapter@1.0.0", "bbbbbbbbbbbb, want the base's");
  says("b.example/adapter@1.0.0", "q_proj");
  says("c.example/adapter@1.0.0", "got kind \"ffn\"");
  says("a.example/pilots-adapter@1.0.0", "cccccccccccc, want the base's");
  says("a.example/pilots-adapter@1.0.0", "licence terms");
  says("b.example/pilots-adapter@1.0.0", "revoked");
  says("b.example/pilots-adapter@1.1.0", "one library an expert");
  says("e.example/pilots-other@1.0.0", "want those of an expert of the recipe");
  // Expert 3's adapter is not the one that owner 2 scored.
  says("c.example/pilots-adapter@1.0.0", "made with d.example/adapter@1.0.0");
}

TEST_F(RetrieverPlanTest, RanksWidthsAndBasesThatDoNotFit) {
  const auto problems = [&](const std::function<void(v1::ExpertManifest&)>& f) {
    const Part part = Changed(tiny_.experts()[0], f);
    return absl::StrJoin(PlanOf({part}, {}).problems, "\n");
  };
  EXPECT_THAT(problems([](auto& m) { m.mutable_adapter()->set_rank(64); }),
              HasSubstr("64"));
  EXPECT_THAT(problems([](auto& m) { m.mutable_model()->set_width(48); }),
              HasSubstr("width 48, want the base's 32"));
  const Part base = Changed(tiny_.base(), [](auto& m) { m.set_kind("base"); });
  const Plan plan = assemble::MakePlan(TinyRetrieval::RecipeFor({}), base, {});
  EXPECT_THAT(plan.problems, Contains(HasSubstr("want \"encoder\"")));
  // And an encoder is no base of models.
  assemble::Recipe text = TinyRetrieval::RecipeFor({});
  text.method = "flexolmo";
  EXPECT_THAT(assemble::MakePlan(text, tiny_.base(), {}).problems,
              Contains(HasSubstr("got kind \"encoder\" as the base")));
}

TEST_F(RetrieverPlanTest, AGateIsAskedOfPilotsThatHaveOne) {
  assemble::Recipe recipe = TinyRetrieval::RecipeFor(tiny_.experts());
  EXPECT_FALSE(PlanOf(tiny_.experts(), tiny_.pilots()).lock.retriever().gate());
  recipe.retriever.gate = true;
  const Plan plan = assemble::MakePlan(recipe, tiny_.base(), tiny_.experts(),
                                       tiny_.pilots());
  ASSERT_THAT(plan.problems, IsEmpty());
  EXPECT_TRUE(plan.lock.retriever().gate());
  EXPECT_THAT(plan.notes,
              Contains(HasSubstr("the widest reaches to cosine 0.")));
  // Of an owner whose node made them before there were gates.
  std::vector<Part> pilots = tiny_.pilots();
  pilots[1] = Changed(pilots[1], [](v1::ExpertManifest& m) {
    m.mutable_pilots()->set_gate_share(0);
    for (v1::PilotGroup& g : *m.mutable_pilots()->mutable_groups()) {
      g.set_gate(0);
    }
  });
  EXPECT_THAT(assemble::MakePlan(recipe, tiny_.base(), tiny_.experts(), pilots)
                  .problems,
              ElementsAre(HasSubstr("got pilots without gates")));
  EXPECT_THAT(PlanOf(tiny_.experts(), pilots).problems, IsEmpty());
}

TEST_F(RetrieverPlanTest, LocksThatNobodyWrote) {
  const v1::CompositionLock good = PlanOf(tiny_.experts(), tiny_.pilots()).lock;
  const auto refusal = [&](const std::function<void(v1::RetrieverLock&)>& f) {
    v1::CompositionLock lock = good;
    f(*lock.mutable_retriever());
    const auto parsed = assemble::ParseLock(assemble::WriteLock(lock), "here");
    EXPECT_FALSE(parsed.ok());
    return std::string(parsed.status().message());
  };
  EXPECT_THAT(refusal([](auto& r) { r.set_similarity("l2"); }),
              HasSubstr("similarity = \"l2\""));
  EXPECT_THAT(refusal([](auto& r) { r.set_aggregate(""); }),
              HasSubstr("want mean, max or weighted"));
  EXPECT_THAT(refusal([](auto& r) { r.mutable_pilots()->SwapElements(0, 1); }),
              HasSubstr("in their order"));
  EXPECT_THAT(refusal([](auto& r) {
                r.mutable_pilots(0)->set_of("z.example/z@1.0.0");
              }),
              HasSubstr("of \"z.example/z@1.0.0\""));
  EXPECT_THAT(
      refusal([](auto& r) { r.mutable_pilots(2)->set_weights_sha256("abc"); }),
      HasSubstr("= \"abc\""));
  EXPECT_THAT(
      refusal([](auto& r) { r.mutable_pilots(1)->set_id(r.pilots(0).id()); }),
      HasSubstr("each once"));
  v1::CompositionLock other = good;
  other.mutable_merge()->set_kind("linear");
  EXPECT_FALSE(assemble::ParseLock(assemble::WriteLock(other), "here").ok());
}

TEST_F(RetrieverPlanTest, IsNoModelOfText) {
  const auto loaded = assemble::LoadComposition(
      PlanOf(tiny_.experts(), tiny_.pilots()).lock, tiny_.FolderOf());
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(loaded.status().message()),
              HasSubstr("motet search INDEX --composition demo"));
}

TEST_F(RetrieverPlanTest, OneExpertMoreChangesNobodyElse) {
  const Plan before = PlanOf(tiny_.Experts({0, 1, 2}), tiny_.PilotsOf({0, 1}));
  const Part added = tiny_.Pilots(3, "1.0.0", {0, 1, 2, 3});
  std::vector<Part> pilots = tiny_.PilotsOf({0, 1});
  pilots.push_back(added);
  const Plan after = PlanOf(tiny_.experts(), pilots);
  ASSERT_THAT(after.problems, IsEmpty());
  const v1::RetrieverLock& one = before.lock.retriever();
  const v1::RetrieverLock& more = after.lock.retriever();
  ASSERT_EQ(more.pilots_size(), one.pilots_size() + 1);
  for (int i = 0; i < one.pilots_size(); ++i) {
    EXPECT_EQ(one.pilots(i).SerializeAsString(),
              more.pilots(i).SerializeAsString());
  }
  const assemble::PlanDiff diff = assemble::DiffPlan(before.lock, after, {});
  ASSERT_THAT(diff.added, SizeIs(1));
  EXPECT_THAT(diff.removed, IsEmpty());
  EXPECT_THAT(diff.versions, IsEmpty());
  ASSERT_THAT(diff.parameters, SizeIs(1));
  EXPECT_EQ(diff.parameters[0].what, "pilots d.example/pilots-adapter");
  EXPECT_EQ(diff.parameters[0].from, "none");
  EXPECT_THAT(diff.parameters[0].to,
              HasSubstr("d.example/pilots-adapter@1.0.0 ("));
  EXPECT_THAT(diff.notes, Contains(HasSubstr("are not made again")));
  // And back.
  const assemble::PlanDiff rm = assemble::DiffPlan(after.lock, before, {});
  ASSERT_THAT(rm.parameters, SizeIs(1));
  EXPECT_EQ(rm.parameters[0].to, "none");
}

TEST_F(RetrieverPlanTest, Recipes) {
  const std::string head =
      "name = \"demo\"\nmethod = \"router_retriever\"\n"
      "experts = [\"a.example/adapter@1.0.0\"]\n";
  const auto plain = assemble::ParseRecipe(head, "here");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->retriever.similarity, "dot");
  const std::string full = head +
                           "[retriever]\nsimilarity = \"cosine\"\naggregate = "
                           "\"max\"\ngate = true\n"
                           "pilots = [\"a.example/pilots-adapter\"]\n";
  const auto given = assemble::ParseRecipe(full, "here");
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->retriever.similarity, "cosine");
  EXPECT_EQ(given->retriever.aggregate, "max");
  EXPECT_TRUE(given->retriever.gate);
  EXPECT_THAT(given->retriever.pilots, ElementsAre("a.example/pilots-adapter"));
  const auto refusal = [&](const std::string& more) {
    const auto recipe = assemble::ParseRecipe(head + more, "here");
    EXPECT_FALSE(recipe.ok()) << more;
    return std::string(recipe.status().message());
  };
  EXPECT_THAT(refusal("[retriever]\nsimilarity = \"l2\"\nk = 3\n"),
              AllOf(HasSubstr("line 5"), HasSubstr("retriever.similarity"),
                    HasSubstr("line 6"), HasSubstr("retriever.k")));
  EXPECT_THAT(refusal("[retriever]\npilots = [\"x\"]\n"),
              HasSubstr("a list of pilots"));
  EXPECT_THAT(refusal("retriever = 3\n"), HasSubstr("a section [retriever]"));
  EXPECT_THAT(refusal("[router]\nkind = \"topk\"\n"), HasSubstr("router"));
  EXPECT_FALSE(assemble::ParseRecipe(
                   "name = \"demo\"\nexperts = []\n[retriever]\n", "here")
                   .ok());

  const auto pinned =
      assemble::RecipeWithPilots(head, {"a.example/pilots-adapter@1.0.0"});
  ASSERT_TRUE(pinned.ok());
  EXPECT_THAT(assemble::ParseRecipe(*pinned, "here")->retriever.pilots,
              ElementsAre("a.example/pilots-adapter@1.0.0"));
  const auto freed = assemble::RecipeWithPilots(full, {});
  const auto parsed = assemble::ParseRecipe(*freed, "here");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->retriever.pilots, IsEmpty());
  EXPECT_EQ(parsed->retriever.similarity, "cosine");
}

}  // namespace
}  // namespace motet::retrieve
