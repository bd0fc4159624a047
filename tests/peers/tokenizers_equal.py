#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds `motet tokenize` against the `tokenizers` library: the ids of every
document of the JSONL files and of random Unicode strings, with and without
the tokens that the tokenizer adds, and the decoded text of each.

  pip install tokenizers
  tests/peers/tokenizers_equal.py --motet build/motet \
      --random 100000 --data FILE.jsonl ... -- TOKENIZER.json ...
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u180e\u2000\u200a\u200b" \
         "\u2028\u2029\u202f\u205f\u3000\ufeff"
PIECES = ["'s", "'RE", " 'll", "'\u017f", "\u212a", "\r\n", "\n\n", "   ",
          "123", "\uff11\uff12", "'Ve", "don't", " ' ", " .", " do not",
          "\U0001F468\u200D\U0001F469\u200D\U0001F467", "\U0001F1E9\U0001F1EA",
          "e\u0301", "\u1112\u1161\u11ab", "\u0130x", "\u03a3\u03c3\u03c2",
          "\ufb01", "\u1e9b\u0323", "\u0344", "one word", "soloq", " soloq.", "\u65e5\u672c",
          "\u00c9lan", "e\u0301lan", "Stra\u00dfe", "\u2126", "\u0958"]


def stretch(first, last):
    return lambda r: chr(r.randint(first, last))


def any_character(r):
    while True:
        c = r.randrange(0x110000)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


# What a random text is made of, and how often.
KINDS = [(25, stretch(0x20, 0x7E)), (10, lambda r: r.choice(SPACES)),
         (12, lambda r: r.choice(PIECES)), (3, stretch(0, 0x1F)),
         (8, stretch(0x80, 0x7FF)), (6, stretch(0x300, 0x36F)),
         (4, stretch(0x1100, 0x11FF)), (4, stretch(0xAC00, 0xD7A3)),
         (6, stretch(0x4E00, 0x9FFF)), (5, stretch(0x900, 0xDFF)),
         (5, stretch(0x1F300, 0x1FAFF)), (4, stretch(0x2000, 0x2FFF)),
         (3, stretch(0x3000, 0x30FF)), (3, stretch(0x10000, 0x1FFFF)),
         (2, stretch(0xE000, 0xFFFF)), (8, any_character),
         (12, lambda r: r.choice("aaabbb  '\n\t0"))]


def random_texts(n, seed, added):
    r = random.Random(seed)
    kinds = list(KINDS)
    if added:
        kinds.append((8, lambda r: r.choice(added)))
    makers = [k for _, k in kinds]
    weights = [w for w, _ in kinds]
    for _ in range(n):
        # Some texts stay with few kinds: long runs of marks or of letters.
        few = r.random() < 0.3
        chosen = r.choices(makers, weights, k=2) if few else None
        make = (r.choices(chosen, k=r.randrange(1, 40)) if few else
                r.choices(makers, weights, k=r.randrange(1, 40)))
        yield "".join(m(r) for m in make)


def sweeps():
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for i in range(0, len(every), 300):
        yield "".join(every[i:i + 300])
        yield "".join("a" + c + " " for c in every[i:i + 300])
    for text in ("", "a" * 5000, " " * 5000, "\n" * 3000, "ab" * 3000,
                 "a" + "\u0301\u0323" * 2000):
        yield text


def ours(motet, path, data, special):
    command = [motet, "tokenize", path, "--data", data, "--decode", "-o",
               "json"] + ([] if special else ["--no-special-tokens"])
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        sys.exit("%s\n%s" % (" ".join(command), out.stderr))
    return [json.loads(line) for line in out.stdout.split("\n") if line]


def compare(args, path):
    stock = Tokenizer.from_file(path)
    stock.no_truncation()
    stock.no_padding()
    texts = []
    for name in args.data:
        with open(name, encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    documents = len(texts)
    added = [t.content for t in stock.get_added_tokens_decoder().values()]
    texts += random_texts(args.random, args.seed, added)
    texts += sweeps()
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
        file.flush()
        result = {"tokenizer": path, "documents": documents,
                  "random": args.random, "texts": len(texts)}
        trips = 0
        for special in (False, True):
            wrong_ids = wrong_text = 0
            got = ours(args.motet, path, file.name, special)
            assert len(got) == len(texts), (len(got), len(texts))
            # What is added does not depend on the text: some are enough.
            count = documents + 1000 if special else len(texts)
            for start in range(0, count, 1000):
                batch = texts[start:start + 1000]
                encoded = stock.encode_batch(batch,
                                             add_special_tokens=special)
                want = [e.ids for e in encoded]
                decoded = stock.decode_batch(want, skip_special_tokens=False)
                for i, (w, d) in enumerate(zip(want, decoded)):
                    g = got[start + i]
                    if g["ids"] != w:
                        wrong_ids += 1
                        if wrong_ids <= args.show:
                            print("ids", start + i, ascii(batch[i][:200]),
                                  w[:40], g["ids"][:40], file=sys.stderr)
                    elif g["decoded"] != d:
                        wrong_text += 1
                        if wrong_text <= args.show:
                            print("text", start + i, ascii(d[:200]),
                                  ascii(g["decoded"][:200]), file=sys.stderr)
                    trips += not special and g["decoded"] == batch[i]
            name = "with" if special else "without"
            result["ids_differ_%s_special" % name] = wrong_ids
            result["text_differs_%s_special" % name] = wrong_text
        result["come_back_whole"] = trips
    print(json.dumps(result), flush=True)
    return wrong_ids + wrong_text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--motet", default="build/motet")
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--random", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=3)
    parser.add_argument("tokenizers", nargs="+")
    args = parser.parse_args()
    bad = sum(compare(args, path) for path in args.tokenizers)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
