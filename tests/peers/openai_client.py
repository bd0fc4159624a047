#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The stock OpenAI client (Python package `openai`) against `motet serve`.

No part of the build or of ctest. The composition is the quickstart's: experts
code, legal (not for advertising) and manual.

    motet serve demo --address 127.0.0.1:0 --port-file F
    PYTHON tests/peers/openai_client.py $(cat F)
"""
import concurrent.futures
import socket
import sys
import time

import openai

PROMPT = "#include <"
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


def experts_of(completion):
    # Fields beyond OpenAI's: which experts answered, which were withheld.
    return completion.model_extra["motet"]


def main(address):
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none",
                           max_retries=0, timeout=120)
    models = [m.id for m in client.models.list()]
    model = models[0]
    check("list models", models, models)

    def ask(**fields):
        return client.completions.create(
            **{"model": model, "prompt": PROMPT, "max_tokens": 12,
               "temperature": 0, **fields})

    # Completing.
    whole = ask()
    check("complete", whole.choices[0].text, repr(whole.choices[0].text))
    check("usage", whole.usage.completion_tokens == 12 and
          whole.usage.total_tokens ==
          whole.usage.prompt_tokens + 12, whole.usage)
    again = ask()
    check("greedy repeats", again.choices[0].text == whole.choices[0].text)
    seeded = [ask(temperature=1, seed=7).choices[0].text for _ in range(2)]
    check("seed repeats", seeded[0] == seeded[1], repr(seeded[0]))

    # Streaming gives the same text, and usage at its end when asked for.
    parts = list(ask(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].text for c in parts if c.choices)
    check("stream", text == whole.choices[0].text and len(parts) > 3,
          f"{len(parts)} parts")
    check("stream usage", parts[-1].usage and not parts[-1].choices and
          parts[-1].usage == whole.usage, parts[-1].usage)
    plain = list(ask(stream=True))
    check("stream without usage", all(p.usage is None for p in plain))
    check("stream finish", [p.choices[0].finish_reason for p in plain][-1] ==
          "length")

    # echo and logprobs.
    echoed = ask(echo=True, logprobs=5, max_tokens=2).choices[0]
    lp = echoed.logprobs
    check("echo", echoed.text.startswith(PROMPT) and
          "".join(lp.tokens) == echoed.text, lp.tokens)
    check("logprobs", lp.token_logprobs[0] is None and
          all(x <= 0 for x in lp.token_logprobs[1:]) and
          len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) ==
          len(lp.text_offset), lp.token_logprobs)
    scored = ask(echo=True, logprobs=1, max_tokens=0).choices[0]
    check("scoring alone", scored.text == PROMPT, scored.logprobs.tokens)
    umlaut = ask(prompt="Grüße, 你好 x", echo=True, logprobs=0,
                 max_tokens=0).choices[0]
    check("echo of other scripts", umlaut.text == "Grüße, 你好 x")

    # Ids, several prompts, several choices, stops.
    ids = [41, 300, 1000]
    check("prompt as ids", ask(prompt=ids).usage.prompt_tokens == 3)
    both = ask(prompt=[PROMPT, "Permission is"])
    check("two prompts", [c.index for c in both.choices] == [0, 1] and
          both.choices[0].text == whole.choices[0].text)
    two = ask(n=2, temperature=1, seed=1)
    check("n=2", len({c.text for c in two.choices}) == 2,
          [c.text for c in two.choices])
    streamed = {0: "", 1: ""}
    for part in ask(n=2, temperature=1, seed=1, stream=True):
        streamed[part.choices[0].index] += part.choices[0].text
    check("n=2 streamed", list(streamed.values()) ==
          [c.text for c in two.choices])
    stop = whole.choices[0].text[2:4]
    cut = ask(stop=[stop]).choices[0]
    check("stop", cut.finish_reason == "stop" and
          cut.text == whole.choices[0].text.split(stop)[0], repr(cut.text))

    # Sets of experts.
    everyone = experts_of(whole)
    check("every expert", len(everyone["experts"]) == 4, everyone["experts"])
    without = experts_of(ask(extra_body={"experts": {"exclude": ["legal"]}}))
    check("exclude", not any("legal" in e for e in without["experts"]) and
          len(without["experts"]) == 3, without["experts"])
    check("another digest",
          without["expert_set_sha256"] != everyone["expert_set_sha256"])
    virtual = experts_of(ask(model=model + "@no-legal"))
    check("virtual model", virtual["expert_set_sha256"] ==
          without["expert_set_sha256"])
    alone = experts_of(ask(extra_body={"experts": {"include": ["code"]}}))
    check("include", len(alone["experts"]) == 2, alone["experts"])
    advert = experts_of(ask(extra_body={"purpose": "advertising"}))
    check("purpose", advert["experts"] == without["experts"],
          advert["withheld"])
    sets = [experts_of(p)["experts"] for p in
            ask(stream=True, extra_body={"experts": {"exclude": ["legal"]}})
            if "motet" in (p.model_extra or {})]
    check("streams name their set", sets and sets[0] == without["experts"])

    # Refusals, in OpenAI's shape.
    def fields(**f):
        return lambda: ask(**f)
    refused(openai.NotFoundError, "unknown expert",
            fields(extra_body={"experts": {"exclude": ["nobody"]}}))
    refused(openai.NotFoundError, "unknown expert, streaming",
            fields(stream=True, extra_body={"experts": {"include": ["x"]}}))
    refused(openai.NotFoundError, "unknown model", fields(model="gpt-4"))
    refused(openai.BadRequestError, "unknown field",
            fields(extra_body={"expert": ["code"]}))
    refused(openai.BadRequestError, "prompt too long",
            fields(prompt=[5] * 5000))
    refused(openai.BadRequestError, "token id out of range",
            fields(prompt=[99999999]))
    refused(openai.BadRequestError, "temperature", fields(temperature=9))
    refused(openai.BadRequestError, "empty list", fields(prompt=[]))

    # Eight at once, and one that hangs up in the middle of its stream.
    hung = socket.create_connection(address.rsplit(":", 1))
    body = (f'{{"model": "{model}", "prompt": "a", "max_tokens": 900, '
            f'"stream": true}}').encode()
    hung.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                 b"Content-Type: application/json\r\nContent-Length: %d\r\n"
                 b"\r\n%s" % (len(body), body))
    hung.recv(10)
    hung.close()
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(
            lambda i: ask(stream=bool(i % 2)) if i % 2 == 0 else
            "".join(p.choices[0].text for p in ask(stream=True)), range(8)))
    texts = [t if isinstance(t, str) else t.choices[0].text for t in texts]
    check("eight at once", set(texts) == {whole.choices[0].text},
          f"{time.monotonic() - begin:.2f} s after one hung up")
    print(f"{len(PASSED)} checks ok")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
