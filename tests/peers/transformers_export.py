#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An exported composition in stock transformers against Motet's own logits.

No part of the build or of ctest: it needs a Python environment with torch,
transformers and safetensors.

    motet compose export NAME --format hf --out DIR     # router "topk"
    motet eval logits NAME --router topk --out LOGITS.safetensors
    PYTHON tests/peers/transformers_export.py DIR LOGITS.safetensors

Positions from the first near-tie at the top-k boundary on are left out and
counted: there the last bit decides which expert answers.
"""
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4  # of the largest logit
NEAR_TIE = 1e-6   # in probability


def main(folder, logits_file):
    ours = load_file(logits_file)
    ids = ours["ids"].long()[None]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    with torch.no_grad():
        out = model(ids, output_router_logits=True)
    k = model.config.num_experts_per_tok
    good = ids.shape[1]
    for layer in out.router_logits:
        p = layer.float().softmax(-1).sort(-1, descending=True).values
        if p.shape[-1] <= k:
            continue
        ties = (p[:, k - 1] - p[:, k] < NEAR_TIE).nonzero()
        if len(ties):
            good = min(good, int(ties[0]))
    theirs = out.logits[0, :good]
    mine = ours["logits"][:good]
    difference = float((theirs - mine).abs().max())
    scale = float(mine.abs().max())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print(f"{type(model).__name__}, {len(tokenizer)} tokens in its tokenizer")
    print(f"{good} of {ids.shape[1]} positions compared, largest difference "
          f"{difference:.2e}, largest logit {scale:.2f}")
    same = bool((theirs.argmax(-1) == mine.argmax(-1)).all())
    print("greedy choices", "equal" if same else "DIFFER")
    ok = good > 0 and difference <= TOLERANCE * scale and same
    print("ok" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
