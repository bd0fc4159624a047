// SPDX-License-Identifier: Apache-2.0
// A whole small federation of real processes in a temporary folder: registry,
// coordinator's daemon, owners' nodes, a tiny base, text by a seed. Every
// step is the command that a user would type; what fails is a failure of the
// test, with the command's output. All ends with the object; the folder stays
// when the test has failed.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/harness/process.h"

namespace motet::testing {

// JSON lines of sentences with the domain's own words.
std::string Sentences(const std::string& domain, int documents, int seed);

inline constexpr char kTunedTensor[] = "model.layers.0.mlp.up_proj.weight";
// Changes one F32 tensor of a safetensors file in place.
void ChangeTensor(const std::string& path, const std::string& tensor,
                  const std::function<float(float, size_t)>& change);

struct Plan {
  std::string id = "plan";
  std::string version = "1.0.0";
  int steps = 20;
  int checkpoint_every = 5;
  std::string more;  // lines of TOML
};

class Federation {
 public:
  Federation();
  ~Federation();
  Federation(const Federation&) = delete;
  Federation& operator=(const Federation&) = delete;

  // init, registry, daemon.
  void Begin();
  // The same, and a published base.
  void Start();

  Result Motet(std::vector<std::string> arguments) const;
  Result MotetNode(std::vector<std::string> arguments) const;
  // The same; anything but exit code 0 is a failure of the test.
  Result MustMotet(std::vector<std::string> arguments) const;
  Result MustMotetNode(std::vector<std::string> arguments) const;
  // `motet -o json …`
  nlohmann::json Json(std::vector<std::string> arguments) const;

  void StartRegistry(const Environment& added = {});
  void StartDaemon();
  // Key, approval, certificate, policy, text: the node OWNER.example/node1.
  // TERMS: further lines of the policy's [licence].
  void Join(const std::string& owner, const std::string& terms = "");
  void StartNode(const std::string& owner);
  void Offer(const Plan& plan);
  // The one job of the plan, or null.
  nlohmann::json Job(const std::string& plan) const;
  // Waits for the end of all jobs of the plan; they must be published.
  void AwaitPublished(const std::string& plan);
  // Waits for a line of a node's log.
  void AwaitLog(const std::string& owner, const std::string& text);
  // Ids of the packages that the registry shows.
  std::vector<std::string> Packages() const;

  // The base as somebody's fine-tuned Hugging Face folder, kTunedTensor times
  // FACTOR; and it as OWNER.example/tuned@1.0.0 of an owner who has joined.
  std::string MakeBranch(const std::string& name, float factor) const;
  void ImportBranch(const std::string& owner, float factor) const;

  std::string Path(const std::string& below) const;  // of the whole
  std::string home() const { return Path("federation"); }
  std::string Node(const std::string& owner) const {
    return Path("nodes/" + owner);
  }
  std::string NodeLog(const std::string& owner) const;
  Process& registry() { return registry_; }
  Process& daemon() { return daemon_; }
  Process& node(const std::string& owner) { return nodes_[owner]; }
  int registry_port() const { return registry_port_; }
  int coordinator_port() const { return coordinator_port_; }
  std::string registry_address() const;
  std::string coordinator_address() const;
  Environment environment() const;

 private:
  Process Daemon(const std::string& program,
                 std::vector<std::string> arguments, const std::string& name,
                 const Environment& added);

  std::string folder_;
  int registry_port_ = 0;
  int coordinator_port_ = 0;
  Process registry_;
  Process daemon_;
  std::map<std::string, Process> nodes_;
};

}  // namespace motet::testing
