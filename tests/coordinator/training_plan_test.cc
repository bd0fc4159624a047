// SPDX-License-Identifier: Apache-2.0
// Plans in TOML: defaults, every problem at once, nothing passed over.
#include "coordinator/training_plan.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::coordinator {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string Message(const std::string& toml) {
  const auto plan = ParseTrainingPlan(toml, "plan.toml");
  if (plan.ok()) return "OK";
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(plan.status().message());
}

TEST(TrainingPlanTest, DefaultsFillWhatIsNotSaid) {
  const auto plan = ParseTrainingPlan("id = \"first\"\n", "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->id(), "first");
  EXPECT_EQ(plan->method(), "flexolmo");
  EXPECT_EQ(plan->expert_version(), "1.0.0");
  EXPECT_EQ(plan->steps(), 200u);
  EXPECT_EQ(plan->batch_sequences(), 16u);
  EXPECT_EQ(plan->sequence_tokens(), 128u);
  EXPECT_EQ(plan->learning_rate(), 1e-3);
  EXPECT_EQ(plan->checkpoint_every(), 50u);
  EXPECT_EQ(plan->public_fraction(), 1.0 / 3);
  EXPECT_EQ(plan->gate_quantile(), 0.97);
  EXPECT_EQ(plan->statistics_tokens(), 65536u);
  EXPECT_EQ(plan->owners_size(), 0);
  EXPECT_THAT(plan->publishes(),
              ElementsAre("ffn weights", "router row and bias",
                          "per-layer means and thresholds"));
}

TEST(TrainingPlanTest, AblationsOfTheOwnersRun) {
  auto plan = ParseTrainingPlan("id = 'a'\n", "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan->alone());
  EXPECT_FALSE(plan->no_bias());
  plan = ParseTrainingPlan("id = 'a'\ncoordination = false\nbias = false\n",
                           "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->alone());
  EXPECT_TRUE(plan->no_bias());
  EXPECT_EQ(plan->public_fraction(), 0);  // own text only, if not asked for
  EXPECT_THAT(DescribePlan(*plan),
              HasSubstr("coordination = false, bias = false"));
  plan = ParseTrainingPlan(
      "id = 'a'\ncoordination = false\npublic_fraction = 0.25\n", "plan.toml");
  EXPECT_EQ(plan->public_fraction(), 0.25);
  EXPECT_THAT(Message("id = 'a'\ncoordination = 0\n"),
              HasSubstr("coordination"));
}

TEST(TrainingPlanTest, RowsOfAnEmbedder) {
  auto plan = ParseTrainingPlan("id = 'a'\n", "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->row_init(), "");
  const std::string digest(64, 'a');
  plan = ParseTrainingPlan(
      "id = 'a'\nrow_init = 'embedder'\n"
      "embedder_seed = 5\nembedder_sha256 = '" +
          digest + "'\n",
      "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->embedder_seed(), 5u);
  EXPECT_THAT(DescribePlan(*plan), HasSubstr("the embedder " + digest));
  EXPECT_THAT(Message("id = 'a'\nkind = 'dense'\nrow_init = 'embedder'\n"),
              HasSubstr("trains no router rows"));
  EXPECT_THAT(Message("id = 'a'\nembedder_seed = 5\n"),
              HasSubstr("embedder_seed is 5"));
}

TEST(TrainingPlanTest, SecondMomentsAreSaidToLeave) {
  const auto plan =
      ParseTrainingPlan("id = 'a'\nsecond_moments = true\n", "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->second_moments());
  EXPECT_EQ(plan->publishes(3), "second moments of router inputs");
  EXPECT_THAT(Message("id = 'a'\nsecond_moments = 1\n"),
              HasSubstr("second_moments"));
}

TEST(TrainingPlanTest, KindsAndWhatTheyMakeLeave) {
  const auto of = [](const std::string& lines) {
    auto plan = ParseTrainingPlan("id = 'a'\n" + lines, "plan.toml");
    EXPECT_TRUE(plan.ok()) << plan.status();
    return *std::move(plan);
  };
  EXPECT_EQ(of("").kind(), "ffn");
  const auto dense = of("kind = 'dense'\n");
  EXPECT_EQ(dense.method(), "branch");
  EXPECT_THAT(dense.publishes(),
              ElementsAre("all weights", "per-layer means and thresholds"));
  EXPECT_THAT(of("kind = 'attention_ffn'\nanchored = false\nfisher = true\n"
                 "second_moments = true\nmethod = 'branch'\n")
                  .publishes(),
              ElementsAre("all weights", "second moments of router inputs",
                          "Fisher information"));
  const auto wide = of("kind = 'sized'\nffn_width = 96\n");
  EXPECT_EQ(wide.ffn_width(), 96u);
  const auto probed = of(
      "kind = 'sized'\nsize = 'probe'\ntrunk = 'frozen'\nsteps = 600\n"
      "ffn_widths = [48, 64, 80]\nsteps_choices = [300, 400, 500]\n"
      "probe_thresholds = [20, 35.5]\n");
  EXPECT_THAT(probed.ffn_widths(), ElementsAre(48, 64, 80));
  EXPECT_THAT(probed.steps_choices(), ElementsAre(300, 400, 500));
  EXPECT_THAT(probed.probe_thresholds(), ElementsAre(20, 35.5));
  EXPECT_THAT(probed.publishes(),
              ElementsAre("ffn weights", "per-layer means and thresholds",
                          "perplexity of the base on held-out text"));
  EXPECT_THAT(DescribePlan(probed), HasSubstr("branch, kind sized"));

  EXPECT_THAT(Message("id = 'a'\nkind = 'sparse'\n"),
              AllOf(HasSubstr("kind is \"sparse\""),
                    HasSubstr("\"attention_ffn\"")));
  EXPECT_THAT(Message("id = 'a'\nkind = 'dense'\nmethod = 'flexolmo'\n"),
              HasSubstr("want \"branch\" for kind \"dense\""));
  EXPECT_THAT(Message("id = 'a'\nanchored = false\n"),
              HasSubstr("anchored is false"));
  EXPECT_THAT(Message("id = 'a'\nffn_width = 64\n"),
              HasSubstr("kind \"sized\" only"));
  EXPECT_THAT(Message("id = 'a'\nkind = 'sized'\nffn_widths = [1.5]\n"
                      "steps_choices = 'many'\nanchored = 1\n"),
              AllOf(HasSubstr("line 3: got ffn_widths that is no list of"),
                    HasSubstr("line 4: got steps_choices"),
                    HasSubstr("line 5: got anchored")));
}

TEST(TrainingPlanTest, RetrievalHasKeysOfItsOwn) {
  auto plan = ParseTrainingPlan("id = 'a'\nkind = 'embedding_adapter'\n",
                                "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->method(), "router_retriever");
  EXPECT_EQ(plan->adapter_rank(), 8u);
  EXPECT_EQ(plan->adapter_alpha(), 32);
  EXPECT_EQ(plan->adapter_dropout(), 0.1);
  EXPECT_EQ(plan->temperature(), 0.05);
  EXPECT_EQ(plan->batch_sequences(), 256u);
  EXPECT_EQ(plan->sequence_tokens(), 0u);
  EXPECT_EQ(plan->learning_rate(), 1e-4);
  EXPECT_EQ(plan->warmup_steps(), 20u);
  EXPECT_EQ(plan->public_fraction(), 0);
  EXPECT_FALSE(plan->anchored());
  EXPECT_THAT(plan->publishes(), ElementsAre("adapter weights"));
  plan = ParseTrainingPlan(
      "id = 'a'\nkind = 'embedding_adapter'\nrank = 4\nalpha = 16\n"
      "dropout = 0\ntemperature = 0.1\nhard_negatives = 2\n"
      "max_queries = 500\nbatch = 32\nlearning_rate = 1e-3\nsteps = 50\n"
      "query_tokens = 64\n",
      "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->adapter_rank(), 4u);
  EXPECT_EQ(plan->hard_negatives(), 2u);
  EXPECT_EQ(plan->max_queries(), 500u);
  EXPECT_EQ(plan->batch_sequences(), 32u);
  EXPECT_EQ(plan->sequence_tokens(), 64u);
  EXPECT_EQ(plan->warmup_steps(), 5u);
  EXPECT_THAT(DescribePlan(*plan), HasSubstr("hard_negatives     2"));

  plan = ParseTrainingPlan(
      "id = 'a'\nkind = 'pilots'\nof = 'sea'\n"
      "experts = ['a.example/sea@1.0.0', 'b.example/law@1.0.0']\n",
      "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->pilots_of(), "sea");
  ASSERT_EQ(plan->scored_size(), 2);
  EXPECT_EQ(plan->scored(1).id(), "b.example/law@1.0.0");
  EXPECT_THAT(
      plan->publishes(),
      ElementsAre("mean vectors of groups of queries, with counts and reach"));

  // Each kind's keys are unknown to the others.
  EXPECT_THAT(Message("id = 'a'\nrank = 8\nexperts = []\n"),
              AllOf(HasSubstr("line 2: got rank (unknown key)"),
                    HasSubstr("line 3: got experts (unknown key)")));
  EXPECT_THAT(Message("id = 'a'\nkind = 'embedding_adapter'\n"
                      "batch_sequences = 4\nrank = 0\nfisher = true\n"
                      "schedule = 'cosine'\ndropout = 1.5\n"),
              AllOf(HasSubstr("got batch_sequences (unknown key)"),
                    HasSubstr("line 4: got rank 0"),
                    HasSubstr("fisher is given"),
                    HasSubstr("got schedule \"cosine\", want none"),
                    HasSubstr("line 7: got dropout 1.5")));
  EXPECT_THAT(Message("id = 'a'\nkind = 'pilots'\nsteps = 5\nof = 3\n"
                      "experts = 'all'\n"),
              AllOf(HasSubstr("got steps (unknown key)"),
                    HasSubstr("line 4: got of"),
                    HasSubstr("line 5: got experts that is no list")));
}

TEST(TrainingPlanTest, EveryKeyIsTaken) {
  const auto plan = ParseTrainingPlan(
      "id = 'p-2'\nmethod = 'flexolmo'\nexpert_name = 'code'\n"
      "expert_version = '2.1.0'\nowners = ['a.example', 'b.example']\n"
      "steps = 7\nbatch_sequences = 2\nsequence_tokens = 16\n"
      "learning_rate = 0.5\nwarmup_steps = 3\nfinal_lr_fraction = 0\n"
      "clip_norm = 2\nweight_decay = 0.25\nrouter_z_weight = 0.125\n"
      "lm_z_weight = 0.0625\npublic_fraction = 0.75\nseed = 9007199254740991\n"
      "checkpoint_every = 5\ngate_quantile = 0.5\nsmoothing = 0\n"
      "statistics_tokens = 512\n",
      "plan.toml");
  // 9007199254740991 is above the seed's limit and must not be rounded.
  EXPECT_FALSE(plan.ok());
  const auto good = ParseTrainingPlan(
      "id = 'p-2'\nexpert_name = 'code'\nexpert_version = '2.1.0'\n"
      "owners = ['a.example', 'b.example']\nsteps = 7\n"
      "learning_rate = 0.5\nwarmup_steps = 7\nweight_decay = 0.25\n"
      "seed = 8999999999999999\nsmoothing = 0\nclip_norm = 2\n",
      "plan.toml");
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->expert_name(), "code");
  EXPECT_EQ(good->expert_version(), "2.1.0");
  EXPECT_THAT(good->owners(), ElementsAre("a.example", "b.example"));
  EXPECT_EQ(good->steps(), 7u);
  EXPECT_EQ(good->warmup_steps(), 7u);
  EXPECT_EQ(good->learning_rate(), 0.5);
  EXPECT_EQ(good->weight_decay(), 0.25);
  EXPECT_EQ(good->seed(), 8999999999999999u);
  EXPECT_EQ(good->smoothing(), 0);
  EXPECT_EQ(good->clip_norm(), 2);
}

TEST(TrainingPlanTest, AllProblemsAtOnce) {
  const std::string message = Message(
      "id = 'Bad Id'\nmethod = 'federated averaging'\nsteps = 0\n"
      "learning_rate = 'fast'\nstepz = 3\npublic_fraction = 1.0\n"
      "owners = 'a.example'\nexpert_name = 4\n");
  EXPECT_THAT(message, AllOf(HasSubstr("[plan.toml]"), HasSubstr("Bad Id"),
                             HasSubstr("federated averaging"),
                             HasSubstr("line 3: got steps 0"),
                             HasSubstr("line 4: got learning_rate")));
  EXPECT_THAT(message, AllOf(HasSubstr("line 5: got stepz"),
                             HasSubstr("statistics_tokens"),
                             HasSubstr("line 6: got public_fraction 1"),
                             HasSubstr("line 7: got owners"),
                             HasSubstr("line 8: got expert_name")));
  EXPECT_THAT(Message("id = 'a'\nsteps = 10\nwarmup_steps = 11\n"),
              HasSubstr("11 warm-up steps of 10"));
}

TEST(TrainingPlanTest, FewStepsWarmUpInATenthOfThem) {
  const auto warmup = [](const std::string& lines) {
    const auto plan = ParseTrainingPlan("id = 'a'\n" + lines, "plan.toml");
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? static_cast<int64_t>(plan->warmup_steps()) : -1;
  };
  EXPECT_EQ(warmup("steps = 10\n"), 1);
  EXPECT_EQ(warmup("steps = 5\n"), 0);
  EXPECT_EQ(warmup("steps = 1000\n"), 20);
  EXPECT_EQ(warmup("steps = 10\nwarmup_steps = 10\n"), 10);
  EXPECT_EQ(warmup("warmup_steps = 0\n"), 0);
}

TEST(TrainingPlanTest, HowTrainingGoes) {
  const auto plan = ParseTrainingPlan(
      "id = 'a'\nschedule = 'warmup-stable-decay'\ndecay_fraction = 0.5\n"
      "accumulation = 4\nrecompute_layers = 3\nevaluate_every = 10\n"
      "evaluate_windows = 0\npatience = 2\nspike_sigma = 0\n"
      "spike_window = 64\ndocument_boundaries = true\n"
      "freeze = ['layers.0.*', '*.bias']\n",
      "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->schedule(), "warmup-stable-decay");
  EXPECT_EQ(plan->decay_fraction(), 0.5);
  EXPECT_EQ(plan->accumulation(), 4u);
  EXPECT_EQ(plan->recompute_layers(), 3u);
  EXPECT_EQ(plan->evaluate_every(), 10u);
  EXPECT_EQ(plan->evaluate_windows(), 0u);
  EXPECT_EQ(plan->patience(), 2u);
  EXPECT_EQ(plan->spike_sigma(), 0);
  EXPECT_EQ(plan->spike_window(), 64u);
  EXPECT_TRUE(plan->document_boundaries());
  EXPECT_THAT(plan->freeze(), ElementsAre("layers.0.*", "*.bias"));
  EXPECT_THAT(DescribePlan(*plan),
              AllOf(HasSubstr("warmup-stable-decay, documents apart"),
                    HasSubstr("layers.0.* *.bias")));
  EXPECT_THAT(Message("id = 'a'\nschedule = 'stairs'\n"),
              AllOf(HasSubstr("stairs"), HasSubstr("linear")));
  EXPECT_EQ(plan->arithmetic(), "f32");
  EXPECT_EQ(ParseTrainingPlan("id = 'a'\narithmetic = 'auto'\n", "plan.toml")
                ->arithmetic(),
            "auto");
  EXPECT_THAT(Message("id = 'a'\narithmetic = 'int8'\n"),
              AllOf(HasSubstr("int8"), HasSubstr("bf16")));
  EXPECT_THAT(Message("id = 'a'\npatience = 1\n"),
              HasSubstr("evaluate_every"));
  EXPECT_THAT(Message("id = 'a'\nbatch_sequences = 4\naccumulation = 5\n"),
              HasSubstr("5 pieces"));
  EXPECT_THAT(Message("id = 'a'\ndocument_boundaries = 1\n"),
              HasSubstr("true or false"));
  EXPECT_THAT(Message("id = 'a'\nfreeze = 'x'\n"), HasSubstr("freeze"));
}

TEST(TrainingPlanTest, UnknownKeyNamesTheKeysThatExist) {
  EXPECT_THAT(Message("id = 'a'\nlearningrate = 0.1\n"),
              AllOf(HasSubstr("learningrate (unknown key)"),
                    HasSubstr("learning_rate"), HasSubstr("owners")));
}

TEST(TrainingPlanTest, IdIsNeeded) {
  EXPECT_THAT(Message(""), HasSubstr("got id \"\""));
  EXPECT_THAT(Message("id = '../up'\n"), HasSubstr("../up"));
  EXPECT_THAT(Message("id = 3\n"), HasSubstr("line 1: got id"));
}

TEST(TrainingPlanTest, NumbersOutOfRange) {
  for (const char* line :
       {"checkpoint_every = 1.5", "batch_sequences = 0", "batch_sequences = -1",
        "sequence_tokens = 7", "learning_rate = 0", "learning_rate = nan",
        "learning_rate = inf", "final_lr_fraction = 1.1", "clip_norm = 0",
        "seed = -1", "checkpoint_every = 0", "gate_quantile = 0.49",
        "smoothing = 1", "statistics_tokens = 255", "steps = true",
        "warmup_steps = 201", "seed = 0.5"}) {
    EXPECT_NE(Message(std::string("id = 'a'\n") + line + "\n"), "OK") << line;
  }
}

TEST(TrainingPlanTest, NoOwnersMeansEveryMember) {
  EXPECT_EQ(Message("id = 'a'\nowners = []\n"), "OK");
  EXPECT_THAT(Message("id = 'a'\nowners = ['b', 3]\n"), HasSubstr("owners"));
}

TEST(TrainingPlanTest, BrokenTomlNamesTheLine) {
  EXPECT_THAT(Message("id = 'a'\nsteps == 3\n"), HasSubstr("[plan.toml:2]"));
}

TEST(TrainingPlanTest, DescriptionShowsEveryNumberAndWhatIsPublished) {
  const auto plan = ParseTrainingPlan("id = 'a'\nsteps = 123\n", "plan.toml");
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(DescribePlan(*plan),
              AllOf(HasSubstr("plan a"), HasSubstr("steps              123"),
                    HasSubstr("router row and bias")));
}

}  // namespace
}  // namespace motet::coordinator
