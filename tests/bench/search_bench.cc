// SPDX-License-Identifier: Apache-2.0
// Searches of a retrieval composition, end to end: 16 clients, one query each
// at a time, over HTTP, through both passes of the encoder and an index of
// 10,000 made vectors; and the base encoder with FAISS's flat index alone, 16
// queries in one batch, with no HTTP, no clients to wait for and no texts.
//
//   search_bench --model DIR --out FOLDER --arithmetic NAME  a player
//   (player.h)
//
// Tasks, in queries a second:
//   search              over HTTP, by the composition
//   search_base         over HTTP, by the base encoder alone: one pass
//   faiss, faiss_blas   the peer, by its two ways
// and in microseconds a query:
//   routing             the comparison with the pilots
//   routing_allowed     3 % of a query of `search`
#include <faiss/IndexFlat.h>
#include <faiss/utils/distances.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "compose/retrieve/index_writer.h"
#include "compose/retrieve/pilots.h"
#include "coordinator/http/front_retrieval.h"
#include "coordinator/http/server.h"
#include "coordinator/policy.h"
#include "coordinator/retrieval.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "tests/bench/made_retriever.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

constexpr int kClients = 16, kQueries = 12;  // of each client, in a round
constexpr int64_t kDocuments = 10000, kBest = 10;

// One connection, kept open.
class Client {
 public:
  explicit Client(const std::string& address) {
    int port = 0;
    (void)absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port);
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connected_ =
        connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
  }
  ~Client() { close(socket_); }
  Client(const Client&) = delete;

  // The answer's body; empty where it was not 200.
  std::string Post(const std::string& path, const std::string& body) {
    const std::string request = absl::StrCat(
        "POST ", path, " HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(),
        "\r\n\r\n", body);
    if (!connected_ ||
        send(socket_, request.data(), request.size(), MSG_NOSIGNAL) < 0) {
      return "";
    }
    std::string got;
    size_t head = std::string::npos, length = 0;
    char piece[16384];
    while (head == std::string::npos || got.size() < head + length) {
      const ssize_t n = recv(socket_, piece, sizeof piece, 0);
      if (n <= 0) return "";
      got.append(piece, static_cast<size_t>(n));
      if (head != std::string::npos) continue;
      const size_t end = got.find("\r\n\r\n");
      if (end == std::string::npos) continue;
      head = end + 4;
      const size_t at = got.find("Content-Length: ");
      if (at > end ||
          !absl::SimpleAtoi(got.substr(at + 16, got.find('\r', at) - at - 16),
                            &length)) {
        return "";
      }
    }
    return got.starts_with("HTTP/1.1 200") ? got.substr(head) : "";
  }

 private:
  int socket_ = -1;
  bool connected_ = false;
};

// Directions, the same for both sides.
std::vector<float> MadeVectors(int64_t width) {
  std::vector<float> vectors(static_cast<size_t>(kDocuments * width));
  uint64_t state = 1;
  for (int64_t d = 0; d < kDocuments; ++d) {
    float length = 0;
    float* row = vectors.data() + d * width;
    for (int64_t c = 0; c < width; ++c) {
      state = state * 6364136223846793005 + 1442695040888963407;
      row[c] = static_cast<float>(state >> 40) / (1 << 24) - 0.5f;
      length += row[c] * row[c];
    }
    for (int64_t c = 0; c < width; ++c) row[c] /= std::sqrt(length);
  }
  return vectors;
}

class Searching {
 public:
  Searching(std::string model, std::string out, math::Product product)
      : model_(std::move(model)), out_(std::move(out)), product_(product) {}

  absl::StatusOr<double> Http(bool routed) {
    MOTET_RETURN_IF_ERROR(Start());
    std::vector<std::thread> clients;
    std::atomic<int> failed = 0;
    const double seconds = Seconds([&] {
      for (int c = 0; c < kClients; ++c) {
        clients.emplace_back([&, c] {
          Client client(server_->address());
          for (int q = 0; q < kQueries; ++q) {
            nlohmann::json body = {{"model", "made"},
                                   {"query", MadeQuery(c * kQueries + q)}};
            if (!routed) body["experts"] = {{"exclude", Everyone()}};
            failed += client.Post("/v1/search", body.dump()).empty() ? 1 : 0;
          }
        });
      }
      for (auto& client : clients) client.join();
    });
    if (failed > 0) {
      return absl::InternalError(absl::StrCat(failed.load(), " failed"));
    }
    return kClients * kQueries / seconds;
  }
  // blas: its other way for few queries, a matrix product.
  absl::StatusOr<double> Faiss(bool blas) {
    MOTET_RETURN_IF_ERROR(Start());
    const retrieve::TextEncoder& base = made_.retriever->base();
    if (faiss_ == nullptr) {
      const std::vector<float> vectors = MadeVectors(base.width());
      faiss_ = std::make_unique<faiss::IndexFlatIP>(base.width());
      faiss_->add(kDocuments, vectors.data());
    }
    faiss::distance_compute_blas_threshold = blas ? 1 : 20;
    absl::Status status;
    const double seconds = Seconds([&] {
      for (int q = 0; status.ok() && q < kQueries; ++q) {
        std::vector<std::string> texts;
        for (int c = 0; c < kClients; ++c) {
          texts.push_back(MadeQuery(c * kQueries + q));
        }
        const auto vectors = base.Encode(texts);
        status = vectors.status();
        if (!status.ok()) return;
        std::vector<float> scores(kClients * kBest);
        std::vector<int64_t> rows(kClients * kBest);
        faiss_->search(kClients, vectors->values.data(), kBest, scores.data(),
                       rows.data());
      }
    });
    MOTET_RETURN_IF_ERROR(status);
    return kClients * kQueries / seconds;
  }
  absl::StatusOr<double> Routing() {
    MOTET_RETURN_IF_ERROR(Start());
    const retrieve::TextEncoder& base = made_.retriever->base();
    const retrieve::PilotRouter router(
        made_.pilots, made_.experts, base.width(),
        retrieve::Similarity::kCosine, retrieve::Aggregate::kMean);
    std::vector<std::string> texts;
    for (int c = 0; c < kClients; ++c) texts.push_back(MadeQuery(c));
    MOTET_ASSIGN_OR_RETURN(const retrieve::Vectors vectors, base.Encode(texts));
    constexpr int kTimes = 200;
    const double seconds = Seconds([&] {
      for (int i = 0; i < kTimes; ++i) router.Route(vectors.values);
    });
    return seconds * 1e6 / (kTimes * kClients);
  }
  absl::StatusOr<double> RoutingAllowed() {
    MOTET_ASSIGN_OR_RETURN(const double rate, Http(true));
    return 0.03 * 1e6 / rate;
  }

 private:
  std::vector<std::string> Everyone() const {
    std::vector<std::string> all;
    for (const auto& expert : made_.retriever->experts) {
      if (!expert.always) all.push_back(expert.id);
    }
    return all;
  }
  absl::Status Start() {
    if (server_ != nullptr) return absl::OkStatus();
    MOTET_ASSIGN_OR_RETURN(made_,
                           MakeRetriever(model_, out_ + "/packages", product_));
    const retrieve::Retriever& retriever = *made_.retriever;
    const std::string folder = out_ + "/index";
    std::filesystem::remove_all(folder);
    {
      MOTET_ASSIGN_OR_RETURN(
          const auto writer,
          retrieve::IndexWriter::Create(
              folder, retrieve::HeaderFor(retriever.base(),
                                          retrieve::IndexKind::kFlat)));
      const std::vector<float> vectors = MadeVectors(retriever.base().width());
      std::vector<retrieve::Document> documents;
      for (int64_t d = 0; d < kDocuments; ++d) {
        documents.push_back({absl::StrCat(d), "", "a made document", {}});
      }
      MOTET_RETURN_IF_ERROR(writer->Add(documents, vectors));
    }
    std::vector<coordinator::ServedIndex> indexes;
    MOTET_ASSIGN_OR_RETURN(
        indexes.emplace_back(),
        coordinator::OpenServedIndex("made=" + folder, retriever.base()));
    gate_ = std::make_unique<coordinator::PolicyGate>(retriever,
                                                      std::set<std::string>());
    engine_ = std::make_unique<coordinator::RetrievalEngine>(
        retriever.base(),
        [&retriever](math::ExpertMask set) {
          return retriever.QueriesFor(set);
        },
        coordinator::RetrievalEngineOptions());
    MOTET_ASSIGN_OR_RETURN(retrieval_, coordinator::Retrieval::Create(
                                           retriever, retriever.base(), *gate_,
                                           *engine_, std::move(indexes), {}));
    front_ = std::make_unique<coordinator::RetrievalFront>(*retrieval_);
    coordinator::HttpOptions options;
    options.address = "127.0.0.1:0";
    MOTET_ASSIGN_OR_RETURN(
        server_, coordinator::HttpServer::Start(
                     options, [this](const coordinator::HttpRequest& request,
                                     coordinator::HttpReply& reply) {
                       front_->Handle(request, reply);
                     }));
    return absl::OkStatus();
  }

  const std::string model_, out_;
  const math::Product product_;
  MadeRetriever made_;
  std::unique_ptr<faiss::IndexFlatIP> faiss_;
  std::unique_ptr<coordinator::PolicyGate> gate_;
  std::unique_ptr<coordinator::RetrievalEngine> engine_;
  std::unique_ptr<coordinator::Retrieval> retrieval_;
  std::unique_ptr<coordinator::RetrievalFront> front_;
  std::unique_ptr<coordinator::HttpServer> server_;  // goes first
};

int Main(int argc, char** argv) {
  const Arithmetic* arithmetic =
      FindArithmetic(Option(argc, argv, "arithmetic", "f32"));
  if (arithmetic == nullptr) return 2;
  Searching searching(Option(argc, argv, "model", ""),
                      Option(argc, argv, "out", "search-bench"),
                      arithmetic->serving);
  Player player;
  player.Add("search", [&] { return searching.Http(true); });
  player.Add("search_base", [&] { return searching.Http(false); });
  player.Add("faiss", [&] { return searching.Faiss(false); });
  player.Add("faiss_blas", [&] { return searching.Faiss(true); });
  player.Add("routing", [&] { return searching.Routing(); });
  player.Add("routing_allowed", [&] { return searching.RoutingAllowed(); });
  return player.Run();
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) { return motet::bench::Main(argc, argv); }
