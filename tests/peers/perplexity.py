#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`motet eval perplexity` against stock transformers, in float32.

No part of the build or of ctest: it needs a Python environment with torch and
transformers.

    PYTHON tests/peers/perplexity.py MOTET MODEL_DIR FILE.jsonl [WINDOW [N]]

The first N documents (default: 20) of the file are cut in windows of WINDOW
tokens (default: 512), each scored by itself from its second token. Prints
both mean losses and their difference.
"""
import json
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4


def theirs(folder, documents, window):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    total, tokens = 0.0, 0
    for document in documents:
        ids = tokenizer(document)["input_ids"]
        for at in range(0, len(ids), window):
            part = ids[at:at + window]
            if len(part) < 2:
                continue
            with torch.no_grad():
                logits = model(torch.tensor([part])).logits[0]
            logprobs = logits.double().log_softmax(-1)[:-1]
            targets = torch.tensor(part[1:]).unsqueeze(1)
            total -= float(logprobs.gather(1, targets).sum())
            tokens += len(part) - 1
    return total / tokens, tokens


def main(motet, folder, data, window="512", count="20"):
    lines = [line for line in open(data) if line.strip()][:int(count)]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as part:
        part.writelines(lines)
        part.flush()
        ours = json.loads(subprocess.run(
            [motet, "eval", "perplexity", folder, "--data", part.name,
             "--window", window, "-o", "json"],
            check=True, capture_output=True, text=True).stdout)
    mean, tokens = theirs(folder, [json.loads(line)["text"] for line in lines],
                          int(window))
    difference = abs(ours["mean_nll"] - mean)
    good = (set(ours) == {"perplexity", "mean_nll", "tokens"}
            and ours["tokens"] == tokens and difference <= TOLERANCE)
    print(f"{'ok  ' if good else 'FAIL'} {ours['tokens']} tokens here, "
          f"{tokens} there; mean nll {ours['mean_nll']:.7f} here, "
          f"{mean:.7f} there, difference {difference:.1e}")
    return 0 if good else 1


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
