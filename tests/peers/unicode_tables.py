#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes compose/model/unicode_*.inl: what each character is to the
`tokenizers` library. Its parts know Unicode of different versions (patterns
16, lower case 17, NFC 13, BERT's categories 8), so its behaviour is asked,
character by character; Python's unicodedata only proposes combining classes
and decompositions. Takes about two minutes.

  pip install tokenizers
  for part in properties normalization; do
    tests/peers/unicode_tables.py $part > compose/model/unicode_$part.inl
  done
"""
import sys
import unicodedata

import tokenizers
from tokenizers import (AddedToken, Regex, Tokenizer, models, normalizers,
                        pre_tokenizers)

ALL = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(ALL)


def matched(pattern):
    left = set(normalizers.Replace(Regex(pattern), "").normalize_str(TEXT))
    return set(ALL) - left


def pieces(pre_tokenizer, n):
    return {c for c in ALL
            if len(pre_tokenizer.pre_tokenize_str("a" + c + "a")) == n}


def bert(**on):
    options = dict(clean_text=False, handle_chinese_chars=False,
                   strip_accents=False, lowercase=False)
    return normalizers.BertNormalizer(**{**options, **on})


def vanishing(normalizer):
    return {c for c in ALL if normalizer.normalize_str("a" + c + "a") == "aa"}


def word_characters():
    # A token that must be a single word is none beside a word character.
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_tokens([AddedToken("<q>", single_word=True,
                                     normalized=False)])
    encoded = tokenizer.encode_batch([c + "<q>" for c in ALL])
    return {c for c, e in zip(ALL, encoded) if 1 not in e.ids}


def wrapped(numbers):
    line, lines = "   ", []
    for number in numbers:
        text = " %s," % number
        if len(line) + len(text) > 80:
            lines.append(line)
            line = "   "
        line += text
    return "\n".join(lines + [line])


def table(name, comment, numbers):
    print("// %s" % comment.replace("\n", "\n// "))
    print("constexpr uint32_t %s[] = {\n%s\n};\n" % (name, wrapped(numbers)))


def runs(value):
    """(length, value) of stretches of equal value, from U+0000 on."""
    out = []
    for c in range(0x110000):
        v = value(chr(c)) if not 0xD800 <= c <= 0xDFFF else 0
        if out and out[-1][1] == v:
            out[-1][0] += 1
        else:
            out.append([1, v])
    return [n for run in out for n in run]


def main():
    space = pieces(pre_tokenizers.WhitespaceSplit(), 2)
    assert space == matched(r"\s")
    nfc, nfd = normalizers.NFC(), normalizers.NFD()
    lower = normalizers.Lowercase()
    sets = [
        matched(r"\p{L}"), matched(r"\p{N}"), space,
        pieces(pre_tokenizers.Digits(individual_digits=True), 3),
        pieces(pre_tokenizers.BertPreTokenizer(), 3),
        vanishing(bert(clean_text=True)),
        vanishing(bert(strip_accents=True)),
        word_characters(),
    ]
    # A character of white space is cut away, not cut out.
    sets[4] -= space
    decomposed = [c for c in ALL if nfd.normalize_str(c) != c
                  and not "\uAC00" <= c <= "\uD7A3"]
    compose, decompose = [], []
    for c in decomposed:
        parts = [int(p, 16) for p in unicodedata.decomposition(c).split()]
        if len(parts) == 2 and nfc.normalize_str(c) == c:
            compose += [ord(c)] + parts
        else:
            decompose += [ord(c)] + (parts + [0])[:2]

    def combining(c):
        if c in decomposed_set:
            return 0
        moves = nfd.normalize_str("\u0345" + c) == c + "\u0345"
        k = unicodedata.combining(c)
        assert not moves or k or c == "\u0345", hex(ord(c))
        return k if moves else 0

    decomposed_set = set(decomposed)
    lowered, steps = [], []
    for c in ALL:
        to = lower.normalize_str(c)
        if to != c and c != "\u0130":
            assert len(to) == 1
            lowered.append((ord(c), ord(to)))
    for c, to in lowered:  # first, last, step, where the first goes
        if steps and to - c == steps[-1][3] - steps[-1][0]:
            first, last, step, _ = steps[-1]
            if c - last in (1, 2) and (first == last or step == c - last):
                steps[-1][1:3] = [c, c - last]
                continue
        steps.append([c, c, 1, to])
    print("// SPDX-License-Identifier: Apache-2.0")
    print("// Data, not code: written by tests/peers/unicode_tables.py from the\n"
          "// behaviour of tokenizers %s and Python's unicodedata %s.\n"
          % (tokenizers.__version__, unicodedata.unidata_version))
    if sys.argv[1:] == ["properties"]:
        table("kPropertyRuns",
              "How many characters, and their properties (unicode_data.h), from U+0000.",
              runs(lambda c: sum((c in s) << i for i, s in enumerate(sets))))
        table("kCombiningRuns", "How many, and their combining class, from U+0000.",
              runs(combining))
        return
    table("kCompositions",
          "A character and the two that compose to it.", compose)
    table("kDecompositions",
          "A character and the one or two (0 = one) that it comes apart into\n"
          "and that never compose to it.", decompose)
    table("kLowerCase",
          "First, last, step, and what the first becomes: the others move as\n"
          "far. U+0130 alone becomes two characters.",
          [n for step in steps for n in step])


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main()
