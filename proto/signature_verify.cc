// SPDX-License-Identifier: Apache-2.0
// Checking model.sig, which comes from outside: nothing in it is believed
// before its type is checked, and nothing in its statement before the
// signature is. Unknown fields of the bundle are refused: they are not
// covered by the signature, so whoever writes them could say anything.
#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/limits.h"
#include "proto/openssl.h"
#include "proto/signature.h"
#include "proto/signature_layout.h"

namespace motet::proto {
namespace {

using Json = nlohmann::json;

constexpr char kWhere[] = "signature";
constexpr char kAgain[] =
    "fetch the package again, or ask its owner to sign it";
// Leaf and, from other tools, the authority behind it.
constexpr size_t kMaxCertificates = 2;

absl::Status Refuse(absl::string_view got, absl::string_view want) {
  return Invalid(kWhere, got, want, kAgain);
}

// Text as it may stand in a message.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 120)), "\"");
}

// Parses without exceptions and refuses repeated keys, which readers of JSON
// understand differently.
absl::StatusOr<Json> Parse(absl::string_view what, const std::string& text) {
  std::vector<std::set<std::string>> keys;
  std::string repeated;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      repeated = parsed.get_ref<const std::string&>();
    }
    return true;
  };
  Json json = Json::parse(text, watch, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) {
    return Refuse(absl::StrCat("no readable JSON as ", what),
                  "a JSON object in UTF-8");
  }
  if (!repeated.empty()) {
    return Refuse(absl::StrCat("the key ", Quoted(repeated), " twice in ",
                               what),
                  "every key once");
  }
  return json;
}

// The object's keys are all of `required` and otherwise of `optional`.
absl::Status CheckKeys(absl::string_view what, const Json& json,
                       std::initializer_list<const char*> required,
                       std::initializer_list<const char*> optional = {}) {
  if (!json.is_object()) {
    return Refuse(absl::StrCat("no object as ", what), "an object");
  }
  for (const char* key : required) {
    if (!json.contains(key)) {
      return Refuse(absl::StrCat("no \"", key, "\" in ", what), "one");
    }
  }
  const auto among = [](std::initializer_list<const char*> keys,
                        const std::string& key) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  for (const auto& [key, value] : json.items()) {
    if (!among(required, key) && !among(optional, key)) {
      return Refuse(absl::StrCat("the unknown key ", Quoted(key), " in ",
                                 what),
                    "only keys that the signature format has");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Text(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) {
    return Refuse(absl::StrCat("no text as \"", key, "\""), "a string");
  }
  return found->get_ref<const std::string&>();
}

absl::Status CheckText(const Json& object, const char* key,
                       absl::string_view want) {
  MOTET_ASSIGN_OR_RETURN(const std::string got, Text(object, key));
  if (got == want) return absl::OkStatus();
  return Refuse(absl::StrCat(Quoted(got), " as \"", key, "\""), Quoted(want));
}

absl::StatusOr<std::string> Base64(const Json& object, const char* key) {
  MOTET_ASSIGN_OR_RETURN(const std::string text, Text(object, key));
  std::string bytes;
  // Written back it must be the same: no blanks, no stray bits at the end.
  if (!absl::Base64Unescape(text, &bytes) ||
      absl::Base64Escape(bytes) != text) {
    return Refuse(absl::StrCat("malformed base64 as \"", key, "\""),
                  "standard base64 with padding");
  }
  return bytes;
}

absl::StatusOr<CertificatePtr> FromDer(const std::string& der) {
  const auto* at = reinterpret_cast<const unsigned char*>(der.data());
  const unsigned char* const end = at + der.size();
  if (static_cast<int64_t>(der.size()) <= kMaxCertificateBytes) {
    CertificatePtr certificate(
        d2i_X509(nullptr, &at, static_cast<long>(der.size())));
    OpensslReason();
    if (certificate != nullptr && at == end) return certificate;
  }
  return Refuse("an unreadable certificate", "an X.509 certificate in DER");
}

// The signer's certificate; what else is in the chain must be the authority
// itself, since it issues without intermediates.
absl::StatusOr<CertificatePtr> SignerOf(const Json& material,
                                        X509* authority) {
  if (material.is_object() && material.contains("publicKey") &&
      !material.contains("x509CertificateChain")) {
    return Refuse("a signature by a bare key",
                  "one with the signer's certificate");
  }
  MOTET_RETURN_IF_ERROR(CheckKeys("verificationMaterial", material,
                                  {"x509CertificateChain"},
                                  {"tlogEntries"}));
  if (material.contains("tlogEntries") &&
      material["tlogEntries"] != Json::array()) {
    return Refuse("entries of a public transparency log", "none");
  }
  const Json& chain = material["x509CertificateChain"];
  MOTET_RETURN_IF_ERROR(
      CheckKeys("x509CertificateChain", chain, {"certificates"}));
  const Json& list = chain["certificates"];
  if (!list.is_array() || list.empty() || list.size() > kMaxCertificates) {
    return Refuse("no list of one or two certificates",
                  "the signer's, and at most its authority's");
  }
  CertificatePtr signer;
  for (const Json& entry : list) {
    MOTET_RETURN_IF_ERROR(CheckKeys("a certificate", entry, {"rawBytes"}));
    MOTET_ASSIGN_OR_RETURN(const std::string der, Base64(entry, "rawBytes"));
    MOTET_ASSIGN_OR_RETURN(CertificatePtr certificate, FromDer(der));
    if (signer == nullptr) {
      signer = std::move(certificate);
    } else if (X509_cmp(certificate.get(), authority) != 0) {
      return Error(absl::StatusCode::kPermissionDenied, kWhere,
                   "a certificate of another authority in the chain",
                   "that of this federation", kAgain);
    }
  }
  // The type of key decides the algorithm; nothing in the file can.
  MOTET_RETURN_IF_ERROR(CheckP256(kWhere, X509_get0_pubkey(signer.get())));
  return signer;
}

absl::Status CheckBytes(EVP_PKEY* key, const std::string& signature,
                        const std::string& bytes) {
  const DigestContextPtr context(EVP_MD_CTX_new());
  if (context == nullptr ||
      EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr,
                           key) != 1) {
    return OpensslError(kWhere, "checking");
  }
  const bool ok =
      EVP_DigestVerify(
          context.get(),
          reinterpret_cast<const unsigned char*>(signature.data()),
          signature.size(),
          reinterpret_cast<const unsigned char*>(bytes.data()),
          bytes.size()) == 1;
  OpensslReason();
  if (ok) return absl::OkStatus();
  return Error(absl::StatusCode::kPermissionDenied, kWhere,
               "a signature that does not fit the statement",
               "one by the key of the certificate in it",
               "do not use the package; fetch it again");
}

absl::StatusOr<std::vector<SignedFile>> FilesOf(const Json& resources) {
  if (!resources.is_array() || resources.empty() ||
      static_cast<int64_t>(resources.size()) > kMaxPackageFiles) {
    return Refuse("no list of files of the right length",
                  absl::StrCat("1 to ", kMaxPackageFiles, " files"));
  }
  std::vector<SignedFile> files;
  for (const Json& resource : resources) {
    MOTET_RETURN_IF_ERROR(CheckKeys("a resource", resource,
                                    {"name", "algorithm", "digest"}));
    MOTET_RETURN_IF_ERROR(CheckText(resource, "algorithm", "sha256"));
    SignedFile file;
    MOTET_ASSIGN_OR_RETURN(file.path, Text(resource, "name"));
    MOTET_ASSIGN_OR_RETURN(const std::string hex, Text(resource, "digest"));
    const absl::StatusOr<Digest> digest = DigestFromHex(hex);
    if (!digest.ok()) {
      return Refuse(absl::StrCat(Quoted(hex), " as a digest"),
                    "64 lower-case hexadecimal digits");
    }
    file.sha256 = *digest;
    files.push_back(std::move(file));
  }
  return files;
}

// Name and files of a statement whose signature has been checked.
absl::Status ReadStatement(const Json& statement, SignatureInfo& info) {
  MOTET_RETURN_IF_ERROR(
      CheckKeys("the statement", statement,
                {"_type", "subject", "predicateType", "predicate"}));
  MOTET_RETURN_IF_ERROR(CheckText(statement, "_type", kStatementType));
  MOTET_RETURN_IF_ERROR(
      CheckText(statement, "predicateType", kPredicateType));
  const Json& subject = statement["subject"];
  if (!subject.is_array() || subject.size() != 1) {
    return Refuse("no single subject", "one");
  }
  MOTET_RETURN_IF_ERROR(
      CheckKeys("the subject", subject[0], {"name", "digest"}));
  MOTET_ASSIGN_OR_RETURN(info.name, Text(subject[0], "name"));
  const Json& root = subject[0]["digest"];
  MOTET_RETURN_IF_ERROR(CheckKeys("the subject's digest", root, {"sha256"}));
  const Json& predicate = statement["predicate"];
  // The layout lets verifiers pass over what v1.0 does not know here.
  if (!predicate.is_object() || !predicate.contains("serialization") ||
      !predicate.contains("resources")) {
    return Refuse("a predicate without serialization or resources", "both");
  }
  const Json& serialization = predicate["serialization"];
  MOTET_RETURN_IF_ERROR(CheckKeys("serialization", serialization,
                                  {"method", "hash_type"},
                                  {"allow_symlinks", "ignore_paths"}));
  MOTET_RETURN_IF_ERROR(CheckText(serialization, "method", "files"));
  MOTET_RETURN_IF_ERROR(CheckText(serialization, "hash_type", "sha256"));
  MOTET_ASSIGN_OR_RETURN(info.files, FilesOf(predicate["resources"]));
  // Over the order as signed; sorted only after.
  MOTET_RETURN_IF_ERROR(CheckText(root, "sha256", Hex(RootDigest(info.files))));
  std::sort(info.files.begin(), info.files.end(),
            [](const SignedFile& a, const SignedFile& b) {
              return PathLess(a.path, b.path);
            });
  return CheckSignedFiles(info.name, info.files);
}

}  // namespace

absl::Status CheckMaySign(X509* certificate) {
  const uint32_t usages = X509_get_extended_key_usage(certificate);
  if (usages != UINT32_MAX && (usages & XKU_CODE_SIGN) != 0) {
    return absl::OkStatus();
  }
  return Error(absl::StatusCode::kPermissionDenied, kWhere,
               "a certificate that is not for signing packages",
               "a node's or a coordinator's",
               "sign with the owner's certificate");
}

absl::StatusOr<SignatureInfo> VerifySignature(
    const std::string& model_sig, const std::string& authority_pem,
    int64_t when) {
  if (static_cast<int64_t>(model_sig.size()) > kMaxSignatureBytes) {
    return Error(absl::StatusCode::kResourceExhausted, kWhere,
                 absl::StrCat("model.sig of ", model_sig.size(), " bytes"),
                 absl::StrCat("at most ", kMaxSignatureBytes), kAgain);
  }
  MOTET_ASSIGN_OR_RETURN(const CertificatePtr authority,
                         ReadCertificate("authority", authority_pem));
  MOTET_ASSIGN_OR_RETURN(const Json bundle, Parse("model.sig", model_sig));
  MOTET_RETURN_IF_ERROR(
      CheckKeys("model.sig", bundle,
                {"mediaType", "verificationMaterial", "dsseEnvelope"}));
  MOTET_RETURN_IF_ERROR(CheckText(bundle, "mediaType", kMediaType));
  const Json& envelope = bundle["dsseEnvelope"];
  MOTET_RETURN_IF_ERROR(CheckKeys("dsseEnvelope", envelope,
                                  {"payload", "payloadType", "signatures"}));
  MOTET_RETURN_IF_ERROR(CheckText(envelope, "payloadType", kPayloadType));
  MOTET_ASSIGN_OR_RETURN(const std::string payload,
                         Base64(envelope, "payload"));
  const Json& signatures = envelope["signatures"];
  if (!signatures.is_array() || signatures.size() != 1) {
    return Refuse("no single signature", "one");
  }
  MOTET_RETURN_IF_ERROR(
      CheckKeys("the signature", signatures[0], {"sig"}, {"keyid"}));
  if (signatures[0].contains("keyid")) {
    MOTET_RETURN_IF_ERROR(CheckText(signatures[0], "keyid", ""));
  }
  MOTET_ASSIGN_OR_RETURN(const std::string signature,
                         Base64(signatures[0], "sig"));
  MOTET_ASSIGN_OR_RETURN(
      const CertificatePtr signer,
      SignerOf(bundle["verificationMaterial"], authority.get()));
  MOTET_RETURN_IF_ERROR(VerifyChain(signer.get(), authority.get(), when));
  MOTET_RETURN_IF_ERROR(CheckMaySign(signer.get()));
  MOTET_RETURN_IF_ERROR(CheckBytes(X509_get0_pubkey(signer.get()), signature,
                                   PreAuthentication(payload)));
  MOTET_ASSIGN_OR_RETURN(const Json statement,
                         Parse("the statement", payload));
  SignatureInfo info;
  MOTET_RETURN_IF_ERROR(ReadStatement(statement, info));
  MOTET_ASSIGN_OR_RETURN(info.certificate_pem, CertificatePem(signer.get()));
  return info;
}

}  // namespace motet::proto
