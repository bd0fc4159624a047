// SPDX-License-Identifier: Apache-2.0
// Ours, and cp, in the rows of compositions: a base and seven experts of
// 100 MB each, as signed packages. Every round is a process of its own, so
// that its memory is.
//
//   compose_bench --out FOLDER    a player
//
// The packages are made in FOLDER by the first round that finds none. Tasks,
// in seconds: compose (packages opened with every check, plan, load, lock
// written: what `motet compose apply` does behind the registry), export (the
// composition loaded and written as a Hugging Face folder), cp (the same
// packages' weights by cp -r) and cp_synced (and on the disk, as ours is when
// it returns). compose_memory and export_memory: the most that the process
// held, in MiB.
#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compose/assemble/export.h"
#include "compose/assemble/verify.h"
#include "compose/model/tokenizer.h"
#include "compose/package/package_folder.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

namespace fs = std::filesystem;
using package::NamedTensor;

constexpr int kExperts = 7;

// An FFN of 100.7 MB.
model::ModelConfig Shape(int64_t vocabulary) {
  model::ModelConfig config;
  config.vocabulary = vocabulary;
  config.width = 512;
  config.layers = 8;
  config.heads = config.kv_heads = 8;
  config.head_dim = 64;
  config.ffn_width = 2048;
  config.max_positions = 2048;
  return config;
}

// What signs: the federation's authority and members' keys.
class Maker {
 public:
  explicit Maker(std::string out) : out_(std::move(out)) {}

  // Everything, whole or not at all.
  absl::Status Make() {
    if (proto::Exists(out_ + "/authority.pem")) return absl::OkStatus();
    MOTET_RETURN_IF_ERROR(proto::MakeDirectories(out_));
    MOTET_ASSIGN_OR_RETURN(authority_, proto::MakeAuthority("bench"));
    model::TokenizerTrainOptions train;
    train.vocabulary = 300;
    MOTET_ASSIGN_OR_RETURN(
        tokenizer_,
        model::TrainTokenizer({"any voice can be silent in a choir\n"}, train));
    MOTET_ASSIGN_OR_RETURN(const auto parsed,
                           model::Tokenizer::Parse(tokenizer_));
    config_ = Shape(parsed->vocabulary());
    MOTET_RETURN_IF_ERROR(Base());
    for (int e = 0; e < kExperts; ++e) MOTET_RETURN_IF_ERROR(Expert(e));
    return proto::WriteFileAtomic(out_ + "/authority.pem",
                                  authority_.certificate_pem);
  }

 private:
  math::Tensor Random(const math::Shape& shape, float mean) {
    numbers_.push_back(std::make_unique<std::vector<float>>(shape.size()));
    for (float& x : *numbers_.back()) {
      x = mean + 0.02f * (static_cast<float>(random_() >> 8) * 0x1p-23f - 1);
    }
    return {numbers_.back()->data(), math::DType::kF32, math::Device::kCpu,
            shape};
  }

  absl::StatusOr<package::OpenedPackage> Build(const std::string& name,
                                               package::PackageContent content,
                                               const proto::SpiffeId& id) {
    v1::ExpertManifest& m = content.manifest;
    v1::ModelShape& shape = *m.mutable_model();
    shape.set_block("olmo2");
    shape.set_layers(static_cast<uint32_t>(config_.layers));
    shape.set_width(static_cast<uint32_t>(config_.width));
    shape.set_ffn_width(static_cast<uint32_t>(config_.ffn_width));
    shape.set_vocabulary(static_cast<uint32_t>(config_.vocabulary));
    content.readme = "# " + name + "\n";
    MOTET_ASSIGN_OR_RETURN(const proto::KeyPair key, proto::MakeKey());
    MOTET_ASSIGN_OR_RETURN(const std::string request,
                           proto::MakeRequest(key.private_pem, id));
    MOTET_ASSIGN_OR_RETURN(const auto inspected,
                           proto::InspectRequest(request));
    MOTET_ASSIGN_OR_RETURN(
        const std::string certificate,
        proto::Issue(authority_, request, inspected.fingerprint));
    const std::string folder = absl::StrCat(out_, "/", name);
    std::error_code ignored;
    fs::remove_all(folder, ignored);  // of one that was interrupted
    MOTET_RETURN_IF_ERROR(
        package::BuildPackage(folder, content, key.private_pem, certificate));
    numbers_.clear();
    return package::OpenPackage(folder, authority_.certificate_pem);
  }

  absl::Status Base() {
    package::PackageContent content;
    v1::ExpertManifest& m = content.manifest;
    m.set_id("bench/base@1.0.0");
    m.set_kind("base");
    m.set_title("Base");
    m.mutable_domain()->set_domain("public");
    m.mutable_domain()->set_tokens(1000);
    m.mutable_training()->set_method("dense");
    model::ModelWeights weights;
    model::VisitWeights(
        config_, weights,
        [&](const std::string& name, const math::Shape& shape, math::Tensor&) {
          content.weights.push_back(
              {name, Random(shape, shape.rank == 1 ? 1 : 0)});
        });
    std::vector<NamedTensor> anchor;
    for (int64_t l = 0; l < config_.layers; ++l) {
      const std::string layer = absl::StrCat("layers.", l, ".");
      math::Tensor identity = Random({config_.width, config_.width}, 0);
      for (int64_t i = 0; i < identity.size(); ++i) {
        identity.f32()[i] = i % (config_.width + 1) == 0 ? 1.0f : 0.0f;
      }
      anchor.push_back({layer + "mean", Random({config_.width}, 0)});
      anchor.push_back({layer + "covariance", identity});
      anchor.push_back({layer + "precision", identity});
    }
    content.tensor_files["anchor.safetensors"] = std::move(anchor);
    content.files["config.json"] = model::WriteConfig(config_);
    content.files["tokenizer.json"] = tokenizer_;
    content.files["public.jsonl"] = "{\"text\": \"public text\"}\n";
    MOTET_ASSIGN_OR_RETURN(
        base_, Build("base", content, {"bench", "coordinator", "", "main"}));
    return absl::OkStatus();
  }

  absl::Status Expert(int e) {
    package::PackageContent content;
    v1::ExpertManifest& m = content.manifest;
    const std::string owner = absl::StrCat("owner", e, ".example");
    m.set_id(owner + "/expert@1.0.0");
    m.set_kind("ffn");
    m.set_title("Expert");
    *m.mutable_base() = package::ReferenceTo(base_);
    m.set_frozen_sha256(package::FrozenDigest(base_.manifest));
    m.mutable_domain()->set_domain(absl::StrCat("domain", e));
    m.mutable_domain()->set_documents(10);
    m.mutable_training()->set_method("flexolmo");
    v1::AnchoredStatistics& a = *m.mutable_domain()->mutable_anchored();
    a.set_smoothing(0.8);
    a.set_gate_quantile(0.97);
    for (int64_t l = 0; l < config_.layers; ++l) {
      v1::LayerStatistics& s = *a.add_layers();
      const math::Tensor mean = Random({config_.width}, 0);
      for (int64_t c = 0; c < config_.width; ++c) {
        s.add_base_mean(mean.f32()[c]);
        s.add_pair_mean(mean.f32()[c]);
      }
      s.set_threshold(10);
      const std::string layer = absl::StrCat("layers.", l, ".");
      const math::Shape up = {config_.ffn_width, config_.width};
      const math::Shape down = {config_.width, config_.ffn_width};
      content.weights.push_back(
          {layer + "mlp.gate_proj.weight", Random(up, 0)});
      content.weights.push_back({layer + "mlp.up_proj.weight", Random(up, 0)});
      content.weights.push_back(
          {layer + "mlp.down_proj.weight", Random(down, 0)});
      content.weights.push_back(
          {layer + "router.row", Random({config_.width}, 0)});
      content.weights.push_back({layer + "router.bias", Random({1}, 0)});
    }
    return Build(absl::StrCat("expert", e), std::move(content),
                 {"bench", "node", owner, "one"})
        .status();
  }

  const std::string out_;
  std::mt19937 random_{5};
  std::vector<std::unique_ptr<std::vector<float>>> numbers_;
  proto::Authority authority_;
  std::string tokenizer_;
  model::ModelConfig config_;
  package::OpenedPackage base_;
};

absl::StatusOr<assemble::Part> Open(const std::string& folder,
                                    const std::string& authority) {
  MOTET_ASSIGN_OR_RETURN(package::OpenedPackage opened,
                         package::OpenPackage(folder, authority));
  assemble::Part part;
  part.folder = folder;
  part.manifest = std::move(opened.manifest);
  part.manifest_sha256 = opened.manifest_sha256;
  return part;
}

// As `motet compose apply` does it, from packages that lie on this disk.
absl::Status Compose(const std::string& out, const std::string& router) {
  MOTET_ASSIGN_OR_RETURN(const std::string authority,
                         proto::ReadFile(out + "/authority.pem", 1 << 20));
  MOTET_ASSIGN_OR_RETURN(const assemble::Part base,
                         Open(out + "/base", authority));
  assemble::Recipe recipe;
  recipe.name = "bench";
  recipe.router.kind = router;
  std::vector<assemble::Part> experts(kExperts);
  std::vector<absl::Status> failed(kExperts);
  assemble::InParallel(kExperts, [&](size_t e) {
    auto part = Open(absl::StrCat(out, "/expert", e), authority);
    failed[e] = part.status();
    if (part.ok()) experts[e] = *std::move(part);
  });
  for (int e = 0; e < kExperts; ++e) {
    MOTET_RETURN_IF_ERROR(failed[e]);
    recipe.experts.push_back(experts[e].manifest.id());
  }
  const assemble::Plan plan = assemble::MakePlan(recipe, base, experts);
  if (!plan.problems.empty()) {
    return absl::InternalError(plan.problems.front());
  }
  std::map<std::string, std::string> folders = {
      {base.manifest_sha256, base.folder}};
  std::string table;
  for (const assemble::Part& part : experts) {
    folders[part.manifest_sha256] = part.folder;
  }
  for (const auto& [digest, folder] : folders) {
    absl::StrAppend(&table, digest, " ", folder, "\n");
  }
  const auto folder_of =
      [&](const std::string& digest) -> absl::StatusOr<std::string> {
    return folders.at(digest);
  };
  assemble::LoadOptions load;
  load.verify = assemble::Verify::kFresh;
  MOTET_RETURN_IF_ERROR(
      assemble::LoadComposition(plan.lock, folder_of, load).status());
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
      absl::StrCat(out, "/", router, ".folders"), table));
  return proto::WriteFileAtomic(absl::StrCat(out, "/", router, ".lock"),
                                assemble::WriteLock(plan.lock));
}

absl::Status Export(const std::string& out) {
  const std::string path = out + "/topk.lock";
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, 1 << 20));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         assemble::ParseLock(text, path));
  MOTET_ASSIGN_OR_RETURN(const std::string table,
                         proto::ReadFile(out + "/topk.folders", 1 << 20));
  const auto folder_of =
      [&](const std::string& digest) -> absl::StatusOr<std::string> {
    const size_t at = table.find(digest) + digest.size() + 1;
    return table.substr(at, table.find('\n', at) - at);
  };
  assemble::LoadOptions load;
  load.verify = assemble::Verify::kLater;
  MOTET_ASSIGN_OR_RETURN(const auto composition,
                         assemble::LoadComposition(lock, folder_of, load));
  return assemble::ExportHuggingFace(*composition, out + "/exported").status();
}

absl::Status Copy(const std::string& out, bool synced) {
  const std::string to = out + "/copied";
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(to));
  std::vector<std::string> words = {"cp"};
  for (int e = -1; e < kExperts; ++e) {
    const std::string name = e < 0 ? "base" : absl::StrCat("expert", e);
    MOTET_RETURN_IF_ERROR(proto::MakeDirectories(absl::StrCat(to, "/", name)));
    words = {"cp", absl::StrCat(out, "/", name, "/weights.safetensors"),
             absl::StrCat(to, "/", name)};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t pid = 0;
    int status = -1;
    if (posix_spawnp(&pid, "cp", nullptr, nullptr, argv.data(), environ) != 0 ||
        waitpid(pid, &status, 0) != pid || status != 0) {
      return absl::InternalError("cp ended with an error");
    }
  }
  if (!synced) return absl::OkStatus();
  const int fd = open(to.c_str(), O_RDONLY);
  const bool good = fd >= 0 && syncfs(fd) == 0;
  close(fd);
  return good ? absl::OkStatus() : absl::InternalError("no sync");
}

// The task in a child; its seconds, or its memory.
absl::StatusOr<double> RunOnce(const std::string& out, std::string task) {
  if (!proto::Exists(out + "/topk.lock")) {
    MOTET_RETURN_IF_ERROR(Maker(out).Make());
    MOTET_RETURN_IF_ERROR(Compose(out, "topk"));
  }
  const bool memory = absl::EndsWith(task, "_memory");
  task = std::string(absl::StripSuffix(task, "_memory"));
  std::error_code ignored;
  fs::remove_all(out + "/exported", ignored);
  fs::remove_all(out + "/copied", ignored);
  sync();  // what was removed is none of the next round's work
  int status = -1;
  rusage usage = {};
  const double seconds = Seconds([&] {
    const pid_t pid = fork();
    if (pid == 0) {
      const absl::Status done = task == "compose" ? Compose(out, "anchored")
                                : task == "export"
                                    ? Export(out)
                                    : Copy(out, task == "cp_synced");
      if (!done.ok()) std::fprintf(stderr, "%s\n", done.ToString().c_str());
      _exit(done.ok() ? 0 : 1);
    }
    wait4(pid, &status, 0, &usage);
  });
  fs::remove_all(out + "/exported", ignored);
  fs::remove_all(out + "/copied", ignored);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(absl::StrCat(task, " ended with ", status));
  }
  return memory ? static_cast<double>(usage.ru_maxrss) / 1024 : seconds;
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) {
  const std::string out = motet::bench::Option(argc, argv, "out", "");
  motet::bench::Player player;
  for (const char* task : {"compose", "compose_memory", "export",
                           "export_memory", "cp", "cp_synced"}) {
    player.Add(task, [&out, task] { return motet::bench::RunOnce(out, task); });
  }
  // What the rows ask for.
  player.Add("compose_allowed", [] { return 1.0; });
  player.Add("compose_memory_allowed", [] { return 200.0; });
  player.Add("export_memory_allowed", [] { return 1024.0; });
  return player.Run();
}
