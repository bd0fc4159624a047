#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The stock OpenAI client (Python package `openai`) embeds through `motet
serve`, and the vectors are those of stock transformers.

No part of the build or of ctest. ENCODER is a folder with mean pooling whose
vectors have length 1, such as all-MiniLM-L6-v2.

    motet serve ENCODER --name finder --address 127.0.0.1:0 --port-file F
    PYTHON tests/peers/openai_embeddings.py $(cat F) ENCODER
"""
import concurrent.futures
import sys

import openai
import torch
import transformers

TEXTS = ["The licensee shall indemnify the licensor.",
         "how to sort a list of numbers in C++",
         "Grüße aus Köln, 你好",
         "aspirin after myocardial infarction " * 100]
PASSED = []


def check(name, condition, shown=""):
    if not condition:
        sys.exit(f"FAILED {name}: {shown}")
    PASSED.append(name)
    print(f"ok {name}" + (f": {shown}" if shown else ""))


def refused(kind, name, call):
    try:
        call()
    except kind as e:
        body = e.body if isinstance(e.body, dict) else {}
        check(name, str(body.get("message", "")).startswith("["),
              f"{e.status_code} {body.get('message')}")
        return
    sys.exit(f"FAILED {name}: no {kind.__name__}")


def reference(folder, texts, most):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder,
                                                   dtype=torch.float32).eval()
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=most,
                       return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    vectors = (hidden * mask).sum(1) / mask.sum(1)
    return (torch.nn.functional.normalize(vectors),
            int(inputs["attention_mask"].sum()))


def main(address, folder):
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none",
                           max_retries=0, timeout=120)
    model = next(iter(client.models.list()))
    check("list models", model.model_extra["dimensions"] > 0, model.id)

    def ask(**fields):
        return client.embeddings.create(
            **{"model": model.id, "input": TEXTS, **fields})

    want, tokens = reference(folder, TEXTS, model.model_extra["context_length"])
    floats = ask(encoding_format="float")
    got = torch.tensor([d.embedding for d in floats.data])
    worst = float((got - want).abs().max())
    check("equal to transformers", got.shape == want.shape and worst < 1e-4,
          f"largest difference {worst:.1e}")
    check("usage", floats.usage.prompt_tokens == tokens ==
          floats.usage.total_tokens, floats.usage)
    check("order", [d.index for d in floats.data] == list(range(len(TEXTS))))
    base64 = ask(encoding_format="base64")
    check("base64", isinstance(base64.data[0].embedding, str))
    # Without encoding_format the client asks for base64 and decodes it.
    plain = torch.tensor([d.embedding for d in ask().data])
    check("decoded by the client", torch.equal(plain, got))
    one = ask(input=TEXTS[0], encoding_format="float")
    check("one is as many", torch.equal(torch.tensor(one.data[0].embedding),
                                        got[0]))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(
            lambda i: ask(input=TEXTS[i % 4]).data[0].embedding, range(32)))
    check("sixteen at once", all(
        torch.equal(torch.tensor(v), got[i % 4])
        for i, v in enumerate(at_once)))
    document = ask(extra_body={"input_type": "document"})
    check("documents", torch.equal(
        torch.tensor([d.embedding for d in document.data]), got)
        or bool(floats.model_extra["motet"]["experts"]))

    refused(openai.BadRequestError, "dimensions", lambda: ask(dimensions=64))
    refused(openai.BadRequestError, "token ids", lambda: ask(input=[1, 2, 3]))
    refused(openai.BadRequestError, "empty", lambda: ask(input=""))
    refused(openai.BadRequestError, "too many", lambda: ask(input=["a"] * 2049))
    refused(openai.NotFoundError, "unknown model",
            lambda: ask(model="text-embedding-3-small"))
    refused(openai.NotFoundError, "unknown expert", lambda: ask(
        extra_body={"experts": {"exclude": ["nobody"]}}))
    refused(openai.BadRequestError, "unknown field",
            lambda: ask(extra_body={"expert": ["code"]}))
    print(f"{len(PASSED)} checks ok")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
