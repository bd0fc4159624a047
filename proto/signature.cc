// SPDX-License-Identifier: Apache-2.0
// Writing model.sig. What the layout is made of is in signature_layout.h.
#include "proto/signature.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/error.h"
#include "proto/limits.h"
#include "proto/openssl.h"
#include "proto/signature_layout.h"

namespace motet::proto {
namespace {

// Insertion order: people read the statement.
using Json = nlohmann::ordered_json;

std::string Statement(const std::string& name,
                      const std::vector<SignedFile>& files) {
  Json resources = Json::array();
  for (const SignedFile& file : files) {
    resources.push_back({{"name", file.path},
                         {"algorithm", "sha256"},
                         {"digest", Hex(file.sha256)}});
  }
  const Json statement = {
      {"_type", kStatementType},
      {"subject",
       Json::array({{{"name", name},
                     {"digest", {{"sha256", Hex(RootDigest(files))}}}}})},
      {"predicateType", kPredicateType},
      {"predicate",
       {{"serialization",
         {{"method", "files"},
          {"hash_type", "sha256"},
          {"allow_symlinks", false},
          {"ignore_paths", Json::array({kSignatureFile})}}},
        {"resources", std::move(resources)}}}};
  return statement.dump();
}

absl::StatusOr<std::string> SignBytes(EVP_PKEY* key,
                                      const std::string& bytes) {
  const DigestContextPtr context(EVP_MD_CTX_new());
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  size_t size = 0;
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key) !=
          1 ||
      EVP_DigestSign(context.get(), nullptr, &size, data, bytes.size()) != 1) {
    return OpensslError("signature", "signing");
  }
  std::string signature(size, '\0');
  if (EVP_DigestSign(context.get(),
                     reinterpret_cast<unsigned char*>(signature.data()), &size,
                     data, bytes.size()) != 1) {
    return OpensslError("signature", "signing");
  }
  signature.resize(size);  // DER: the first call gave an upper bound
  return signature;
}

absl::StatusOr<std::string> Der(X509* certificate) {
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate, &der);
  if (size <= 0) return OpensslError("signature", "encoding the certificate");
  std::string bytes(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  return bytes;
}

}  // namespace

absl::Status CheckPackagePath(absl::string_view where,
                              absl::string_view path) {
  bool ok = !path.empty() && static_cast<int64_t>(path.size()) <= kMaxPathBytes;
  for (const char c : path) ok = ok && c >= ' ' && c <= '~' && c != '\\';
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    ok = ok && !part.empty() && part != "." && part != "..";
  }
  if (ok) return absl::OkStatus();
  return Invalid(where,
                 absl::StrCat("the path \"",
                              absl::CHexEscape(path.substr(0, 200)), "\""),
                 absl::StrCat("a relative path of printable ASCII, at most ",
                              kMaxPathBytes,
                              " bytes, without \"..\", \"\\\" or empty parts"),
                 "rename the file");
}

bool PathLess(absl::string_view a, absl::string_view b) {
  // By parts, as the tool sorts: '/' comes before every other character.
  return std::lexicographical_compare(
      a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
        return (x == '/' ? 0 : static_cast<unsigned char>(x)) <
               (y == '/' ? 0 : static_cast<unsigned char>(y));
      });
}

Digest RootDigest(const std::vector<SignedFile>& files) {
  Sha256Stream stream;
  for (const SignedFile& file : files) stream.Update(ToBytes(file.sha256));
  return stream.Finish();
}

std::string PreAuthentication(absl::string_view payload) {
  return absl::StrCat("DSSEv1 ", absl::string_view(kPayloadType).size(), " ",
                      kPayloadType, " ", payload.size(), " ", payload);
}

absl::Status CheckSignedFiles(const std::string& name,
                              const std::vector<SignedFile>& files) {
  bool name_ok = !name.empty() &&
                 static_cast<int64_t>(name.size()) <= kMaxIdLength;
  for (const char c : name) name_ok = name_ok && c >= ' ' && c <= '~';
  if (!name_ok) {
    return Invalid("signature",
                   absl::StrCat("the name \"",
                                absl::CHexEscape(name.substr(0, 200)), "\""),
                   absl::StrCat("1 to ", kMaxIdLength,
                                " characters of printable ASCII"),
                   "give the package an id OWNER/NAME@VERSION");
  }
  if (files.empty() ||
      static_cast<int64_t>(files.size()) > kMaxPackageFiles) {
    return Invalid("signature", absl::StrCat(files.size(), " files"),
                   absl::StrCat("1 to ", kMaxPackageFiles));
  }
  const SignedFile* previous = nullptr;
  for (const SignedFile& file : files) {
    MOTET_RETURN_IF_ERROR(CheckPackagePath("signature", file.path));
    if (file.path == kSignatureFile) {
      return Invalid("signature", "model.sig among the signed files",
                     "every file but model.sig");
    }
    if (previous != nullptr && !PathLess(previous->path, file.path)) {
      return Invalid("signature",
                     absl::StrCat("the file ", file.path, " twice"),
                     "every file once");
    }
    previous = &file;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SignFiles(const std::string& name,
                                      std::vector<SignedFile> files,
                                      const std::string& private_pem,
                                      const std::string& certificate_pem) {
  std::sort(files.begin(), files.end(),
            [](const SignedFile& a, const SignedFile& b) {
              return PathLess(a.path, b.path);
            });
  MOTET_RETURN_IF_ERROR(CheckSignedFiles(name, files));
  MOTET_ASSIGN_OR_RETURN(const KeyPtr key,
                         ReadPrivateKey("signature", private_pem));
  MOTET_ASSIGN_OR_RETURN(const CertificatePtr certificate,
                         ReadCertificate("signature", certificate_pem));
  if (EVP_PKEY_eq(X509_get0_pubkey(certificate.get()), key.get()) != 1) {
    OpensslReason();
    return Invalid("signature", "a certificate for another key",
                   "the certificate of the signing key",
                   "take key.pem and certificate.pem of one folder");
  }
  MOTET_RETURN_IF_ERROR(CheckMaySign(certificate.get()));
  const std::string payload = Statement(name, files);
  MOTET_ASSIGN_OR_RETURN(const std::string signature,
                         SignBytes(key.get(), PreAuthentication(payload)));
  MOTET_ASSIGN_OR_RETURN(const std::string der, Der(certificate.get()));
  const Json bundle = {
      {"mediaType", kMediaType},
      {"verificationMaterial",
       {{"x509CertificateChain",
         {{"certificates",
           Json::array({{{"rawBytes", absl::Base64Escape(der)}}})}}},
        {"tlogEntries", Json::array()}}},
      {"dsseEnvelope",
       {{"payload", absl::Base64Escape(payload)},
        {"payloadType", kPayloadType},
        {"signatures",
         Json::array(
             {{{"sig", absl::Base64Escape(signature)}, {"keyid", ""}}})}}}};
  return bundle.dump();
}

}  // namespace motet::proto
