// SPDX-License-Identifier: Apache-2.0
#include "proto/openssl.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::proto {
namespace {

// Without this OpenSSL would ask for a password on the terminal.
int RefusePassword(char*, int, int, void*) { return -1; }

absl::Status CheckPemSize(absl::string_view where, absl::string_view pem) {
  if (static_cast<int64_t>(pem.size()) <= kMaxCertificateBytes) {
    return absl::OkStatus();
  }
  return Error(absl::StatusCode::kResourceExhausted, where,
               absl::StrCat(pem.size(), " bytes of PEM"),
               absl::StrCat("at most ", kMaxCertificateBytes));
}

}  // namespace

std::string OpensslReason() {
  std::string text;
  while (const unsigned long code = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(code);
    text = reason != nullptr ? reason : absl::StrCat("error ", code);
  }
  return text;
}

absl::Status OpensslError(absl::string_view where, absl::string_view doing) {
  const std::string reason = OpensslReason();
  return Error(absl::StatusCode::kInternal, where,
               absl::StrCat("\"", reason.empty() ? "failure" : reason,
                            "\" of OpenSSL on ", doing),
               "success");
}

BioPtr ReadOnly(absl::string_view bytes) {
  return BioPtr(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())));
}

std::string Contents(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return size > 0 ? std::string(data, static_cast<size_t>(size)) : "";
}

absl::Status CheckP256(absl::string_view where, EVP_PKEY* key) {
  char group[64] = "";
  size_t size = 0;
  if (key != nullptr && EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
      EVP_PKEY_get_group_name(key, group, sizeof group, &size) == 1 &&
      absl::string_view(group, size) == "prime256v1") {
    return absl::OkStatus();
  }
  const char* type = key != nullptr ? EVP_PKEY_get0_type_name(key) : nullptr;
  return Invalid(where,
                 absl::StrCat("a key of type ",
                              type != nullptr ? type : "unknown",
                              group[0] != '\0' ? " " : "", group),
                 "an ECDSA key on P-256", "make a new key");
}

absl::StatusOr<KeyPtr> ReadPrivateKey(absl::string_view where,
                                      absl::string_view pem) {
  MOTET_RETURN_IF_ERROR(CheckPemSize(where, pem));
  const BioPtr bio = ReadOnly(pem);
  KeyPtr key(
      PEM_read_bio_PrivateKey(bio.get(), nullptr, RefusePassword, nullptr));
  const std::string reason = OpensslReason();
  if (key == nullptr) {
    return Invalid(where,
                   absl::StrCat("no readable private key (", reason, ")"),
                   "an unencrypted PKCS#8 key in PEM",
                   "check that this is the key file");
  }
  MOTET_RETURN_IF_ERROR(CheckP256(where, key.get()));
  return key;
}

absl::StatusOr<CertificatePtr> ReadCertificate(absl::string_view where,
                                               absl::string_view pem) {
  MOTET_RETURN_IF_ERROR(CheckPemSize(where, pem));
  const BioPtr bio = ReadOnly(pem);
  CertificatePtr certificate(
      PEM_read_bio_X509(bio.get(), nullptr, RefusePassword, nullptr));
  const std::string reason = OpensslReason();
  if (certificate == nullptr) {
    return Invalid(where,
                   absl::StrCat("no readable certificate (", reason, ")"),
                   "an X.509 certificate in PEM",
                   "check that this is the certificate file");
  }
  const CertificatePtr second(
      PEM_read_bio_X509(bio.get(), nullptr, RefusePassword, nullptr));
  OpensslReason();
  if (second != nullptr) {
    return Invalid(where, "more than one certificate", "exactly one",
                   "keep the program's own certificate alone in the file");
  }
  MOTET_RETURN_IF_ERROR(
      CheckP256(where, X509_get0_pubkey(certificate.get())));
  return certificate;
}

absl::StatusOr<std::string> CertificatePem(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate) != 1) {
    return OpensslError("certificate", "writing PEM");
  }
  return Contents(bio.get());
}

absl::StatusOr<std::string> PublicPem(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_PUBKEY(bio.get(), key) != 1) {
    return OpensslError("key", "writing PEM");
  }
  return Contents(bio.get());
}

absl::StatusOr<std::string> Fingerprint(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(key, &der);
  if (size <= 0) return OpensslError("key", "encoding the public key");
  const Digest digest = Sha256(absl::string_view(
      reinterpret_cast<const char*>(der), static_cast<size_t>(size)));
  OPENSSL_free(der);
  return absl::StrCat("SHA256:", Hex(digest));
}

std::vector<std::string> Uris(const GENERAL_NAMES* names) {
  std::vector<std::string> uris;
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(
        reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
        static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  return uris;
}

absl::StatusOr<std::vector<std::string>> UrisOf(absl::string_view where,
                                                X509* certificate) {
  int state = 0;
  const GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(
      certificate, NID_subject_alt_name, &state, nullptr)));
  OpensslReason();
  // -1: the extension is absent; -2: it is there more than once.
  if (names == nullptr && state != -1) {
    return Invalid(where, "unreadable or repeated alternative names",
                   "one extension that can be read");
  }
  return Uris(names.get());
}

}  // namespace motet::proto
