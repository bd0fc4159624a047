// SPDX-License-Identifier: Apache-2.0
// The authority and what it issues. A certificate holds the request's public
// key, its checked SPIFFE id and usages that follow from the role; nothing
// else is taken from the request.
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <time.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/identity.h"
#include "proto/openssl.h"

namespace motet::proto {
namespace {

constexpr int kAuthorityDays = 3650;
constexpr int kMaxDays = 3650;
// A member's clock may be this far behind the administrator's.
constexpr int64_t kClockSlackSeconds = 300;
constexpr int64_t kDaySeconds = 24 * 60 * 60;
constexpr absl::string_view kScheme = "spiffe://";

int64_t UnixSeconds(const ASN1_TIME* t) {
  struct tm parts = {};
  return ASN1_TIME_to_tm(t, &parts) == 1 ? timegm(&parts) : 0;
}

absl::Status Add(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  if (extension == nullptr ||
      X509_add_ext(certificate, extension.get(), -1) != 1) {
    return OpensslError("certificate", "adding an extension");
  }
  return absl::OkStatus();
}

// Takes value; type as in GENERAL_NAME.
absl::Status PushName(GENERAL_NAMES* names, int type, ASN1_STRING* value) {
  GENERAL_NAME* name = GENERAL_NAME_new();
  if (name == nullptr || value == nullptr) {
    GENERAL_NAME_free(name);
    ASN1_STRING_free(value);
    return OpensslError("certificate", "adding a name");
  }
  GENERAL_NAME_set0_value(name, type, value);
  if (sk_GENERAL_NAME_push(names, name) <= 0) {
    GENERAL_NAME_free(name);
    return OpensslError("certificate", "adding a name");
  }
  return absl::OkStatus();
}

absl::Status PushText(GENERAL_NAMES* names, int type,
                      const std::string& text) {
  ASN1_STRING* value = ASN1_IA5STRING_new();
  if (value != nullptr &&
      ASN1_STRING_set(value, text.data(), static_cast<int>(text.size())) != 1) {
    ASN1_STRING_free(value);
    value = nullptr;
  }
  return PushName(names, type, value);
}

absl::Status PushHost(GENERAL_NAMES* names, const std::string& host) {
  if (ASN1_OCTET_STRING* address = a2i_IPADDRESS(host.c_str())) {
    return PushName(names, GEN_IPADD, address);
  }
  OpensslReason();
  MOTET_RETURN_IF_ERROR(CheckName("certificate host", host));
  return PushText(names, GEN_DNS, host);
}

absl::Status AddAlternativeNames(X509* certificate, const std::string& uri,
                                 const std::vector<std::string>& hosts) {
  const GeneralNamesPtr names(GENERAL_NAMES_new());
  if (names == nullptr) return OpensslError("certificate", "adding names");
  MOTET_RETURN_IF_ERROR(PushText(names.get(), GEN_URI, uri));
  for (const std::string& host : hosts) {
    MOTET_RETURN_IF_ERROR(PushHost(names.get(), host));
  }
  if (X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0,
                        X509V3_ADD_DEFAULT) != 1) {
    return OpensslError("certificate", "adding names");
  }
  return absl::OkStatus();
}

absl::Status AddSubjectPart(X509_NAME* subject, int nid,
                            const std::string& text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  if (X509_NAME_add_entry_by_NID(subject, nid, MBSTRING_UTF8, bytes,
                                 static_cast<int>(text.size()), -1, 0) != 1) {
    return OpensslError("certificate", "naming the subject");
  }
  return absl::OkStatus();
}

// A certificate without extensions: version, serial, validity and key.
absl::StatusOr<CertificatePtr> Blank(EVP_PKEY* key, int64_t not_after) {
  CertificatePtr certificate(X509_new());
  const BignumPtr serial(BN_new());
  if (certificate == nullptr || serial == nullptr ||
      BN_rand(serial.get(), 128, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) != 1 ||
      BN_to_ASN1_INTEGER(serial.get(),
                         X509_get_serialNumber(certificate.get())) == nullptr ||
      X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
      X509_set_pubkey(certificate.get(), key) != 1 ||
      ASN1_TIME_set(X509_getm_notBefore(certificate.get()),
                    time(nullptr) - kClockSlackSeconds) == nullptr ||
      ASN1_TIME_set(X509_getm_notAfter(certificate.get()), not_after) ==
          nullptr) {
    return OpensslError("certificate", "making a certificate");
  }
  return certificate;
}

absl::StatusOr<std::string> FederationOf(X509* authority) {
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> uris,
                         UrisOf("authority", authority));
  if (X509_check_ca(authority) != 1 || uris.size() != 1 ||
      !absl::StartsWith(uris[0], kScheme)) {
    return Invalid("authority",
                   "a certificate that is not a federation's authority",
                   "a CA certificate with the name spiffe://FEDERATION",
                   "use the ca.pem that `motet init` wrote");
  }
  const std::string federation = uris[0].substr(kScheme.size());
  MOTET_RETURN_IF_ERROR(CheckName("authority", federation));
  return federation;
}

// People paste fingerprints with blanks and in either case.
std::string Normalised(absl::string_view fingerprint) {
  return absl::AsciiStrToLower(absl::StripAsciiWhitespace(fingerprint));
}

absl::Status SetUsages(X509* certificate, X509* issuer,
                       absl::string_view role) {
  // Coordinators and nodes sign packages; registries only serve them.
  const char* usages = "serverAuth,clientAuth";
  if (role == "node") usages = "clientAuth,codeSigning";
  if (role == "coordinator") usages = "serverAuth,clientAuth,codeSigning";
  MOTET_RETURN_IF_ERROR(
      Add(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE"));
  MOTET_RETURN_IF_ERROR(
      Add(certificate, issuer, NID_key_usage, "critical,digitalSignature"));
  MOTET_RETURN_IF_ERROR(Add(certificate, issuer, NID_ext_key_usage, usages));
  MOTET_RETURN_IF_ERROR(
      Add(certificate, issuer, NID_subject_key_identifier, "hash"));
  return Add(certificate, issuer, NID_authority_key_identifier,
             "keyid:always");
}

}  // namespace

absl::StatusOr<std::string> FederationOf(const std::string& authority_pem) {
  MOTET_ASSIGN_OR_RETURN(const CertificatePtr authority,
                         ReadCertificate("authority", authority_pem));
  return FederationOf(authority.get());
}

absl::StatusOr<Authority> MakeAuthority(const std::string& federation) {
  MOTET_RETURN_IF_ERROR(CheckName("federation", federation));
  MOTET_ASSIGN_OR_RETURN(KeyPair pair, MakeKey());
  MOTET_ASSIGN_OR_RETURN(const KeyPtr key,
                         ReadPrivateKey("authority", pair.private_pem));
  MOTET_ASSIGN_OR_RETURN(
      const CertificatePtr certificate,
      Blank(key.get(), time(nullptr) + kAuthorityDays * kDaySeconds));
  X509* const c = certificate.get();
  X509_NAME* subject = X509_get_subject_name(c);
  MOTET_RETURN_IF_ERROR(
      AddSubjectPart(subject, NID_organizationName, federation));
  MOTET_RETURN_IF_ERROR(
      AddSubjectPart(subject, NID_commonName, "Motet authority"));
  if (X509_set_issuer_name(c, subject) != 1) {
    return OpensslError("authority", "naming the issuer");
  }
  MOTET_RETURN_IF_ERROR(
      Add(c, c, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  MOTET_RETURN_IF_ERROR(
      Add(c, c, NID_key_usage, "critical,keyCertSign,cRLSign"));
  MOTET_RETURN_IF_ERROR(Add(c, c, NID_subject_key_identifier, "hash"));
  MOTET_RETURN_IF_ERROR(
      Add(c, c, NID_authority_key_identifier, "keyid:always"));
  MOTET_RETURN_IF_ERROR(
      AddAlternativeNames(c, absl::StrCat(kScheme, federation), {}));
  if (X509_sign(c, key.get(), EVP_sha256()) <= 0) {
    return OpensslError("authority", "signing the certificate");
  }
  Authority authority;
  MOTET_ASSIGN_OR_RETURN(authority.certificate_pem, CertificatePem(c));
  authority.private_pem = std::move(pair.private_pem);
  return authority;
}

absl::StatusOr<std::string> Issue(const Authority& authority,
                                  const std::string& request_pem,
                                  absl::string_view expected_fingerprint,
                                  const IssueOptions& options) {
  MOTET_ASSIGN_OR_RETURN(
      const CertificatePtr issuer,
      ReadCertificate("authority", authority.certificate_pem));
  MOTET_ASSIGN_OR_RETURN(const KeyPtr issuer_key,
                         ReadPrivateKey("authority", authority.private_pem));
  MOTET_ASSIGN_OR_RETURN(const std::string federation,
                         FederationOf(issuer.get()));
  if (EVP_PKEY_eq(X509_get0_pubkey(issuer.get()), issuer_key.get()) != 1) {
    OpensslReason();
    return Invalid("authority", "a key that does not fit the certificate",
                   "ca.key and ca.pem of one authority",
                   "restore both from the same backup");
  }
  MOTET_ASSIGN_OR_RETURN(const RequestInfo info, InspectRequest(request_pem));
  if (Normalised(info.fingerprint) != Normalised(expected_fingerprint)) {
    return Error(absl::StatusCode::kPermissionDenied, "request",
                 absl::StrCat("the fingerprint ", info.fingerprint),
                 expected_fingerprint.empty() ? "a fingerprint to compare with"
                                              : expected_fingerprint,
                 "ask the owner for the fingerprint that `motet-node init` "
                 "printed; if it still differs, the request was replaced on "
                 "the way: do not approve it");
  }
  if (info.id.federation != federation) {
    return Error(absl::StatusCode::kPermissionDenied, "request",
                 absl::StrCat("a name of federation \"", info.id.federation,
                              "\""),
                 absl::StrCat("federation \"", federation, "\""),
                 "have the node make its request for this federation");
  }
  if (options.days < 1 || options.days > kMaxDays) {
    return Invalid("certificate", absl::StrCat(options.days, " days"),
                   absl::StrCat("1 to ", kMaxDays));
  }
  const bool server = info.id.role != "node";
  if (!server && !options.hosts.empty()) {
    return Invalid("certificate", "hosts for a node", "none",
                   "nodes dial out only; leave the hosts away");
  }
  // A certificate that outlives its authority would be of no use.
  const int64_t not_after =
      std::min(time(nullptr) + options.days * kDaySeconds,
               UnixSeconds(X509_get0_notAfter(issuer.get())));
  // The request's key, parsed again: InspectRequest checked it.
  const BioPtr bio = ReadOnly(request_pem);
  const RequestPtr request(
      PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
  MOTET_ASSIGN_OR_RETURN(
      const CertificatePtr certificate,
      Blank(X509_REQ_get0_pubkey(request.get()), not_after));
  X509* const c = certificate.get();
  X509_NAME* subject = X509_get_subject_name(c);
  MOTET_RETURN_IF_ERROR(AddSubjectPart(
      subject, NID_organizationName,
      info.id.owner.empty() ? info.id.federation : info.id.owner));
  MOTET_RETURN_IF_ERROR(
      AddSubjectPart(subject, NID_commonName, info.id.name));
  if (X509_set_issuer_name(c, X509_get_subject_name(issuer.get())) != 1) {
    return OpensslError("certificate", "naming the issuer");
  }
  MOTET_RETURN_IF_ERROR(SetUsages(c, issuer.get(), info.id.role));
  std::vector<std::string> hosts;
  if (server) hosts = {"localhost", "127.0.0.1", "::1"};
  for (const std::string& host : options.hosts) {
    if (std::find(hosts.begin(), hosts.end(), host) == hosts.end()) {
      hosts.push_back(host);
    }
  }
  MOTET_RETURN_IF_ERROR(AddAlternativeNames(c, info.id.ToString(), hosts));
  if (X509_sign(c, issuer_key.get(), EVP_sha256()) <= 0) {
    return OpensslError("certificate", "signing");
  }
  return CertificatePem(c);
}

absl::StatusOr<CertificateInfo> InspectCertificate(const std::string& pem) {
  MOTET_ASSIGN_OR_RETURN(const CertificatePtr certificate,
                         ReadCertificate("certificate", pem));
  X509* const c = certificate.get();
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> uris,
                         UrisOf("certificate", c));
  if (uris.size() != 1) {
    return Invalid("certificate", absl::StrCat(uris.size(), " URI names"),
                   "exactly one SPIFFE id",
                   "use a certificate issued by `motet member approve`");
  }
  CertificateInfo info;
  MOTET_ASSIGN_OR_RETURN(info.id, ParseSpiffeId(uris[0]));
  EVP_PKEY* key = X509_get0_pubkey(c);
  MOTET_ASSIGN_OR_RETURN(info.fingerprint, Fingerprint(key));
  MOTET_ASSIGN_OR_RETURN(info.public_pem, PublicPem(key));
  const ASN1_INTEGER* serial = X509_get0_serialNumber(c);
  info.serial =
      Hex(absl::string_view(reinterpret_cast<const char*>(
                                ASN1_STRING_get0_data(serial)),
                            static_cast<size_t>(ASN1_STRING_length(serial))));
  info.not_before = UnixSeconds(X509_get0_notBefore(c));
  info.not_after = UnixSeconds(X509_get0_notAfter(c));
  return info;
}

absl::Status VerifyChain(X509* certificate, X509* authority, int64_t when) {
  MOTET_ASSIGN_OR_RETURN(const std::string federation,
                         FederationOf(authority));
  const OpensslPtr<X509_STORE, X509_STORE_free> store(X509_STORE_new());
  const OpensslPtr<X509_STORE_CTX, X509_STORE_CTX_free> context(
      X509_STORE_CTX_new());
  if (store == nullptr || context == nullptr ||
      X509_STORE_add_cert(store.get(), authority) != 1 ||
      X509_STORE_CTX_init(context.get(), store.get(), certificate, nullptr) !=
          1) {
    return OpensslError("certificate", "preparing the check");
  }
  X509_VERIFY_PARAM* param = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_flags(
      param, X509_V_FLAG_X509_STRICT | X509_V_FLAG_CHECK_SS_SIGNATURE);
  // The authority issues every certificate itself: no intermediates.
  X509_VERIFY_PARAM_set_depth(param, 0);
  X509_VERIFY_PARAM_set_time(param, when != 0 ? when : time(nullptr));
  const bool ok = X509_verify_cert(context.get()) == 1;
  const int code = X509_STORE_CTX_get_error(context.get());
  OpensslReason();
  if (!ok) {
    absl::string_view hint =
        "the certificate is of another authority; get one from this "
        "federation's administrator";
    if (code == X509_V_ERR_CERT_HAS_EXPIRED) {
      hint = "the certificate has expired; make a request and have it approved";
    } else if (code == X509_V_ERR_CERT_NOT_YET_VALID) {
      hint = "check the clocks of both machines";
    }
    return Error(absl::StatusCode::kPermissionDenied, "certificate",
                 absl::StrCat("\"", X509_verify_cert_error_string(code), "\""),
                 absl::StrCat("a valid certificate of the authority of \"",
                              federation, "\""),
                 hint);
  }
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> uris,
                         UrisOf("certificate", certificate));
  const auto id = ParseSpiffeId(uris.size() == 1 ? uris[0] : "");
  if (!id.ok() || id->federation != federation) {
    return Error(absl::StatusCode::kPermissionDenied, "certificate",
                 uris.size() == 1
                     ? absl::StrCat("the name ", uris[0].substr(0, 200))
                     : absl::StrCat(uris.size(), " names"),
                 absl::StrCat("one name of the federation \"", federation,
                              "\""),
                 "get a certificate from this federation's administrator");
  }
  return absl::OkStatus();
}

absl::Status VerifyCertificate(const std::string& certificate_pem,
                               const std::string& authority_pem,
                               int64_t when) {
  MOTET_ASSIGN_OR_RETURN(const CertificatePtr certificate,
                         ReadCertificate("certificate", certificate_pem));
  MOTET_ASSIGN_OR_RETURN(const CertificatePtr authority,
                         ReadCertificate("authority", authority_pem));
  return VerifyChain(certificate.get(), authority.get(), when);
}

}  // namespace motet::proto
