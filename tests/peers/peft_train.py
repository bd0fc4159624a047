#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An adapter's training by Motet against the same steps by stock peft and
PyTorch: losses, gradient norms, and the adapter that comes out.

No part of the build or of ctest: it needs a Python environment with torch,
transformers, peft and safetensors. The golden test writes what it reads, and
its table of losses and norms is what this prints:

    MOTET_KEEP=DIR build/tests/golden_adapter_test
    PYTHON tests/peers/peft_train.py GOLDEN/models/bert DIR

DIR holds steps.safetensors (the documents' vectors; of each step ids, mask,
columns, targets and masked) and trained/, Motet's adapter after the last one.
"""
import sys

import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

STEPS, WARMUP, PEAK, TEMPERATURE = 8, 2, 1e-2, 5.0
TOLERANCE = 1e-4  # of the largest value


def rate(step):  # from 1
    if step <= WARMUP:
        return PEAK * step / WARMUP
    return PEAK * (STEPS - step) / (STEPS - WARMUP)


def main(bert, folder):
    torch.set_num_threads(1)
    kept = load_file(folder + "/steps.safetensors")
    base = AutoModel.from_pretrained(bert, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, bert + "/lora", is_trainable=True)
    model.eval()  # no dropout
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK, weight_decay=0.0)

    def vectors(m, ids, mask):
        h = m(input_ids=ids, attention_mask=mask).last_hidden_state
        w = mask.unsqueeze(-1).float()
        return (h * w).sum(1) / w.sum(1)

    for s in range(STEPS):
        ids, mask, columns, targets, masked = (
            kept[f"{s}.{n}"].long()
            for n in ("ids", "mask", "columns", "targets", "masked"))
        scores = vectors(model, ids, mask) @ kept["documents"][columns].T
        scores = (scores / TEMPERATURE).masked_fill(masked.bool(),
                                                    float("-inf"))
        loss = F.cross_entropy(scores, targets)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(s + 1)
        optimizer.step()
        print(f"    {{{loss.item():.8f}, {norm.item():.8f}}},")

    ids, mask = kept["0.ids"].long(), kept["0.mask"].long()
    with torch.no_grad():
        theirs = vectors(model, ids, mask)
        again = AutoModel.from_pretrained(bert, dtype=torch.float32)
        untrained = vectors(
            PeftModel.from_pretrained(again, bert + "/lora").eval(), ids, mask)
        again = AutoModel.from_pretrained(bert, dtype=torch.float32)
        ours = vectors(
            PeftModel.from_pretrained(again, folder + "/trained").eval(), ids,
            mask)
    error = float((theirs - ours).abs().max() / theirs.abs().max())
    moved = float((theirs - untrained).abs().max() / theirs.abs().max())
    print(f"vectors by the two trained adapters: {error:.2e} of the largest "
          f"value apart; training moved them by {moved:.2e}")
    good = error <= 10 * TOLERANCE and moved > 100 * TOLERANCE
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
