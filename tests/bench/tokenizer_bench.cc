// SPDX-License-Identifier: Apache-2.0
// MB/s of encoding, one thread, every word met for the first time:
//   tokenizer_bench TOKENIZER.json FILE.jsonl... prints
//   {"mb_per_s", "warm_mb_per_s", "load_s", "tokens", "bytes"}
// Time is the thread's own, so that a busy machine does not count.
// tests/bench/peers/tokenizers_speed.py sets the stock library beside it.
#include <time.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "compose/model/tokenizer.h"
#include "nlohmann/json.hpp"
#include "proto/files.h"
#include "proto/limits.h"

namespace {

double Seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  using nlohmann::json;
  if (argc < 3) {
    fprintf(stderr, "tokenizer_bench TOKENIZER.json FILE.jsonl...\n");
    return 2;
  }
  const auto text =
      motet::proto::ReadFile(argv[1], motet::proto::kMaxTokenizerBytes);
  if (!text.ok()) {
    fprintf(stderr, "%s\n", std::string(text.status().message()).c_str());
    return 1;
  }
  const double start = Seconds();
  const auto tokenizer = motet::model::Tokenizer::Parse(*text);
  if (!tokenizer.ok()) {
    fprintf(stderr, "%s\n", std::string(tokenizer.status().message()).c_str());
    return 1;
  }
  const double load = Seconds() - start;
  std::vector<std::string> documents;
  double bytes = 0;
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i]);
    for (std::string line; std::getline(file, line);) {
      const json document = json::parse(line, nullptr, false);
      if (!document.is_object() || !document["text"].is_string()) continue;
      documents.push_back(document["text"].get<std::string>());
      bytes += static_cast<double>(documents.back().size());
    }
  }
  double rates[2];
  size_t tokens = 0;
  for (double& rate : rates) {
    const double begin = Seconds();
    tokens = 0;
    for (const std::string& d : documents) {
      tokens += (*tokenizer)->Encode(d).size();
    }
    rate = bytes / 1e6 / (Seconds() - begin);
  }
  printf("%s\n", json{{"mb_per_s", rates[0]},
                      {"warm_mb_per_s", rates[1]},
                      {"load_s", load},
                      {"tokens", tokens},
                      {"bytes", bytes}}
                     .dump()
                     .c_str());
  return 0;
}
