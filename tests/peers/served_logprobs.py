#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `motet serve` answers against the export in stock transformers.

No part of the build or of ctest: it needs a Python environment with torch and
transformers (tests/peers/transformers_export.py compares raw logits).

    motet compose export NAME --format hf --out DIR     # router "topk"
    motet serve NAME --address 127.0.0.1:0 --port-file F
    PYTHON tests/peers/served_logprobs.py DIR $(cat F)

For each prompt: the token ids of the stock tokenizer, then log-probabilities
of every prompt token and of the 20 likeliest at every position, from
/v1/completions with echo. Prints the largest differences.
"""
import json
import sys
import urllib.request

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TOLERANCE = 1e-4
PROMPTS = [
    "#include <vector>\n\nnamespace detail {\ntemplate <typename T>\n",
    "Permission is hereby granted, free of charge, to any person obtaining",
    "=head1 SYNOPSIS\n\n    use strict;\n    use warnings;\n",
    "The quick brown fox jumps over the lazy dog. 0123456789 (3.14)\t\n\n",
    "Grüße, naïve façade — 你好 мир 🙂 e\u0301 \r\n  mixed\u00a0spaces",
    "static inline int f(int a) { return a ? f(a - 1) : 0; }\n" * 12,
]


def served(address, model, **fields):
    body = {"model": model, "max_tokens": 0, "echo": True, "logprobs": 20}
    request = urllib.request.Request(
        f"http://{address}/v1/completions",
        json.dumps({**body, **fields}).encode(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]


def main(folder, address):
    with urllib.request.urlopen(f"http://{address}/v1/models") as answer:
        name = json.load(answer)["data"][0]["id"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    print(f"{type(model).__name__}, {type(tokenizer).__name__}, "
          f"{len(tokenizer)} tokens; served: {name}")
    # A token's text names it only where no other token reads alike (halves of
    # a character do).
    ids_of = {}
    for i in range(len(tokenizer)):
        ids_of.setdefault(tokenizer.decode([i]), []).append(i)

    ok = True
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        by_ids = served(address, name, prompt=ids)["logprobs"]
        by_text = served(address, name, prompt=prompt)["logprobs"]
        # Motet's own tokenizer makes the same ids of the text.
        same_ids = by_ids == by_text
        with torch.no_grad():
            want = model(torch.tensor([ids])).logits[0].double()
        want = want.log_softmax(-1)
        of_prompt = of_top = 0.0
        compared = unnamed = 0
        for t in range(1, len(ids)):
            of_prompt = max(of_prompt, abs(by_ids["token_logprobs"][t]
                                           - float(want[t - 1, ids[t]])))
            for text, logprob in by_ids["top_logprobs"][t].items():
                candidates = ids_of.get(text, [])
                if len(candidates) != 1:
                    unnamed += 1
                    continue
                compared += 1
                of_top = max(of_top, abs(
                    logprob - float(want[t - 1, candidates[0]])))
        good = same_ids and max(of_prompt, of_top) <= TOLERANCE
        ok = ok and good and compared > 0
        print(f"{'ok  ' if good else 'FAIL'} {len(ids):4} tokens, prompt "
              f"{of_prompt:.2e}, top 20 {of_top:.2e} ({compared} compared, "
              f"{unnamed} ambiguous), ids "
              f"{'equal' if same_ids else 'DIFFER'}: {prompt[:24]!r}")
    print("ok" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
