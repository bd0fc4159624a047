// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/federation.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <random>

namespace motet::testing {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> Words(const std::string& domain) {
  if (domain == "code") {
    return {"int",   "void", "return", "struct", "template", "class", "const",
            "auto",  "vector", "size", "begin",  "end",      "include"};
  }
  if (domain == "law") {
    return {"licence", "party",   "shall",     "terms", "copyright", "holder",
            "notice",  "granted", "agreement", "court", "herein",    "damages"};
  }
  return {"the",  "river", "a",     "mountain", "sun",  "walks", "sea",
          "bird", "over",  "under", "green",    "song", "wind",  "stone"};
}

std::string Shown(const std::vector<std::string>& arguments,
                  const Result& result) {
  std::string text;
  for (const std::string& argument : arguments) text += argument + " ";
  return text + "\nexit code " + std::to_string(result.code) + "\n" +
         result.out + result.err;
}

}  // namespace

std::string Sentences(const std::string& domain, int documents, int seed) {
  // Not std::uniform_int_distribution: its numbers differ between libraries.
  std::mt19937 random(seed);
  const std::vector<std::string> words = Words(domain);
  std::string text;
  for (int d = 0; d < documents; ++d) {
    text += "{\"text\": \"";
    for (int w = 0; w < 60; ++w) {
      text += (w == 0 ? "" : " ") + words[random() % words.size()];
    }
    text += ".\"}\n";
  }
  return text;
}

void ChangeTensor(const std::string& path, const std::string& tensor,
                  const std::function<float(float, size_t)>& change) {
  std::string bytes = ReadText(path);
  uint64_t header = 0;
  memcpy(&header, bytes.data(), sizeof header);
  const nlohmann::json table = nlohmann::json::parse(bytes.substr(8, header));
  ASSERT_TRUE(table.contains(tensor)) << tensor;
  ASSERT_EQ(table[tensor]["dtype"], "F32");
  const size_t from = table[tensor]["data_offsets"][0];
  const size_t to = table[tensor]["data_offsets"][1];
  for (size_t at = from; at < to; at += sizeof(float)) {
    float value;
    memcpy(&value, bytes.data() + 8 + header + at, sizeof value);
    value = change(value, at);
    memcpy(bytes.data() + 8 + header + at, &value, sizeof value);
  }
  WriteText(path, bytes);
}

Federation::Federation()
    : folder_(NewFolder("federation")),
      registry_port_(FreePort()),
      coordinator_port_(FreePort()) {
  while (coordinator_port_ == registry_port_) coordinator_port_ = FreePort();
  fs::create_directories(Path("logs"));
}

Federation::~Federation() {
  nodes_.clear();
  daemon_.Kill();
  registry_.Kill();
  if (!::testing::Test::HasFailure()) fs::remove_all(folder_);
}

std::string Federation::MakeBranch(const std::string& name,
                                   float factor) const {
  const std::string folder = Path(name);
  std::filesystem::create_directories(folder);
  const std::string base = home() + "/base/";
  for (const char* file : {"config.json", "tokenizer.json"}) {
    std::filesystem::copy_file(base + file, folder + "/" + file);
  }
  std::filesystem::copy_file(base + "weights.safetensors",
                             folder + "/model.safetensors");
  ChangeTensor(folder + "/model.safetensors", kTunedTensor,
               [&](float x, size_t) { return x * factor; });
  return folder;
}

void Federation::ImportBranch(const std::string& owner, float factor) const {
  MustMotet({"expert", "import", MakeBranch(owner + "-tuned", factor), "--as",
             owner + ".example/tuned", "--node", Node(owner), "--licence",
             "MIT"});
}

std::string Federation::Path(const std::string& below) const {
  return folder_ + "/" + below;
}

std::string Federation::NodeLog(const std::string& owner) const {
  return ReadText(Path("logs/node-" + owner + ".log"));
}

std::string Federation::registry_address() const {
  return "127.0.0.1:" + std::to_string(registry_port_);
}

std::string Federation::coordinator_address() const {
  return "127.0.0.1:" + std::to_string(coordinator_port_);
}

Environment Federation::environment() const {
  return {{"MOTET_FEDERATION", home()},
          {"OMP_WAIT_POLICY", "passive"},
          {"OMP_NUM_THREADS", "1"}};
}

Result Federation::Motet(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), Program("motet"));
  return Run(arguments, Path("logs"), environment());
}

Result Federation::MotetNode(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), Program("motet-node"));
  return Run(arguments, Path("logs"), environment());
}

Result Federation::MustMotet(std::vector<std::string> arguments) const {
  const Result result = Motet(arguments);
  EXPECT_EQ(result.code, 0) << "motet " << Shown(arguments, result);
  return result;
}

Result Federation::MustMotetNode(std::vector<std::string> arguments) const {
  const Result result = MotetNode(arguments);
  EXPECT_EQ(result.code, 0) << "motet-node " << Shown(arguments, result);
  return result;
}

nlohmann::json Federation::Json(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), {"-o", "json"});
  const Result result = MustMotet(arguments);
  nlohmann::json value = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_FALSE(value.is_discarded()) << Shown(arguments, result);
  return value;
}

Process Federation::Daemon(const std::string& program,
                           std::vector<std::string> arguments,
                           const std::string& name,
                           const Environment& added) {
  const std::string port_file = Path("logs/" + name + ".port");
  fs::remove(port_file);
  arguments.insert(arguments.begin(), Program(program));
  arguments.insert(arguments.end(), {"--port-file", port_file});
  Environment all = environment();
  all.insert(added.begin(), added.end());
  Process process(arguments, Path("logs/" + name + ".log"), all);
  WaitUntil(name + " to serve", [&] {
    return !ReadText(port_file).empty() || !process.Alive();
  });
  EXPECT_TRUE(process.Alive()) << ReadText(process.log());
  return process;
}

void Federation::StartRegistry(const Environment& added) {
  registry_ = Daemon("motet-registry",
                     {"run", "--config", home() + "/registry/registry.toml"},
                     "registry", added);
}

void Federation::StartDaemon() {
  daemon_ = Daemon("motet", {"daemon", "run"}, "daemon", {});
}

void Federation::Begin() {
  MustMotet({"init", "demo", "--registry-address", registry_address(),
             "--coordinator-address", coordinator_address()});
  StartRegistry();
  StartDaemon();
}

void Federation::Start() {
  Begin();
  WriteText(Path("public.jsonl"), Sentences("public", 120, 1));
  MustMotet({"corpus", "import", Path("public.jsonl"), "--out",
             Path("public")});
  MustMotet({"base",         "train",
             "--data",       Path("public/train.jsonl"),
             "--width",      "32",
             "--layers",     "2",
             "--heads",      "2",
             "--ffn-width",  "64",
             "--vocabulary", "320",
             "--steps",      "20",
             "--warmup-steps",    "2",
             "--max-positions",   "64",
             "--batch-sequences", "4",
             "--sequence-tokens", "32",
             "--anchor-tokens",   "1024",
             "--public-bytes",    "65536"});
  MustMotet({"base", "publish"});
  if (::testing::Test::HasFailure()) FAIL() << "the federation is not up";
}

void Federation::Join(const std::string& owner, const std::string& terms) {
  const std::string name = owner + ".example";
  const std::string text =
      MustMotetNode({"init", "--federation", "demo", "--owner", name, "--node",
                     "node1", "--dir", Node(owner), "--coordinator",
                     coordinator_address(), "--registry", registry_address()})
          .out;
  const size_t at = text.find("SHA256:");
  ASSERT_NE(at, std::string::npos) << text;
  MustMotet({"member", "approve", Node(owner) + "/request.pem",
             "--fingerprint", text.substr(at, 7 + 64)});
  MustMotetNode({"join", "--dir", Node(owner), "--certificate",
                 home() + "/members/" + name + "/node1.pem", "--authority",
                 home() + "/ca/ca.pem"});
  WriteText(Node(owner) + "/policy.toml",
            "[approve]\n"
            "methods = [\"flexolmo\", \"branch\", \"router_retriever\"]\n"
            "publish = [\"ffn weights\", \"router row and bias\", "
            "\"all weights\", \"per-layer means and thresholds\", "
            "\"perplexity of the base on held-out text\", "
            "\"Fisher information\", \"adapter weights\", "
            "\"mean vectors of groups of queries, with counts and reach\"]\n\n"
            "[licence]\nspdx = \"CC-BY-4.0\"\n" +
                terms);
  WriteText(Path(owner + ".jsonl"), Sentences(owner, 120, 2));
  MustMotetNode({"corpus", "import", "--dir", Node(owner),
                 Path(owner + ".jsonl")});
}

void Federation::StartNode(const std::string& owner) {
  nodes_[owner] = Process(
      {Program("motet-node"), "run", "--dir", Node(owner), "--threads", "1"},
      Path("logs/node-" + owner + ".log"), environment());
}

void Federation::Offer(const Plan& plan) {
  const std::string path = Path(plan.id + ".toml");
  WriteText(path, "id = \"" + plan.id + "\"\n" + plan.more +
                      "expert_version = \"" + plan.version + "\"\n" +
                      "steps = " + std::to_string(plan.steps) +
                      "\ncheckpoint_every = " +
                      std::to_string(plan.checkpoint_every) +
                      "\nbatch_sequences = 4\nsequence_tokens = 32\n"
                      "learning_rate = 2e-3\nwarmup_steps = 2\n"
                      "public_fraction = 0.34\nstatistics_tokens = 2048\n");
  MustMotet({"train", "offer", path});
}

nlohmann::json Federation::Job(const std::string& plan) const {
  const nlohmann::json status = Json({"train", "status", plan});
  if (!status.contains("jobs") || status["jobs"].empty()) return nullptr;
  return status["jobs"][0];
}

void Federation::AwaitPublished(const std::string& plan) {
  const nlohmann::json status = Json({"train", "status", plan, "--watch"});
  ASSERT_TRUE(status.contains("jobs")) << status;
  for (const auto& job : status["jobs"]) EXPECT_EQ(job["state"], "published");
}

void Federation::AwaitLog(const std::string& owner, const std::string& text) {
  WaitUntil("\"" + text + "\" in the log of " + owner, [&] {
    return NodeLog(owner).find(text) != std::string::npos ||
           !nodes_[owner].Alive();
  });
  ASSERT_NE(NodeLog(owner).find(text), std::string::npos) << NodeLog(owner);
}

std::vector<std::string> Federation::Packages() const {
  std::vector<std::string> ids;
  for (const auto& package : Json({"expert", "list"})) {
    ids.push_back(package["id"]);
  }
  return ids;
}

}  // namespace motet::testing
