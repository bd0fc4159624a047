#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A folder of `motet encoder train` in stock transformers: AutoTokenizer gives
Motet's ids, and AutoModel with mean pooling Motet's vectors.

    encoder_train.py FOLDER --motet MOTET

Needs `pip install torch transformers`.
"""
import argparse
import json
import os
import struct
import subprocess
import tempfile

import torch
from transformers import AutoModel, AutoTokenizer

TEXTS = [
    "a package that manages other packages",
    "Returns the number of characters; throws std::out_of_range.",
    "caf\u00e9 na\u00efve \u4f60\u597d",
    "x",
    "the quick brown fox " * 12,
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--motet", required=True)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    model = AutoModel.from_pretrained(arguments.folder).eval()
    vectors = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        ours = json.loads(subprocess.run(
            [arguments.motet, "tokenize", arguments.folder, "--text", text,
             "-o", "json"], check=True, capture_output=True).stdout)
        ours = ours[0] if isinstance(ours, list) else ours
        assert ours["ids"] == ids, (text, ours, ids)
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        mean = hidden.mean(0)
        vectors.append(mean / mean.norm())
    with tempfile.TemporaryDirectory() as work:
        corpus = os.path.join(work, "corpus.jsonl")
        with open(corpus, "w") as f:
            for i, text in enumerate(TEXTS):
                f.write(json.dumps({"_id": f"d{i}", "text": text}) + "\n")
        index = os.path.join(work, "index")
        subprocess.run([arguments.motet, "index", "build", index, "--encoder",
                        arguments.folder, "--data", corpus], check=True,
                       capture_output=True)
        with open(os.path.join(index, "vectors.f32"), "rb") as f:
            data = f.read()
    width = model.config.hidden_size
    numbers = struct.unpack(f"<{len(data) // 4}f", data)
    worst = 0.0
    for i, vector in enumerate(vectors):
        ours = torch.tensor(numbers[i * width:(i + 1) * width])
        worst = max(worst, (ours - vector).abs().max().item())
    print(f"{len(TEXTS)} texts: equal ids, vectors within {worst:.1e}")
    assert worst < 1e-4


if __name__ == "__main__":
    main()
