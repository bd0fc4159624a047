// SPDX-License-Identifier: Apache-2.0
// Keys and certificate requests: what a node makes of itself. Of a request
// nothing but the public key and one checked SPIFFE id is ever used.
#include <openssl/pem.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/identity.h"
#include "proto/limits.h"
#include "proto/openssl.h"

namespace motet::proto {
namespace {

using ExtensionsPtr = std::unique_ptr<
    STACK_OF(X509_EXTENSION),
    decltype([](STACK_OF(X509_EXTENSION) * extensions) {
      sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
    })>;

absl::StatusOr<RequestPtr> ReadRequest(absl::string_view pem) {
  if (static_cast<int64_t>(pem.size()) > kMaxCertificateBytes) {
    return Error(absl::StatusCode::kResourceExhausted, "request",
                 absl::StrCat(pem.size(), " bytes"),
                 absl::StrCat("at most ", kMaxCertificateBytes));
  }
  const BioPtr bio = ReadOnly(pem);
  RequestPtr request(PEM_read_bio_X509_REQ(
      bio.get(), nullptr, [](char*, int, int, void*) { return -1; }, nullptr));
  const std::string reason = OpensslReason();
  if (request == nullptr) {
    return Invalid("request",
                   absl::StrCat("no readable request (", reason, ")"),
                   "a PKCS#10 certificate request in PEM",
                   "send the request.pem that `motet-node init` wrote");
  }
  return request;
}

absl::StatusOr<SpiffeId> IdOf(X509_REQ* request) {
  const ExtensionsPtr extensions(X509_REQ_get_extensions(request));
  int state = 0;
  const GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(X509V3_get_d2i(
      extensions.get(), NID_subject_alt_name, &state, nullptr)));
  OpensslReason();
  if (names == nullptr && state != -1) {
    return Invalid("request", "unreadable or repeated alternative names",
                   "one extension that can be read");
  }
  const std::vector<std::string> uris = Uris(names.get());
  if (uris.size() != 1) {
    return Invalid("request", absl::StrCat(uris.size(), " URI names"),
                   "exactly one SPIFFE id",
                   "make the request with `motet-node init`");
  }
  return ParseSpiffeId(uris[0]);
}

}  // namespace

absl::StatusOr<KeyPair> MakeKey() {
  const KeyPtr key(EVP_EC_gen("P-256"));
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (key == nullptr || bio == nullptr ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0,
                                    nullptr, nullptr) != 1) {
    return OpensslError("key", "making a P-256 key");
  }
  KeyPair pair;
  pair.private_pem = Contents(bio.get());
  MOTET_ASSIGN_OR_RETURN(pair.public_pem, PublicPem(key.get()));
  return pair;
}

absl::StatusOr<std::string> MakeRequest(const std::string& private_pem,
                                        const SpiffeId& id) {
  // Refuses ids whose parts are no names, before they are signed.
  MOTET_RETURN_IF_ERROR(ParseSpiffeId(id.ToString()).status());
  MOTET_ASSIGN_OR_RETURN(const KeyPtr key,
                         ReadPrivateKey("request", private_pem));
  const RequestPtr request(X509_REQ_new());
  const BioPtr bio(BIO_new(BIO_s_mem()));
  const GeneralNamesPtr names(GENERAL_NAMES_new());
  GENERAL_NAME* name = GENERAL_NAME_new();
  ASN1_IA5STRING* uri = ASN1_IA5STRING_new();
  if (request == nullptr || bio == nullptr || names == nullptr ||
      name == nullptr || uri == nullptr ||
      ASN1_STRING_set(uri, id.ToString().c_str(), -1) != 1) {
    GENERAL_NAME_free(name);
    ASN1_IA5STRING_free(uri);
    return OpensslError("request", "making a request");
  }
  GENERAL_NAME_set0_value(name, GEN_URI, uri);
  if (sk_GENERAL_NAME_push(names.get(), name) <= 0) {
    GENERAL_NAME_free(name);
    return OpensslError("request", "making a request");
  }
  const ExtensionPtr extension(
      X509V3_EXT_i2d(NID_subject_alt_name, 0, names.get()));
  const ExtensionsPtr extensions(sk_X509_EXTENSION_new_null());
  if (extension == nullptr || extensions == nullptr) {
    return OpensslError("request", "making a request");
  }
  // The stack owns what is pushed, so it gets a copy.
  ExtensionPtr copy(X509_EXTENSION_dup(extension.get()));
  if (copy == nullptr ||
      sk_X509_EXTENSION_push(extensions.get(), copy.get()) <= 0) {
    return OpensslError("request", "making a request");
  }
  copy.release();
  X509_NAME* subject = X509_REQ_get_subject_name(request.get());
  const auto* common_name =
      reinterpret_cast<const unsigned char*>(id.name.c_str());
  if (X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) != 1 ||
      X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8,
                                 common_name, -1, -1, 0) != 1 ||
      X509_REQ_add_extensions(request.get(), extensions.get()) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1 ||
      X509_REQ_sign(request.get(), key.get(), EVP_sha256()) <= 0 ||
      PEM_write_bio_X509_REQ(bio.get(), request.get()) != 1) {
    return OpensslError("request", "signing a request");
  }
  return Contents(bio.get());
}

absl::StatusOr<RequestInfo> InspectRequest(const std::string& request_pem) {
  MOTET_ASSIGN_OR_RETURN(const RequestPtr request, ReadRequest(request_pem));
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  MOTET_RETURN_IF_ERROR(CheckP256("request", key));
  const bool signed_by_key = X509_REQ_verify(request.get(), key) == 1;
  OpensslReason();
  if (!signed_by_key) {
    return Invalid("request", "a signature that does not fit its key",
                   "a request signed by the key it names",
                   "copy request.pem again, it was damaged on the way");
  }
  RequestInfo info;
  MOTET_ASSIGN_OR_RETURN(info.id, IdOf(request.get()));
  MOTET_ASSIGN_OR_RETURN(info.fingerprint, Fingerprint(key));
  return info;
}

}  // namespace motet::proto
