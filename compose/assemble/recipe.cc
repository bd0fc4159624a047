// SPDX-License-Identifier: Apache-2.0
// TOML in, Recipe out. Keys are one table a section: parsing, the check for
// unknown keys and the list in the error message all walk it. Every problem
// of a recipe is told at once, each with its line.
#include "compose/assemble/recipe.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compose/assemble/merge_kinds.h"
#include "compose/assemble/method.h"
#include "compose/math/operators.h"
#include "proto/error.h"
#include "proto/identity.h"
#include "proto/limits.h"
#include "toml++/toml.h"

namespace motet::assemble {
namespace {

// Takes one value; returns what was wanted when it does not fit.
using Take = std::function<std::string(const toml::node&)>;
struct Key {
  std::string name;
  Take take;
};

class Reader {
 public:
  explicit Reader(std::string where) : where_(std::move(where)) {}

  void Section(const toml::table& table, const std::string& prefix,
               const std::vector<Key>& keys) {
    for (const auto& [key, node] : table) {
      const std::string name(key.str());
      const Key* known = nullptr;
      for (const Key& k : keys) {
        if (k.name == name) known = &k;
      }
      if (known == nullptr) {
        std::vector<std::string> names;
        for (const Key& k : keys) names.push_back(k.name);
        Problem(node, absl::StrCat("an unknown key \"", prefix, name, "\""),
                absl::StrCat("one of ", absl::StrJoin(names, ", ")),
                "correct its spelling or remove it");
        continue;
      }
      const std::string want = known->take(node);
      if (!want.empty()) {
        Problem(
            node,
            absl::StrCat("a value of \"", prefix, name, "\" that does not fit"),
            want);
      }
    }
  }

  void Problem(const toml::node& node, const std::string& got,
               const std::string& want, const std::string& hint = "") {
    problems_.push_back(
        std::string(proto::Invalid(absl::StrCat("recipe ", where_, " line ",
                                                node.source().begin.line),
                                   got, want, hint)
                        .message()));
  }
  void Missing(const std::string& key, const std::string& example) {
    problems_.push_back(std::string(
        proto::Invalid(absl::StrCat("recipe ", where_),
                       absl::StrCat("no key \"", key, "\""), example)
            .message()));
  }
  absl::Status status() const {
    if (problems_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(problems_, "\n"));
  }

 private:
  std::string where_;
  std::vector<std::string> problems_;
};

// "owner/name" or "owner/name@version"; anything else is refused here, so
// that no later step looks for it.
bool IsExpertId(const std::string& id) {
  if (static_cast<int64_t>(id.size()) > proto::kMaxIdLength) return false;
  const std::vector<std::string> at = absl::StrSplit(id, '@');
  const std::vector<std::string> parts = absl::StrSplit(at[0], '/');
  return at.size() <= 2 && parts.size() == 2 &&
         proto::CheckName("owner", parts[0]).ok() &&
         proto::CheckName("name", parts[1]).ok() &&
         (at.size() == 1 || !at[1].empty());
}

std::string TakeExperts(const toml::node& node,
                        std::vector<std::string>& experts,
                        const char* what = "experts") {
  const std::string want =
      absl::StrCat("a list of ", what,
                   " as \"owner/name@version\" or \"owner/name\" (newest)");
  const toml::array* list = node.as_array();
  if (list == nullptr) return want;
  for (const toml::node& item : *list) {
    const auto id = item.value_exact<std::string>();
    if (!id) return want;
    if (!IsExpertId(*id)) return absl::StrCat(want, ", not \"", *id, "\"");
    experts.push_back(*id);
  }
  return "";
}

Take OneOf(std::string& to, std::vector<std::string> choices) {
  return [&to, choices = std::move(choices)](const toml::node& node) {
    const auto text = node.value_exact<std::string>();
    for (const std::string& choice : choices) {
      if (text == choice) {
        to = choice;
        return std::string();
      }
    }
    return absl::StrCat("\"", absl::StrJoin(choices, "\" or \""), "\"");
  };
}

Take Whole(int& to, int least, int most) {
  return [&to, least, most](const toml::node& node) -> std::string {
    const auto n = node.value_exact<int64_t>();
    if (!n || *n < least || *n > most) {
      return absl::StrCat("a whole number from ", least, " to ", most);
    }
    to = static_cast<int>(*n);
    return "";
  };
}

std::string TakeSmoothing(const toml::node& node, Recipe::Router& router) {
  if (node.value_exact<std::string>() == "prefix") {
    router.prefix_mean = true;
    return "";
  }
  const auto a = node.value<double>();
  if (!a || !(*a >= 0 && *a < 1)) {
    return "a number from 0 to below 1, or \"prefix\"";
  }
  router.smoothing = *a;
  return "";
}

// A number above 0, at most `most`.
Take Positive(double& to, double most) {
  return [&to, most](const toml::node& node) -> std::string {
    const auto x = node.value<double>();
    if (!x || !(*x > 0 && *x <= most)) {
      return absl::StrCat("a number above 0, at most ", most);
    }
    to = *x;
    return "";
  };
}

template <typename Flag>
Take Truth(Flag& to) {
  return [&to](const toml::node& node) -> std::string {
    const auto flag = node.value_exact<bool>();
    if (!flag) return "true or false";
    to = *flag;
    return "";
  };
}

// A router's options, and which kinds each belongs to.
std::vector<Key> RouterKeys(Recipe::Router& r) {
  return {{"kind", OneOf(r.kind, {"anchored", "topk", "topp", "switch", "soft",
                                  "sample"})},
          {"k", Whole(r.k, 1, 64)},
          {"null_experts", Whole(r.null_experts, 0, 64)},
          {"shared", Truth(r.shared)},
          {"top_p", Positive(r.top_p, 1)},
          {"renormalise", Truth(r.renormalise)},
          {"most_active", Whole(r.most_active, 1, math::kMaxExperts)},
          {"smoothing",
           [&r](const toml::node& node) { return TakeSmoothing(node, r); }},
          {"mixing", OneOf(r.mixing, {"pair", "switch"})},
          {"gate", Truth(r.gate)},
          {"quantile", Positive(r.quantile, 1)},
          {"gate_rank", Whole(r.gate_rank, 0, 4096)},
          {"covariance", OneOf(r.covariance, {"public", "pooled"})},
          {"temperature", Positive(r.temperature, 100)},
          {"ridge", Positive(r.ridge, 1e6)}};
}
struct Fit {
  const char* key;
  std::set<std::string> kinds;
  const char* why = "";
};
// k is anchored's too: that of an export.
const Fit kFits[] = {{"k", {"anchored", "topk"}},
                     {"null_experts", {"topk"}},
                     {"shared",
                      {"topk"},
                      ", which chooses k beside the base: anchored pairs "
                      "have it, other kinds take what their weights say"},
                     {"top_p", {"topp"}},
                     {"renormalise", {"topk", "topp"}},
                     {"most_active", {"topk", "topp"}},
                     {"smoothing", {"anchored"}},
                     {"mixing", {"anchored"}},
                     {"gate", {"anchored"}},
                     {"quantile", {"anchored"}},
                     {"gate_rank", {"anchored"}},
                     {"covariance", {"anchored"}},
                     {"temperature", {"sample"}}};

// The router kinds of a method, its default first.
std::vector<std::string> KindsOf(const std::string& method) {
  if (method == "flexolmo") return {"anchored", "topk", "topp"};
  if (method == "btx") return {"topk", "topp", "switch", "soft", "sample"};
  return {"topk", "topp"};
}

// Sections of other methods.
void CheckSections(const toml::table& table, const Recipe& recipe,
                   Reader& reader) {
  std::map<std::string, std::vector<std::string>> owners;
  std::set<std::string> own;
  for (const Method& method : Methods()) {
    for (const char* section : method.sections) {
      owners[section].push_back(absl::StrCat("\"", method.name, "\""));
      if (method.name == recipe.method) own.insert(section);
    }
  }
  for (const auto& [section, methods] : owners) {
    const toml::node* node = table.get(section);
    if (node == nullptr || own.contains(section)) continue;
    reader.Problem(
        *node, absl::StrCat("a section [", section, "]"),
        absl::StrCat("none, with method = \"", recipe.method,
                     "\": it belongs to ", absl::StrJoin(methods, " and ")),
        "remove it or change the method");
  }
}

// Options that have no meaning for the recipe's method or router kind. Also
// gives methods their own defaults.
void CheckFits(const toml::table& table, Recipe& recipe, Reader& reader) {
  const toml::table* section = table["router"].as_table();
  const bool dume = recipe.method == "dume";
  const bool bam = recipe.method == "bam";
  const std::vector<std::string> kinds = KindsOf(recipe.method);
  if (section == nullptr || !section->contains("kind")) {
    recipe.router.kind = kinds[0];
  }
  if (section == nullptr || !section->contains("k")) {
    if (recipe.router.shared) --recipe.router.k;  // the base is the other one
    recipe.router.k *= recipe.btx.chunks;
  }
  if (bam && (section == nullptr || !section->contains("k"))) {
    recipe.router.k = 1;
  }
  const Method* method = FindMethod(recipe.method);
  if (section == nullptr || method == nullptr || !method->router) return;
  const std::string& kind = recipe.router.kind;
  const auto unfitting = [&](const char* key, const std::string& want) {
    reader.Problem(
        *section->get(key),
        absl::StrCat("\"router.", key, "\" with method \"", recipe.method,
                     "\" and router.kind \"", kind, "\""),
        want, "remove it");
  };
  if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
    unfitting("kind", absl::StrCat("\"", absl::StrJoin(kinds, "\" or \""),
                                   "\" with method \"", recipe.method, "\""));
  }
  if (dume && recipe.router.null_experts > 0) {
    unfitting("null_experts",
              "none with method \"dume\", which solves rows "
              "of experts only");
  }
  if (!dume && section->contains("ridge")) {
    unfitting("ridge", "it with method \"dume\" only");
  }
  for (const Fit& fit : kFits) {
    if (!section->contains(fit.key) || fit.kinds.contains(kind)) continue;
    unfitting(fit.key,
              absl::StrCat("it with router.kind \"",
                           absl::StrJoin(fit.kinds, "\" or \""), "\" only",
                           fit.why));
  }
  if (!recipe.router.gate && recipe.router.gate_rank > 0 &&
      kind == "anchored") {
    unfitting("gate_rank", "none with gate = false");
  }
  if (recipe.router.null_experts > 0 && recipe.router.renormalise == false) {
    unfitting("renormalise",
              "true or none with null_experts, whose weights sum to 1");
  }
}

Take Number(std::optional<double>& to) {
  return [&to](const toml::node& node) -> std::string {
    to = node.value<double>();
    return to && std::isfinite(*to) ? "" : "a number";
  };
}

Take Seed(uint64_t& to) {
  return [&to](const toml::node& node) -> std::string {
    const auto seed = node.value_exact<int64_t>();
    if (!seed || *seed < 0) return "a whole number from 0";
    to = static_cast<uint64_t>(*seed);
    return "";
  };
}

std::vector<Key> BamKeys(Recipe::Bam& bam) {
  return {{"kv", OneOf(bam.kv, {"experts", "shared"})},
          {"rows", OneOf(bam.rows, {"means", "random"})},
          {"seed", Seed(bam.seed)}};
}

std::vector<Key> BtxKeys(Recipe::Btx& btx) {
  return {{"rows", OneOf(btx.rows, {"means", "random"})},
          {"chunks",
           [&btx](const toml::node& node) -> std::string {
             const auto n = node.value_exact<int64_t>();
             if (!n || (*n != 1 && *n != 2 && *n != 4 && *n != 8)) {
               return "1, 2, 4 or 8";
             }
             btx.chunks = static_cast<int>(*n);
             return "";
           }},
          {"seed", Seed(btx.seed)}};
}

Take Files(std::vector<std::string>& to) {
  return [&to](const toml::node& node) -> std::string {
    const std::string want = "a list of .jsonl files";
    const toml::array* list = node.as_array();
    if (list == nullptr || list->empty()) return want;
    for (const toml::node& item : *list) {
      const auto path = item.value_exact<std::string>();
      if (!path || path->empty()) return want;
      to.push_back(*path);
    }
    return "";
  };
}

template <typename To>
Take AtLeastZero(To& to, double most) {
  return [&to, most](const toml::node& node) -> std::string {
    const auto x = node.value<double>();
    if (!x || !(*x >= 0 && *x <= most)) {
      return absl::StrCat("a number from 0 to ", most);
    }
    to = *x;
    return "";
  };
}

Take WholeIf(std::optional<int>& to, int least, int most) {
  return [&to, least, most](const toml::node& node) {
    int n = 0;
    std::string want = Whole(n, least, most)(node);
    if (want.empty()) to = n;
    return want;
  };
}

std::vector<Key> TuningKeys(Recipe::Tuning& t) {
  constexpr int kMost = 1000000000;
  return {{"data", Files(t.data)},
          {"steps", Whole(t.steps, 1, kMost)},
          {"learning_rate", Positive(t.learning_rate, 1)},
          {"warmup_steps", WholeIf(t.warmup_steps, 0, kMost)},
          {"batch_sequences", Whole(t.batch_sequences, 1, 65536)},
          {"sequence_tokens", Whole(t.sequence_tokens, 2, 65536)},
          {"k", WholeIf(t.k, 1, 64)},
          {"router_z_weight", AtLeastZero(t.router_z_weight, 1)},
          {"load_balance_weight", AtLeastZero(t.load_balance_weight, 10)},
          {"weight_decay", AtLeastZero(t.weight_decay, 1)},
          {"seed", Seed(t.seed)},
          {"narrowed", OneOf(t.narrowed, {"untuned", "tuned"})},
          {"proxy", Truth(t.proxy)},
          {"proxy_documents", Whole(t.proxy_documents, 1, kMost)}};
}

// What [tuning] asks of the rest.
void CheckTuning(const toml::table& table, const Recipe& recipe,
                 Reader& reader) {
  const toml::table* section = table["tuning"].as_table();
  if (section == nullptr) return;
  const std::string& kind = recipe.router.kind;
  const bool proxy = recipe.tuning->proxy;
  if (!section->contains("data") && !proxy) {
    reader.Missing("tuning.data", "data = [\"proxy.jsonl\"], the text to tune "
                                  "the routers on, or proxy = true");
  }
  if (!proxy && section->contains("proxy_documents")) {
    reader.Problem(*section->get("proxy_documents"),
                   "\"tuning.proxy_documents\" without proxy",
                   "it with proxy = true", "remove it");
  }
  if (kind == "anchored") {
    reader.Problem(*section, "a section [tuning] with router.kind \"anchored\"",
                   "router.kind \"topk\" or \"topp\", whose rows it tunes",
                   "set router.kind or remove the section");
  } else if (kind != "topk" && section->contains("k")) {
    reader.Problem(*section->get("k"),
                   absl::StrCat("\"tuning.k\" with router.kind \"", kind, "\""),
                   "it with router.kind \"topk\" only", "remove it");
  }
}

std::vector<Key> MergeKeys(Recipe::Merge& merge) {
  std::vector<std::string> kinds;
  for (const MergeKindRow& row : MergeKinds()) kinds.emplace_back(row.name);
  return {
      {"kind", OneOf(merge.kind, std::move(kinds))},
      {"weights",
       [&merge](const toml::node& node) -> std::string {
         const std::string want = "a list of numbers, one an expert";
         const toml::array* list = node.as_array();
         if (list == nullptr || list->empty()) return want;
         for (const toml::node& item : *list) {
           const auto weight = item.value<double>();
           if (!weight || !std::isfinite(*weight)) return want;
           merge.weights.push_back(*weight);
         }
         return "";
       }},
      {"lambda", Number(merge.lambda)},
      {"density", Number(merge.density)},
      {"ratio", Number(merge.ratio)},
      {"epsilon", Number(merge.epsilon)},
      {"t", Number(merge.t)},
      {"seed",
       [&merge](const toml::node& node) -> std::string {
         const auto seed = node.value_exact<int64_t>();
         if (!seed || *seed < 0) return "a whole number from 0";
         merge.seed = static_cast<uint64_t>(*seed);
         return "";
       }},
  };
}

std::vector<Key> EnsembleKeys(Recipe::Ensemble& ensemble) {
  return {{"weights",
           OneOf(ensemble.weights, {"bayes", "uniform", "prior", "centroid"})},
          {"top_k", Whole(ensemble.top_k, 1, math::kMaxExperts)},
          {"base", Truth(ensemble.base)},
          {"ffn", OneOf(ensemble.ffn, {"trained", "pair", "alone"})},
          {"prior_text",
           [&ensemble](const toml::node& node) -> std::string {
             const auto path = node.value_exact<std::string>();
             if (!path || path->empty()) return "a file of documents (.jsonl)";
             ensemble.prior_text = *path;
             return "";
           }},
          {"temperature", [&ensemble](const toml::node& node) -> std::string {
             const auto x = node.value<double>();
             if (!x || !(*x > 0 && *x <= 100)) {
               return "a number above 0, at most 100";
             }
             ensemble.temperature = x;
             return "";
           }}};
}

std::vector<Key> RetrieverKeys(Recipe::Retriever& retriever) {
  return {{"similarity", OneOf(retriever.similarity, {"dot", "cosine"})},
          {"aggregate", OneOf(retriever.aggregate, {"mean", "max", "weighted"})},
          {"gate", Truth(retriever.gate)},
          {"pilots", [&retriever](const toml::node& node) {
             return TakeExperts(node, retriever.pilots, "pilots");
           }}};
}

}  // namespace

absl::StatusOr<Recipe> ParseRecipe(const std::string& toml,
                                   const std::string& where) {
  if (static_cast<int64_t>(toml.size()) > proto::kMaxRecipeBytes) {
    return proto::Invalid(absl::StrCat("recipe ", where),
                          absl::StrCat(toml.size(), " bytes"),
                          absl::StrCat("at most ", proto::kMaxRecipeBytes));
  }
  toml::table table;
  try {
    table = toml::parse(std::string_view(toml));
  } catch (const toml::parse_error& error) {
    return proto::Invalid(
        absl::StrCat("recipe ", where, " line ", error.source().begin.line),
        std::string(error.description()), "TOML",
        "see docs/composition.md for an example");
  }

  Recipe recipe;
  Reader reader(where);
  const std::vector<Key> router = RouterKeys(recipe.router);
  const std::vector<Key> merge = MergeKeys(recipe.merge);
  const std::vector<Key> btx = BtxKeys(recipe.btx);
  const std::vector<Key> bam = BamKeys(recipe.bam);
  Recipe::Tuning tuning_given;
  const std::vector<Key> tuning = TuningKeys(tuning_given);
  const std::vector<Key> ensemble = EnsembleKeys(recipe.ensemble);
  const std::vector<Key> retriever = RetrieverKeys(recipe.retriever);
  const auto section = [&reader](const char* name,
                                 const std::vector<Key>& keys) {
    return Key{name, [&, name](const toml::node& node) -> std::string {
                 const toml::table* table = node.as_table();
                 if (table == nullptr) {
                   return absl::StrCat("a section [", name, "]");
                 }
                 reader.Section(*table, absl::StrCat(name, "."), keys);
                 return "";
               }};
  };
  std::vector<std::string> methods;
  for (const Method& method : Methods()) methods.emplace_back(method.name);
  const std::vector<Key> top = {
      {"name",
       [&](const toml::node& node) -> std::string {
         const auto name = node.value_exact<std::string>();
         if (!name || !proto::CheckName("name", *name).ok()) {
           return "at most 63 of a-z, 0-9, '.' and '-', first and last a "
                  "letter or digit";
         }
         recipe.name = *name;
         return "";
       }},
      {"method", OneOf(recipe.method, methods)},
      {"experts",
       [&](const toml::node& node) {
         return TakeExperts(node, recipe.experts);
       }},
      section("router", router),
      section("bam", bam),
      section("btx", btx),
      {"tuning",
       [&](const toml::node& node) -> std::string {
         const toml::table* section = node.as_table();
         if (section == nullptr) return "a section [tuning]";
         reader.Section(*section, "tuning.", tuning);
         recipe.tuning = tuning_given;
         return "";
       }},
      section("merge", merge),
      section("ensemble", ensemble),
      section("retriever", retriever),
  };
  reader.Section(table, "", top);
  CheckSections(table, recipe, reader);
  CheckFits(table, recipe, reader);
  CheckTuning(table, recipe, reader);
  if (!table.contains("name")) {
    reader.Missing("name", "name = \"demo\", the composition's name");
  }
  if (!table.contains("experts")) {
    reader.Missing("experts", "experts = [\"owner/name@version\", ...]");
  }
  MOTET_RETURN_IF_ERROR(reader.status());
  return recipe;
}

}  // namespace motet::assemble
