#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Published adapters in stock peft: the packages' own folders, loaded over the
base by transformers, against the vectors that a served composition answers
with when the query names the expert.

No part of the build or of ctest. ENCODER is the federation's base, with mean
pooling and vectors of length 1; EXPERT an id of `motet expert list`, PACKAGE
its folder (packages/... of the coordinator). Each EXPERT has a pilot that points
to it, and the composition no gate: else the base answers.

    motet serve COMPOSITION --address 127.0.0.1:0 --port-file F
    PYTHON tests/peers/peft_published.py $(cat F) ENCODER EXPERT=PACKAGE...
"""
import sys

import openai
import torch
import transformers
from peft import PeftModel

TEXTS = ["The licensee shall indemnify the licensor.",
         "how to sort a list of numbers in C++",
         "aspirin after myocardial infarction",
         "what does this package do"]
TOLERANCE = 1e-4


def vectors(model, inputs):
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


def main(address, encoder, *experts):
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none",
                           max_retries=0, timeout=120)
    name = next(iter(client.models.list())).id
    inputs = transformers.AutoTokenizer.from_pretrained(encoder)(
        TEXTS, padding=True, return_tensors="pt")

    def base():
        return transformers.AutoModel.from_pretrained(
            encoder, dtype=torch.float32).eval()

    plain = vectors(base(), inputs)
    good = True
    for expert in experts:
        identifier, folder = expert.split("=", 1)
        theirs = vectors(PeftModel.from_pretrained(base(), folder).eval(),
                         inputs)
        answer = client.embeddings.create(
            model=name, input=TEXTS, encoding_format="float",
            extra_body={"experts": {"include": [identifier]}})
        ours = torch.tensor([d.embedding for d in answer.data])
        by = {d.model_extra["expert"] for d in answer.data}
        error = float((ours - theirs).abs().max())
        moved = float((theirs - plain).abs().max())
        fine = by == {identifier} and error <= TOLERANCE < moved
        good = good and fine
        print(f"{'ok' if fine else 'FAILED'} {identifier}: largest difference "
              f"{error:.1e}; the adapter moves vectors by up to {moved:.3f}; "
              f"answered by {', '.join(sorted(by))}")
    return 0 if good and experts else 1


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
