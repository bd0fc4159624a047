// SPDX-License-Identifier: Apache-2.0
// What the sources of this folder share of OpenSSL: owners of its objects,
// reading of PEM without prompts, and its errors as absl::Status. Internal:
// no other box includes this file.
#pragma once

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/digest.h"

namespace motet::proto {

template <auto Free>
struct OpensslFree {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
template <typename T, auto Free>
using OpensslPtr = std::unique_ptr<T, OpensslFree<Free>>;

using BioPtr = OpensslPtr<BIO, BIO_free_all>;
using BignumPtr = OpensslPtr<BIGNUM, BN_free>;
using ExtensionPtr = OpensslPtr<X509_EXTENSION, X509_EXTENSION_free>;
using GeneralNamesPtr = OpensslPtr<GENERAL_NAMES, GENERAL_NAMES_free>;
using KeyPtr = OpensslPtr<EVP_PKEY, EVP_PKEY_free>;
using DigestContextPtr = OpensslPtr<EVP_MD_CTX, EVP_MD_CTX_free>;
using RequestPtr = OpensslPtr<X509_REQ, X509_REQ_free>;
using CertificatePtr = OpensslPtr<X509, X509_free>;

// Internal, for a call of OpenSSL that fails for no reason of the caller's
// (memory, random source). Takes the error queue's text and empties it.
absl::Status OpensslError(absl::string_view where, absl::string_view doing);
// The newest reason in the error queue, which is emptied; "" when none.
std::string OpensslReason();

// A read-only view; bytes must outlive it.
BioPtr ReadOnly(absl::string_view bytes);
std::string Contents(BIO* bio);

// Each of these refuses what is not P-256. `where` opens the message.
absl::Status CheckP256(absl::string_view where, EVP_PKEY* key);
absl::StatusOr<KeyPtr> ReadPrivateKey(absl::string_view where,
                                      absl::string_view pem);
// One certificate, at most kMaxCertificateBytes, nothing else in the text.
absl::StatusOr<CertificatePtr> ReadCertificate(absl::string_view where,
                                               absl::string_view pem);
absl::StatusOr<std::string> CertificatePem(X509* certificate);
absl::StatusOr<std::string> PublicPem(EVP_PKEY* key);
// "SHA256:" and the digest of the key's SubjectPublicKeyInfo.
absl::StatusOr<std::string> Fingerprint(EVP_PKEY* key);
// The URIs among the names; null names are none.
std::vector<std::string> Uris(const GENERAL_NAMES* names);
absl::StatusOr<std::vector<std::string>> UrisOf(absl::string_view where,
                                                X509* certificate);
// VerifyCertificate of identity.h for parsed certificates.
absl::Status VerifyChain(X509* certificate, X509* authority, int64_t when);

}  // namespace motet::proto
