#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encoding speed beside the `tokenizers` library: a fresh process each, in
turn, processor time of one thread, the first look at every word. Prints the
rows of tests/bench/run.sh (median of the rounds).

  pip install tokenizers
  tests/bench/peers/tokenizers_speed.py --bench build/tests/tokenizer_bench \
      --data FILE.jsonl ... -- NAME=TOKENIZER.json ...
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"


def peer(path, files):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = []
    for name in files:
        with open(name, encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    size = sum(len(t.encode()) for t in texts)
    start = time.process_time()
    tokens = sum(len(tokenizer.encode(t)) for t in texts)
    seconds = time.process_time() - start
    print(json.dumps({"mb_per_s": size / 1e6 / seconds, "tokens": tokens}))


def run(command):
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def main():
    if sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", default="build/tests/tokenizer_bench")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("tokenizers", nargs="+", metavar="NAME=FILE")
    args = parser.parse_args()
    rows = []
    for item in args.tokenizers:
        name, path = item.split("=", 1)
        ours, theirs = [], []
        for _ in range(args.rounds):
            mine = run([args.bench, path] + args.data)
            stock = run([sys.executable, __file__, "--peer", path] + args.data)
            assert mine["tokens"] == stock["tokens"], (mine, stock)
            ours.append(mine["mb_per_s"])
            theirs.append(stock["mb_per_s"])
        a, b = statistics.median(ours), statistics.median(theirs)
        rows.append({"name": "tokenize_" + name, "ours": round(a, 2),
                     "peer": round(b, 2), "peer_name": "tokenizers",
                     "ratio": round(a / b, 2), "unit": "MB/s",
                     "cpu": processor()})
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
