// SPDX-License-Identifier: Apache-2.0
// motet.lock as canonical JSON: fields in the order of lock.proto, every one
// written, numbers in their shortest exact form. Protobuf's own printer
// promises no stable bytes, and the lock's digest is an identity, so the text
// is made here; reading accepts any proto3 JSON of the message and then
// checks what the rest of the program takes for granted.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/composition.h"
#include "compose/assemble/method.h"
#include "compose/assemble/tuning.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::assemble {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using nlohmann::ordered_json;

constexpr uint64_t kSchemaVersion = 1;

ordered_json ToJson(const Message& message);

// One value; index < 0 for a field that is not repeated.
ordered_json ValueOf(const Message& m, const FieldDescriptor* field,
                     int index) {
  const auto& r = *m.GetReflection();
  const bool one = index < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? r.GetString(m, field) : r.GetRepeatedString(m, field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? r.GetDouble(m, field) : r.GetRepeatedDouble(m, field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? r.GetUInt32(m, field) : r.GetRepeatedUInt32(m, field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? r.GetUInt64(m, field) : r.GetRepeatedUInt64(m, field, index);
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? r.GetBool(m, field) : r.GetRepeatedBool(m, field, index);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(one ? r.GetMessage(m, field)
                        : r.GetRepeatedMessage(m, field, index));
    default:
      // A type that lock.proto does not use yet.
      math::CheckFailed(__FILE__, __LINE__, field->full_name().c_str());
  }
}

ordered_json ToJson(const Message& message) {
  const auto* descriptor = message.GetDescriptor();
  ordered_json json = ordered_json::object();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    // A method's own section; absent where it is another's.
    if (field->message_type() != nullptr && !field->is_repeated() &&
        !message.GetReflection()->HasField(message, field)) {
      continue;
    }
    ordered_json& value = json[field->name()];
    if (!field->is_repeated()) {
      value = ValueOf(message, field, -1);
      continue;
    }
    value = ordered_json::array();
    const int size = message.GetReflection()->FieldSize(message, field);
    for (int k = 0; k < size; ++k) value.push_back(ValueOf(message, field, k));
  }
  return json;
}

void CheckRouter(const v1::RouterLock& router,
                 std::vector<std::string>& problems) {
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  static const std::set<std::string> kKinds = {
      "anchored", "topk", "topp", "switch", "soft", "sample"};
  check(kKinds.contains(router.kind()),
        absl::StrCat("router.kind = \"", router.kind(), "\" (want ",
                     absl::StrJoin(kKinds, ", "), ")"));
  check(router.kind() != "topp" || (router.top_p() > 0 && router.top_p() <= 1),
        absl::StrCat("router.top_p = ", router.top_p(),
                     " (want above 0, at most 1)"));
  check(router.quantile() >= 0 && router.quantile() <= 1,
        absl::StrCat("router.quantile = ", router.quantile(),
                     " (want 0 to 1)"));
  check(router.gate_rank() <= 4096,
        absl::StrCat("router.gate_rank = ", router.gate_rank(),
                     " (want at most 4096)"));
  check(router.covariance().empty() || router.covariance() == "public" ||
            router.covariance() == "pooled",
        absl::StrCat("router.covariance = \"", router.covariance(),
                     "\" (want public or pooled)"));
  check(router.covariance() != "pooled" || router.anchor_tokens() > 0,
        "router.anchor_tokens = 0 (want the number behind the base's anchor "
        "for a pooled covariance)");
  check(router.null_experts() <= 64,
        absl::StrCat("router.null_experts = ", router.null_experts(),
                     " (want at most 64)"));
  check(!router.shared() || router.kind() == "topk",
        absl::StrCat("router.shared with router.kind = \"", router.kind(),
                     "\" (want topk)"));
  check(router.most_active() <= math::kMaxExperts,
        absl::StrCat("router.most_active = ", router.most_active(),
                     " (want at most ", math::kMaxExperts, ")"));
  check(router.mixing().empty() || router.mixing() == "pair" ||
            router.mixing() == "switch",
        absl::StrCat("router.mixing = \"", router.mixing(),
                     "\" (want pair or switch)"));
  check(router.k() >= 1 && router.k() <= 64,
        absl::StrCat("router.k = ", router.k(), " (want 1 to 64)"));
  check(router.smoothing() >= 0 && router.smoothing() < 1,
        absl::StrCat("router.smoothing = ", router.smoothing(),
                     " (want 0 to below 1)"));
}

// A lock has the sections of its method, the base and the experts.
void CheckSections(const v1::CompositionLock& lock, const Method& method,
                   std::vector<std::string>& problems) {
  const auto* descriptor = lock.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (field->message_type() == nullptr || field->is_repeated() ||
        field->name() == "base" ||
        !lock.GetReflection()->HasField(lock, field)) {
      continue;
    }
    if (std::find(method.sections.begin(), method.sections.end(),
                  field->name()) == method.sections.end()) {
      problems.push_back(absl::StrCat("a section ", field->name(),
                                      " (want none for method ", method.name,
                                      ")"));
    }
  }
}

std::vector<std::string> Problems(const v1::CompositionLock& lock) {
  std::vector<std::string> problems;
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  const auto digest = [&](const std::string& what, const std::string& hex) {
    check(proto::DigestFromHex(hex).ok(),
          absl::StrCat(what, " = \"", hex, "\" (want 64 hex digits)"));
  };
  check(lock.schema_version() == kSchemaVersion,
        absl::StrCat("schema_version = ", lock.schema_version(), " (want 1)"));
  check(proto::CheckName("name", lock.name()).ok(),
        absl::StrCat("name = \"", lock.name(), "\" (want a-z, 0-9, . and -)"));
  const Method* method = FindMethod(lock.method());
  check(method != nullptr, absl::StrCat("method = \"", lock.method(),
                                        "\" (want ", MethodNames(), ")"));
  digest("base.manifest_sha256", lock.base().manifest_sha256());
  digest("base.weights_sha256", lock.base().weights_sha256());
  digest("base.tokenizer_sha256", lock.base().tokenizer_sha256());
  check(lock.experts_size() <= kMaxExperts,
        absl::StrCat(lock.experts_size(), " experts (want at most ",
                     kMaxExperts, ")"));
  std::set<std::string> ids;
  for (const v1::LockedExpert& expert : lock.experts()) {
    check(!expert.id().empty() && ids.insert(expert.id()).second,
          absl::StrCat("expert \"", expert.id(), "\" (want ids, each once)"));
    digest(expert.id() + ".manifest_sha256", expert.manifest_sha256());
    digest(expert.id() + ".weights_sha256", expert.weights_sha256());
  }
  if (method != nullptr) CheckSections(lock, *method, problems);
  if (method == nullptr || method->router) {
    CheckRouter(lock.router(), problems);
    CheckTuningLock(lock, problems);
    const std::string& kind = lock.router().kind();
    check(lock.method() == "btx" ||
              (kind != "switch" && kind != "soft" && kind != "sample"),
          absl::StrCat("router.kind = \"", kind, "\" (want it for btx only)"));
  }
  if (method != nullptr && method->check_lock != nullptr) {
    method->check_lock(lock, problems);
  }
  check(lock.exclusion() == "exact" || lock.exclusion() == "routed",
        absl::StrCat("exclusion = \"", lock.exclusion(),
                     "\" (want exact or routed)"));
  return problems;
}

}  // namespace

std::string WriteLock(const v1::CompositionLock& lock) {
  return ToJson(lock).dump(2, ' ', false,
                           ordered_json::error_handler_t::replace) +
         "\n";
}

absl::StatusOr<v1::CompositionLock> ParseLock(const std::string& json,
                                              const std::string& where) {
  const std::string place = absl::StrCat("lock ", where);
  const std::string hint =
      "write it again with `motet compose apply`; it is not made by hand";
  if (static_cast<int64_t>(json.size()) > proto::kMaxManifestBytes) {
    return proto::Invalid(place, absl::StrCat(json.size(), " bytes"),
                          absl::StrCat("at most ", proto::kMaxManifestBytes));
  }
  // A newer one has fields that this version does not know; say that first.
  const auto raw = nlohmann::json::parse(json, nullptr, false);
  if (raw.is_object() && raw.contains("schema_version") &&
      raw["schema_version"].is_number_unsigned() &&
      raw["schema_version"].get<uint64_t>() > kSchemaVersion) {
    const auto by = raw.find("software");
    return proto::Invalid(
        place,
        absl::StrCat("schema_version = ",
                     raw["schema_version"].get<uint64_t>(),
                     by != raw.end() && by->is_string()
                         ? absl::StrCat(", made by ", by->get<std::string>())
                         : ""),
        absl::StrCat(kSchemaVersion, ", which motet " MOTET_VERSION " reads"),
        "use the newer version, or write the lock again with "
        "`motet compose apply`");
  }
  v1::CompositionLock lock;
  const auto parsed =
      google::protobuf::util::JsonStringToMessage(json, &lock);
  if (!parsed.ok()) {
    return proto::Invalid(place, parsed.ToString(), "a motet.lock", hint);
  }
  const std::vector<std::string> problems = Problems(lock);
  if (!problems.empty()) {
    return proto::Invalid(place, absl::StrJoin(problems, ", "),
                          "a complete motet.lock", hint);
  }
  return lock;
}

}  // namespace motet::assemble
