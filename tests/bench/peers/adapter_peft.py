# SPDX-License-Identifier: Apache-2.0
"""peft's and PyTorch's side of the row of adapter training, in queries a
second: whole steps of a LoRA adapter of rank 8 on query and value, 256 queries
against the vectors of 256 documents, which are there. The same ids as
adapter_bench.cc. The base's own dropout is off, as ours has none: what is
dropped is the adapter's input.

  adapter_peft.py MODEL_DIR

Tasks: f32, bf16 (autocast): the batch as it is, padded to its longest query.
f32_sorted, bf16_sorted: in pieces of 64 queries of like length, whose
gradients add up, so that little is padded.
"""
import sys
import time

import torch
import torch.nn.functional as F

import player

QUERIES, TEMPERATURE, RATE = 256, 0.05, 1e-4
LENGTHS = (6, 8, 10, 11, 11, 12, 13, 14, 15, 16, 17, 19, 21, 24, 28, 36)


def trainer(folder, bf16, piece):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel
    torch.set_num_threads(player.THREADS)
    base = AutoModel.from_pretrained(folder, dtype=torch.float32,
                                     hidden_dropout_prob=0.0,
                                     attention_probs_dropout_prob=0.0)
    model = get_peft_model(base, LoraConfig(
        r=8, lora_alpha=32, lora_dropout=0.1,
        target_modules=["query", "value"]))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    vocabulary, width = base.config.vocab_size, base.config.hidden_size
    torch.manual_seed(1)
    documents = torch.randn(QUERIES, width) / 20
    queries = [[player.token_at(q, t, vocabulary)
                for t in range(LENGTHS[q * 7 % 16])] for q in range(QUERIES)]
    order = (range(QUERIES) if piece == QUERIES else
             sorted(range(QUERIES), key=lambda q: len(queries[q])))

    def step():
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        for first in range(0, QUERIES, piece):
            chosen = list(order)[first:first + piece]
            longest = max(len(queries[q]) for q in chosen)
            ids = torch.zeros(len(chosen), longest, dtype=torch.long)
            mask = torch.zeros(len(chosen), longest, dtype=torch.long)
            for row, q in enumerate(chosen):
                n = len(queries[q])
                ids[row, :n] = torch.tensor(queries[q])
                mask[row, :n] = 1
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                hidden = model(input_ids=ids,
                               attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).float()
            pooled = (hidden.float() * weight).sum(1) / weight.sum(1)
            scores = F.normalize(pooled) @ documents.T / TEMPERATURE
            loss = F.cross_entropy(scores, torch.tensor(chosen),
                                   reduction="sum") / QUERIES
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return QUERIES / (time.perf_counter() - start)

    return step


def main():
    folder = sys.argv[1]
    loaded = {}

    def task(name, bf16, piece):
        def once():
            if name not in loaded:
                loaded[name] = trainer(folder, bf16, piece)
            return loaded[name]()
        return once

    player.play({"f32": task("f32", False, QUERIES),
                 "bf16": task("bf16", True, QUERIES),
                 "f32_sorted": task("f32_sorted", False, 64),
                 "bf16_sorted": task("bf16_sorted", True, 64)})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
