#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An adapter that Motet wrote, in stock peft against Motet's own vectors.

No part of the build or of ctest: it needs a Python environment with torch,
transformers, peft and safetensors. The golden test writes what it reads:

    MOTET_KEEP=DIR build/tests/golden_encoder_test
    PYTHON tests/peers/peft_adapter.py DIR

DIR holds encoder/ (a BertModel), adapter/ and vectors.safetensors: ids and
mask [B,T], base and adapted [B,C], mean pooled.
"""
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

TOLERANCE = 1e-4  # of the largest value


def main(folder):
    ours = load_file(folder + "/vectors.safetensors")
    ids, mask = ours["ids"].long(), ours["mask"].long()
    model = AutoModel.from_pretrained(folder + "/encoder",
                                      dtype=torch.float32).eval()

    def vectors(m):
        with torch.no_grad():
            h = m(input_ids=ids, attention_mask=mask).last_hidden_state
        w = mask.unsqueeze(-1).float()
        return (h * w).sum(1) / w.sum(1)

    good = True
    for name, m in (("base", model),
                    ("adapted", lambda **k: PeftModel.from_pretrained(
                        model, folder + "/adapter").eval()(**k))):
        theirs = vectors(m)
        error = float((theirs - ours[name]).abs().max() / theirs.abs().max())
        print(f"{name}: {error:.2e} of the largest value")
        good = good and error <= TOLERANCE
    apart = float((ours["base"] - ours["adapted"]).abs().max())
    print(f"the adapter moves vectors by up to {apart:.3f}")
    print("ok" if good and apart > 0 else "FAILED")
    return 0 if good and apart > 0 else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
