// SPDX-License-Identifier: Apache-2.0
// Who may use what: licence terms, and the gate over a small composition of
// four experts, of which legal.example forbids advertising.
#include "coordinator/policy.h"

#include <google/protobuf/text_format.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::coordinator {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

absl::Time At(const std::string& when) {
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, when, &time, &error))
      << error;
  return time;
}
const char kNoon[] = "2026-06-15T12:00:00Z";

v1::LicenceTerms Terms(const std::string& text) {
  v1::LicenceTerms terms;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &terms))
      << text;
  return terms;
}

TEST(WithheldByTermsTest, Table) {
  struct Case {
    const char* terms;
    const char* purpose;
    const char* tenant;
    const char* reason;  // "" = may be used
  };
  const Case cases[] = {
      {"", "", "", ""},
      {"", "advertising", "shop", ""},
      {"forbidden_purposes: 'advertising'", "research", "", ""},
      {"forbidden_purposes: 'advertising'", "", "", ""},
      {"forbidden_purposes: ['war', 'advertising']", "advertising", "",
       "licence forbids purpose advertising"},
      {"forbidden_purposes: 'Advertising'", "aDVERTISING", "",
       "licence forbids purpose aDVERTISING"},
      {"forbidden_purposes: 'advertising'", " advertising\n", "",
       "licence forbids purpose advertising"},
      {"allowed_purposes: 'research'", "research", "", ""},
      {"allowed_purposes: 'research'", "Research", "", ""},
      {"allowed_purposes: 'research'", "researching", "",
       "licence allows stated purposes only, not researching"},
      {"allowed_purposes: 'research'", "", "",
       "licence allows stated purposes only, not an unstated one"},
      {"allowed_purposes: 'research'", "  ", "",
       "licence allows stated purposes only, not an unstated one"},
      {"allowed_purposes: 'a' forbidden_purposes: 'a'", "a", "",
       "licence forbids purpose a"},
      {"forbidden_tenants: 'rival'", "", "RIVAL",
       "licence forbids tenant RIVAL"},
      {"forbidden_tenants: 'rival'", "rival", "friend", ""},
      {"allowed_tenants: 'friend'", "", "friend", ""},
      {"allowed_tenants: 'friend'", "", "",
       "licence allows stated tenants only, not an unstated one"},
      {"allowed_tenants: 'friend'", "friend", "rival",
       "licence allows stated tenants only, not rival"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(WithheldByTerms(Terms(c.terms), c.purpose, c.tenant, At(kNoon)),
              c.reason)
        << c.terms << " / " << c.purpose << " / " << c.tenant;
  }
}

TEST(WithheldByTermsTest, Dates) {
  struct Case {
    const char* terms;
    const char* now;
    bool allowed;
  };
  const Case cases[] = {
      {"not_before: '2026-06-15'", "2026-06-15T00:00:00Z", true},
      {"not_before: '2026-06-15'", "2026-06-14T23:59:59Z", false},
      {"not_before: '2026-06-15T12:00:00Z'", "2026-06-15T11:59:59Z", false},
      {"not_before: '2026-06-15T12:00:00+02:00'", "2026-06-15T10:00:00Z",
       true},
      // A date runs to the end of that day, a time to that time.
      {"not_after: '2026-06-15'", "2026-06-15T23:59:59Z", true},
      {"not_after: '2026-06-15'", "2026-06-16T00:00:00Z", false},
      {"not_after: '2026-06-15T12:00:00Z'", "2026-06-15T11:59:59Z", true},
      {"not_after: '2026-06-15T12:00:00Z'", "2026-06-15T12:00:00Z", false},
      {"not_before: '2026-01-01' not_after: '2026-12-31'", kNoon, true},
      // What cannot be read allows nothing.
      {"not_after: 'next year'", kNoon, false},
      {"not_before: '2026'", kNoon, false},
      {"not_after: '31.12.2026'", kNoon, false},
      {"not_after: 'infinite-future'", kNoon, false},
      {"not_after: '2026-06-15t12:00:00z'", "2026-06-15T13:00:00Z", false},
  };
  for (const Case& c : cases) {
    const std::string reason =
        WithheldByTerms(Terms(c.terms), "", "", At(c.now));
    EXPECT_EQ(reason.empty(), c.allowed) << c.terms << " " << c.now << reason;
  }
}

class PolicyGateTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    federation_ = new assemble::TinyFederation;
    composition_ = federation_->Load(federation_->Lock()).release();
  }
  static void TearDownTestSuite() {
    delete composition_;
    delete federation_;
  }
  static absl::StatusOr<Admission> Admit(
      const std::vector<std::string>& include,
      const std::vector<std::string>& exclude = {},
      const std::string& purpose = "", std::set<std::string> revoked = {}) {
    v1::ExpertSelection selection;
    for (const auto& name : include) selection.add_include(name);
    for (const auto& name : exclude) selection.add_exclude(name);
    return PolicyGate(*composition_, std::move(revoked))
        .Admit(selection, purpose, "", At(kNoon));
  }
  static Admission Must(absl::StatusOr<Admission> admission) {
    EXPECT_TRUE(admission.ok()) << admission.status();
    if (!admission.ok()) abort();
    return *std::move(admission);
  }
  // Experts of the lock by domain, as they are ordered.
  static int Position(const std::string& domain) {
    for (int i = 0; i < composition_->lock.experts_size(); ++i) {
      if (composition_->lock.experts(i).domain() == domain) return i + 1;
    }
    ADD_FAILURE() << domain;
    return 0;
  }
  static math::ExpertMask Bit(const std::string& domain) {
    return math::ExpertMask{1} << Position(domain);
  }
  static assemble::TinyFederation* federation_;
  static assemble::Composition* composition_;
};
assemble::TinyFederation* PolicyGateTest::federation_ = nullptr;
assemble::Composition* PolicyGateTest::composition_ = nullptr;

TEST_F(PolicyGateTest, NothingAskedIsEverythingAllowed) {
  const Admission all = Must(Admit({}));
  EXPECT_EQ(all.mask(), composition_->All());
  EXPECT_EQ(all.experts().size(), 5u);
  EXPECT_EQ(all.experts()[0], "choir/base@1.0.0");
  EXPECT_THAT(all.withheld(), IsEmpty());
  EXPECT_EQ(all.set_sha256().size(), 64u);
}

TEST_F(PolicyGateTest, IncludeAndExcludeOnlyNarrow) {
  EXPECT_EQ(Must(Admit({"code"})).mask(), 1 | Bit("code"));
  EXPECT_EQ(Must(Admit({}, {"code"})).mask(),
            composition_->All() & ~Bit("code"));
  EXPECT_EQ(Must(Admit({"code", "legal"}, {"legal.example"})).mask(),
            1 | Bit("code"));
  EXPECT_EQ(Must(Admit({"code"}, {"code"})).mask(), 1u);
  EXPECT_THAT(Must(Admit({"code"}, {"code"})).experts(),
              ElementsAre("choir/base@1.0.0"));
}

TEST_F(PolicyGateTest, ActiveExpertsWithinWhatTheRouterAllows) {
  const auto admit = [](const assemble::Composition& model, uint32_t active) {
    v1::ExpertSelection selection;
    selection.set_active(active);
    return PolicyGate(model, {}).Admit(selection, "", "", At(kNoon));
  };
  // An anchored router takes the base and one expert, whoever asks.
  EXPECT_EQ(Must(admit(*composition_, 0)).active(), 0);
  EXPECT_EQ(admit(*composition_, 2).status().code(),
            absl::StatusCode::kInvalidArgument);
  v1::CompositionLock lock = federation_->Lock("topk");
  const auto free = federation_->Load(lock);
  EXPECT_EQ(Must(admit(*free, 5)).active(), 5);
  EXPECT_THAT(std::string(admit(*free, 6).status().message()),
              HasSubstr("active = 6, want 1 to 5"));
  lock.mutable_router()->set_most_active(3);
  const auto bound = federation_->Load(lock);
  EXPECT_EQ(Must(admit(*bound, 3)).active(), 3);
  EXPECT_FALSE(admit(*bound, 4).ok());
  // Beside a shared base.
  const auto shared = federation_->Load(federation_->Lock("shared"));
  EXPECT_EQ(Must(admit(*shared, 4)).active(), 4);
  EXPECT_THAT(std::string(admit(*shared, 5).status().message()),
              HasSubstr("active = 5, want 1 to 4"));
}

TEST_F(PolicyGateTest, TheBaseIsAlwaysIn) {
  const Admission none =
      Must(Admit({}, {"code", "legal", "manual", "health"}));
  EXPECT_EQ(none.mask(), 1u);
}

TEST_F(PolicyGateTest, UnknownNamesAreNotFound) {
  EXPECT_EQ(Admit({"cod"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Admit({}, {"cod"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Admit({}, {""}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PolicyGateTest, WithheldExpertStaysOut) {
  const Admission rest = Must(Admit({}, {}, "advertising"));
  EXPECT_EQ(rest.mask(), composition_->All() & ~Bit("legal"));
  ASSERT_EQ(rest.withheld().size(), 1u);
  EXPECT_EQ(rest.withheld()[0].id, "legal.example/legal@1.0.0");
  EXPECT_EQ(rest.withheld()[0].reason, "licence forbids purpose advertising");
  EXPECT_THAT(rest.experts(),
              testing::Not(testing::Contains("legal.example/legal@1.0.0")));
}

TEST_F(PolicyGateTest, NamingAWithheldExpertIsDenied) {
  for (const char* name : {"legal", "legal.example", "legal.example/legal",
                           "legal.example/legal@1.0.0"}) {
    const auto denied = Admit({"code", name}, {}, "advertising");
    EXPECT_EQ(denied.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(denied.status().message()),
                HasSubstr("forbids purpose advertising"));
    EXPECT_TRUE(Admit({"code", name}, {}, "research").ok());
  }
  // Leaving it out, or excluding it, is not.
  EXPECT_EQ(Must(Admit({"code"}, {}, "advertising")).mask(), 1 | Bit("code"));
  EXPECT_TRUE(Admit({}, {"legal"}, "advertising").ok());
}

TEST_F(PolicyGateTest, RevokedPackagesAnswerNothing) {
  const std::string code =
      composition_->lock.experts(Position("code") - 1).manifest_sha256();
  const Admission rest = Must(Admit({}, {}, "", {code}));
  EXPECT_EQ(rest.mask(), composition_->All() & ~Bit("code"));
  ASSERT_EQ(rest.withheld().size(), 1u);
  EXPECT_EQ(rest.withheld()[0].reason, "package revoked");
  EXPECT_EQ(Admit({"code"}, {}, "", {code}).status().code(),
            absl::StatusCode::kPermissionDenied);
  // Nothing can do without the base.
  EXPECT_EQ(Admit({}, {}, "", {composition_->lock.base().manifest_sha256()})
                .status()
                .code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(PolicyGateTest, DigestNamesTheSet) {
  const std::vector<std::string> domains = {"code", "legal", "manual",
                                            "health"};
  std::set<std::string> digests;
  for (int set = 0; set < 16; ++set) {
    std::vector<std::string> exclude;
    for (int i = 0; i < 4; ++i) {
      if (set >> i & 1) exclude.push_back(domains[i]);
    }
    digests.insert(Must(Admit({}, exclude)).set_sha256());
  }
  EXPECT_EQ(digests.size(), 16u);
  // The same set, however it came about, has the same digest.
  EXPECT_EQ(Must(Admit({"code", "manual", "health"})).set_sha256(),
            Must(Admit({}, {}, "advertising")).set_sha256());
}

TEST_F(PolicyGateTest, RoutedCompositionRefusesWhatItCannotExclude) {
  const auto routed = federation_->Load(federation_->Lock());
  ASSERT_NE(routed, nullptr);
  routed->exact_exclusion = false;
  const PolicyGate gate(*routed, {});
  EXPECT_TRUE(gate.Admit({}, "research", "", At(kNoon)).ok());
  v1::ExpertSelection code;
  code.add_include("code");
  for (const auto& selection : {v1::ExpertSelection(), code}) {
    const auto denied = gate.Admit(selection, "advertising", "", At(kNoon));
    EXPECT_EQ(denied.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(denied.status().message()),
                HasSubstr("legal.example/legal@1.0.0"));
  }
}

}  // namespace
}  // namespace motet::coordinator
