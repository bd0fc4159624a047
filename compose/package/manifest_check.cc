// SPDX-License-Identifier: Apache-2.0
// What a manifest must say, rule by rule. Every function appends to one list
// and goes on, so that an owner sees all that is wrong at once.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_retrieval.h"
#include "proto/digest.h"
#include "proto/identity.h"
#include "proto/limits.h"
#include "proto/signature.h"

namespace motet::package {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr uint32_t kMaxWidth = 1 << 24;

bool AllOf(absl::string_view text, bool (*test)(unsigned char)) {
  return std::all_of(text.begin(), text.end(),
                     [test](char c) { return test(c); });
}

// digits.digits.digits[-pre], as the registry takes it.
bool IsVersion(absl::string_view version) {
  const std::vector<absl::string_view> halves =
      absl::StrSplit(version, absl::MaxSplits('-', 1));
  const std::vector<absl::string_view> parts = absl::StrSplit(halves[0], '.');
  if (parts.size() != 3) return false;
  for (absl::string_view part : parts) {
    if (part.empty() || part.size() > 9 || !AllOf(part, absl::ascii_isdigit) ||
        (part.size() > 1 && part[0] == '0')) {
      return false;
    }
  }
  return halves.size() == 1 ||
         (!halves[1].empty() && halves[1].size() <= 64 &&
          AllOf(halves[1], [](unsigned char c) {
            return absl::ascii_isalnum(c) || c == '.' || c == '-';
          }));
}

}  // namespace

bool IsPackageId(absl::string_view id) {
  const std::vector<absl::string_view> owner =
      absl::StrSplit(id, absl::MaxSplits('/', 1));
  if (owner.size() != 2 || !proto::CheckName("", owner[0]).ok()) return false;
  const std::vector<absl::string_view> name =
      absl::StrSplit(owner[1], absl::MaxSplits('@', 1));
  return name.size() == 2 && !name[0].empty() && name[0].size() <= 64 &&
         AllOf(name[0],
               [](unsigned char c) {
                 return absl::ascii_islower(c) || absl::ascii_isdigit(c) ||
                        c == '-';
               }) &&
         IsVersion(name[1]) &&
         id.size() <= static_cast<size_t>(proto::kMaxIdLength);
}

namespace {

// 2027-01-31, or with a time in UTC: 2027-01-31T23:59:59[.5]Z.
bool IsDate(absl::string_view text, bool time_required) {
  static constexpr int kDays[] = {31, 29, 31, 30, 31, 30,
                                  31, 31, 30, 31, 30, 31};
  const auto number = [&](size_t at, size_t n, int low, int high) {
    int value = 0;
    const absl::string_view digits = text.substr(at, n);
    return digits.size() == n && AllOf(digits, absl::ascii_isdigit) &&
           absl::SimpleAtoi(digits, &value) && value >= low && value <= high;
  };
  if (text.size() < 10 || text[4] != '-' || text[7] != '-' ||
      !number(0, 4, 1, 9999) || !number(5, 2, 1, 12)) {
    return false;
  }
  int year = 0, month = 0;
  (void)absl::SimpleAtoi(text.substr(0, 4), &year);
  (void)absl::SimpleAtoi(text.substr(5, 2), &month);
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  const int days = month == 2 && !leap ? 28 : kDays[month - 1];
  if (!number(8, 2, 1, days)) return false;
  if (text.size() == 10) return !time_required;
  if (text.size() < 20 || text[10] != 'T' || text[13] != ':' ||
      text[16] != ':' || text.back() != 'Z' || !number(11, 2, 0, 23) ||
      !number(14, 2, 0, 59) || !number(17, 2, 0, 60)) {
    return false;
  }
  const absl::string_view fraction = text.substr(19, text.size() - 20);
  return fraction.empty() ||
         (fraction[0] == '.' && fraction.size() > 1 && fraction.size() <= 10 &&
          AllOf(fraction.substr(1), absl::ascii_isdigit));
}

// Texts are shown on terminals and pages, numbers are computed with: no
// control characters and nothing infinite, anywhere.
void CheckScalars(const Message& message, const std::string& path,
                  Reasons& reasons) {
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  const auto text = [&](const FieldDescriptor* f, const std::string& value) {
    if (std::any_of(value.begin(), value.end(), [](char c) {
          return absl::ascii_iscntrl(static_cast<unsigned char>(c));
        })) {
      reasons.push_back(absl::StrCat(path, f->name(), " is ", Shown(value),
                                     ", want no control characters"));
    }
  };
  const auto number = [&](const FieldDescriptor* f, double value) {
    if (!std::isfinite(value)) {
      reasons.push_back(
          absl::StrCat(path, f->name(), " is ", value, ", want a number"));
      return false;
    }
    return true;
  };
  for (const FieldDescriptor* f : fields) {
    const int n = f->is_repeated() ? reflection->FieldSize(message, f) : 1;
    for (int i = 0; i < n; ++i) {
      bool go_on = true;
      switch (f->cpp_type()) {
        case FieldDescriptor::CPPTYPE_STRING:
          text(f, f->is_repeated()
                      ? reflection->GetRepeatedString(message, f, i)
                      : reflection->GetString(message, f));
          break;
        case FieldDescriptor::CPPTYPE_DOUBLE:
          go_on = number(f, f->is_repeated()
                                ? reflection->GetRepeatedDouble(message, f, i)
                                : reflection->GetDouble(message, f));
          break;
        case FieldDescriptor::CPPTYPE_FLOAT:
          go_on = number(f, f->is_repeated()
                                ? reflection->GetRepeatedFloat(message, f, i)
                                : reflection->GetFloat(message, f));
          break;
        case FieldDescriptor::CPPTYPE_MESSAGE:
          CheckScalars(
              f->is_repeated() ? reflection->GetRepeatedMessage(message, f, i)
                               : reflection->GetMessage(message, f),
              f->is_repeated()
                  ? absl::StrCat(path, f->name(), "[", i, "].")
                  : absl::StrCat(path, f->name(), "."),
              reasons);
          break;
        default:
          break;
      }
      if (!go_on) break;  // once for a list of numbers
    }
  }
}

void CheckShape(const v1::ModelShape& m, const KindRules* kind,
                Reasons& reasons) {
  const bool bert = kind != nullptr && kind->retrieval;
  if (bert ? m.block() != "bert"
           : m.block() != "olmo2" && m.block() != "llama") {
    reasons.push_back(absl::StrCat("model.block is ", Shown(m.block()),
                                   ", want ",
                                   bert ? "bert" : "olmo2 or llama"));
  }
  const auto size = [&](const char* name, uint32_t value, uint32_t most) {
    if (value >= 1 && value <= most) return;
    reasons.push_back(
        absl::StrCat("model.", name, " is ", value, ", want 1 to ", most));
  };
  size("layers", m.layers(), kMaxLayers);
  size("width", m.width(), kMaxWidth);
  size("ffn_width", m.ffn_width(), kMaxWidth);
  size("vocabulary", m.vocabulary(), kMaxWidth);
}

void CheckFileTable(const v1::ExpertManifest& m, Reasons& reasons) {
  if (m.files_size() > proto::kMaxPackageFiles) {
    reasons.push_back(absl::StrCat(m.files_size(), " files, want at most ",
                                   proto::kMaxPackageFiles));
  }
  std::set<std::string> seen;
  uint64_t total = 0;
  for (const v1::FileDigest& file : m.files()) {
    if (!proto::CheckPackagePath("manifest.json", file.path()).ok() ||
        file.path() == "manifest.json" || file.path() == "model.sig") {
      reasons.push_back(absl::StrCat("files has ", Shown(file.path()),
                                     ", want a relative path other than "
                                     "manifest.json and model.sig"));
    }
    if (!seen.insert(file.path()).second) {
      reasons.push_back(absl::StrCat("files has ", Shown(file.path()),
                                     " twice"));
    }
    CheckHex(absl::StrCat("sha256 of ", Shown(file.path())), file.sha256(),
             reasons);
    if (__builtin_add_overflow(total, file.size_bytes(), &total) ||
        total > static_cast<uint64_t>(proto::kMaxPackageBytes)) {
      reasons.push_back(absl::StrCat("files come to more than ",
                                     proto::kMaxPackageBytes, " bytes"));
      total = 0;
    }
  }
  // What a package says of its text is never more than the manifest admits.
  const v1::SecondMoments& moments = m.domain().second_moments();
  const bool says = m.domain().has_second_moments();
  const KindRules* kind = FindKind(m.kind());
  if (says != (seen.count("statistics.safetensors") > 0) ||
      (says && !(kind != nullptr && kind->moments))) {
    reasons.push_back(says ? "domain.second_moments without the file "
                             "statistics.safetensors of an expert"
                           : "files has statistics.safetensors, which "
                             "domain.second_moments does not name");
  }
  if (says && (moments.tokens() == 0 || moments.documents() == 0 ||
               moments.documents() < moments.min_documents())) {
    reasons.push_back(absl::StrCat(
        "domain.second_moments is of ", moments.documents(), " documents, ",
        moments.tokens(), " tokens; want at least one, and the owner's floor "
        "of ", moments.min_documents(), " documents"));
  }
  std::vector<const char*> needed = {WeightsFile(m.kind()), "README.md"};
  if (kind != nullptr) {
    needed.insert(needed.end(), kind->files.begin(), kind->files.end());
  }
  // Readers of encoders look for files by name, and owners' packages of
  // these kinds hold nothing that the manifest does not speak of.
  if (kind != nullptr && kind->retrieval) {
    for (const std::string& path : seen) {
      const auto is = [&](const char* name) { return path == name; };
      if (std::any_of(needed.begin(), needed.end(), is) ||
          std::any_of(kind->may.begin(), kind->may.end(), is)) {
        continue;
      }
      reasons.push_back(absl::StrCat("files has ", Shown(path), ", which ",
                                     kind->name, " packages do not have"));
    }
  }
  for (const char* name : needed) {
    if (seen.count(name) == 0) {
      reasons.push_back(absl::StrCat("files lacks ", name));
    }
  }
}

void CheckAnchored(const v1::ExpertManifest& m, Reasons& reasons) {
  const v1::AnchoredStatistics& a = m.domain().anchored();
  const auto within = [&](const char* name, double value, double low,
                          double high) {
    if (value >= low && value <= high) return;
    reasons.push_back(absl::StrCat("domain.anchored.", name, " is ", value,
                                   ", want ", low, " to ", high));
  };
  within("smoothing", a.smoothing(), 0, 0.9999);
  within("gate_quantile", a.gate_quantile(), 0, 1);
  // Its bias is taken off again in the selection, so its size is bounded.
  within("noise", a.noise(), 0, 100);
  if (a.layers_size() != static_cast<int64_t>(m.model().layers())) {
    reasons.push_back(absl::StrCat("domain.anchored has ", a.layers_size(),
                                   " layers, want ", m.model().layers()));
  }
  for (int l = 0; l < a.layers_size(); ++l) {
    const v1::LayerStatistics& layer = a.layers(l);
    const auto length = [&](const char* name, int64_t got) {
      if (got == static_cast<int64_t>(m.model().width())) return;
      reasons.push_back(absl::StrCat("domain.anchored.layers[", l, "].", name,
                                     " has ", got, " numbers, want ",
                                     m.model().width()));
    };
    length("base_mean", layer.base_mean_size());
    length("pair_mean", layer.pair_mean_size());
    const auto finite = [&](const char* name, const auto& numbers) {
      if (std::all_of(numbers.begin(), numbers.end(),
                      [](float x) { return std::isfinite(x); })) {
        return;
      }
      reasons.push_back(absl::StrCat("domain.anchored.layers[", l, "].", name,
                                     " has numbers that are not finite"));
    };
    finite("base_mean", layer.base_mean());
    finite("pair_mean", layer.pair_mean());
    if (!(layer.threshold() >= 0)) {  // NaN too
      reasons.push_back(absl::StrCat("domain.anchored.layers[", l,
                                     "].threshold is ", layer.threshold(),
                                     ", want 0 or more"));
    }
  }
}

// Thresholds that a recipe may choose among.
void CheckGates(const v1::ExpertManifest& m, Reasons& reasons) {
  constexpr int kMaxGates = 64;
  const auto& gates = m.domain().anchored().gates();
  if (gates.size() > kMaxGates) {
    reasons.push_back(absl::StrCat("domain.anchored has ", gates.size(),
                                   " gates, want at most ", kMaxGates));
    return;
  }
  for (int g = 0; g < gates.size(); ++g) {
    const v1::GateThresholds& gate = gates[g];
    bool good = gate.smoothing() >= 0 && gate.smoothing() <= 0.9999 &&
                gate.quantile() > 0 && gate.quantile() <= 1 &&
                gate.rank() <= m.model().width() &&
                gate.thresholds_size() ==
                    static_cast<int64_t>(m.model().layers());
    for (const float threshold : gate.thresholds()) good &= threshold >= 0;
    if (good) continue;
    reasons.push_back(absl::StrCat(
        "domain.anchored.gates[", g, "] has smoothing ", gate.smoothing(),
        ", quantile ", gate.quantile(), ", rank ", gate.rank(), " and ",
        gate.thresholds_size(), " thresholds, want 0 to 0.9999, above 0 to 1, "
        "at most the width ", m.model().width(), ", and one of 0 or more for "
        "each of ", m.model().layers(), " layers"));
  }
}

void CheckRouterRow(const v1::ExpertManifest& m, Reasons& reasons) {
  if (!m.has_router_row()) return;
  const std::string& source = m.router_row().source();
  if (m.router_row().has_embedder()) {
    const v1::EmbedderRecord& e = m.router_row().embedder();
    CheckHex("router_row.embedder.sha256", e.sha256(), reasons);
    if (source != "trained" || e.width() < 1 || e.width() > kMaxWidth ||
        e.documents() < 1) {
      reasons.push_back(absl::StrCat(
          "router_row.embedder is of width ", e.width(), " and ", e.documents(),
          " documents, of a row ", Shown(source), ", want width 1 to ",
          kMaxWidth, ", one document or more, trained"));
    }
  }
  if (m.kind() == "ffn" && (source == "trained" || source == "domain_mean")) {
    return;
  }
  reasons.push_back(absl::StrCat(
      "router_row.source is ", Shown(source), " of kind ", Shown(m.kind()),
      ", want trained or domain_mean of kind ffn"));
}

void CheckLicence(const v1::LicenceTerms& terms, Reasons& reasons) {
  bool good = true;
  for (const auto& [name, date] :
       {std::pair{"not_before", terms.not_before()},
        std::pair{"not_after", terms.not_after()}}) {
    if (date.empty() || IsDate(date, /*time_required=*/false)) continue;
    good = false;
    reasons.push_back(absl::StrCat("licence.", name, " is ", Shown(date),
                                   ", want a date such as 2027-01-31 or "
                                   "2027-01-31T12:00:00Z"));
  }
  // A date without a time is its whole day: days decide unless both are
  // equal, and then the times, when both have one.
  const std::string &from = terms.not_before(), &to = terms.not_after();
  if (good && !from.empty() && !to.empty()) {
    const int days = from.substr(0, 10).compare(to.substr(0, 10));
    const bool times = from.size() > 10 && to.size() > 10;
    if (days > 0 || (days == 0 && times &&
                     from.substr(0, 19) > to.substr(0, 19))) {
      reasons.push_back(absl::StrCat("licence.not_after ", to,
                                     " is before not_before ", from));
    }
  }
}

}  // namespace

std::vector<std::string> CheckManifest(const v1::ExpertManifest& m) {
  Reasons reasons;
  if (m.schema_version() != 1) {
    reasons.push_back(absl::StrCat("schema_version is ", m.schema_version(),
                                   ", want 1"));
  }
  if (!IsPackageId(m.id())) {
    reasons.push_back(absl::StrCat("id is ", Shown(m.id()),
                                   ", want owner/name@1.2.3"));
  }
  const KindRules* kind = FindKind(m.kind());
  if (kind == nullptr) {
    reasons.push_back(absl::StrCat("kind is ", Shown(m.kind()), ", want ",
                                   KindNames()));
  }
  CheckScalars(m, "", reasons);
  CheckShape(m.model(), kind, reasons);
  CheckFileTable(m, reasons);
  CheckTensorTables(m, kind, reasons);
  CheckLicence(m.licence(), reasons);
  CheckRouterRow(m, reasons);
  CheckRetrievalRecords(m, reasons);
  if (!IsDate(m.created_at(), /*time_required=*/true)) {
    reasons.push_back(absl::StrCat("created_at is ", Shown(m.created_at()),
                                   ", want a time such as "
                                   "2027-01-31T12:00:00Z"));
  }
  if (!proto::CheckName("", m.domain().domain()).ok()) {
    reasons.push_back(absl::StrCat("domain.domain is ",
                                   Shown(m.domain().domain()),
                                   ", want 1 to 63 of a-z, 0-9, . and -"));
  }
  if (!m.training().plan_sha256().empty()) {
    CheckHex("training.plan_sha256", m.training().plan_sha256(), reasons);
  }
  if (kind == nullptr) return reasons;
  if (kind->base != nullptr) {
    if (!IsPackageId(m.base().id())) {
      reasons.push_back(absl::StrCat("base.id is ", Shown(m.base().id()),
                                     ", want owner/name@1.2.3"));
    }
    CheckHex("base.manifest_sha256", m.base().manifest_sha256(), reasons);
    CheckHex("base.weights_sha256", m.base().weights_sha256(), reasons);
    CheckHex("base.tokenizer_sha256", m.base().tokenizer_sha256(), reasons);
  } else if (m.has_base()) {
    reasons.push_back(absl::StrCat("a ", m.kind(), " has a base"));
  }
  if (kind->frozen) {
    CheckHex("frozen_sha256", m.frozen_sha256(), reasons);
  } else if (!m.frozen_sha256().empty()) {
    reasons.push_back(absl::StrCat("a ", m.kind(), " has a frozen_sha256"));
  }
  if (kind->anchored == Presence::kNone && m.domain().has_anchored()) {
    reasons.push_back(absl::StrCat("a ", m.kind(), " has domain.anchored"));
  } else if (kind->anchored == Presence::kMust || m.domain().has_anchored()) {
    CheckAnchored(m, reasons);
    CheckGates(m, reasons);
  }
  return reasons;
}

}  // namespace motet::package
