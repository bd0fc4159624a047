#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`motet eval choice` against lm-eval on stock transformers, in float32.

No part of the build or of ctest: it needs a Python environment with torch,
transformers and lm-eval (0.4.13).

    PYTHON tests/peers/choice.py MOTET MODEL_DIR FILE.jsonl [N]

Makes a multiple-choice task of N (default: 40) documents of the file: the
beginning of each, and as choices what follows there and in three others, cut
to unequal lengths so that the three ways to count differ; queries of odd
numbers end in a space. Prints the largest difference of log-likelihoods and
both programs' acc, acc_norm and acc_bytes.
"""
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

sys.path.pop(0)  # this file's folder, where lm_eval.py lies
import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

TOLERANCE = 1e-3
METRICS = ("acc", "acc_norm", "acc_bytes")
TASK = """\
task: motet_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
  - metric: acc_bytes
"""


def write_task(folder, texts):
    items = []
    for i, text in enumerate(texts):
        words = text.split()
        items.append((" ".join(words[:30]) + " " * (i % 2), words[30:60]))
    data = os.path.join(folder, "test.jsonl")
    with open(data, "w") as out:
        for i, (query, _) in enumerate(items):
            choices = [" ".join(items[(i + j) % len(items)][1][:4 + 5 * j])
                       for j in (0, 1, 2, 3)]
            gold = i % 4  # the right one is not always the first
            choices = choices[4 - gold:] + choices[:4 - gold]
            out.write(json.dumps({"query": query, "choices": choices,
                                  "gold": gold}) + "\n")
    with open(os.path.join(folder, "motet_choice.yaml"), "w") as out:
        out.write(TASK.format(data=data))
    return data


def theirs(folder, model):
    result = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={model},dtype=float32",
        tasks=["motet_choice"],
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        batch_size=4, device="cpu", log_samples=True, bootstrap_iters=0)
    # One sample a document and filter: documents in their order.
    samples = {s["doc_id"]: [float(r[0]) for r in s["filtered_resps"]]
               for s in result["samples"]["motet_choice"]}
    metrics = result["results"]["motet_choice"]
    return ([metrics[f"{m},none"] for m in METRICS],
            [samples[i] for i in sorted(samples)])


def ours(motet, model, data, folder):
    samples = os.path.join(folder, "samples.jsonl")
    metrics = json.loads(subprocess.run(
        [motet, "eval", "choice", model, "--data", data, "--samples", samples,
         "-o", "json"], check=True, capture_output=True, text=True).stdout)
    lines = [json.loads(line) for line in open(samples)]
    return ([metrics[m] for m in METRICS],
            [line["log_likelihoods"] for line in lines])


def main(motet, model, data, count="40"):
    lines = [json.loads(line)["text"] for line in open(data) if line.strip()]
    texts = [t for t in lines if len(t.split()) >= 60][:int(count)]
    with tempfile.TemporaryDirectory() as scratch:
        task = write_task(scratch, texts)
        here = ours(motet, model, task, scratch)
        there = theirs(scratch, model)
    pairs = [(a, b) for x, y in zip(here[1], there[1]) for a, b in zip(x, y)]
    difference = max(abs(a - b) for a, b in pairs)
    good = (len(pairs) == 4 * len(texts) and difference <= TOLERANCE
            and here[0] == there[0])
    print(f"{'ok  ' if good else 'FAIL'} {len(texts)} questions, {len(pairs)} "
          f"log-likelihoods, largest difference {difference:.1e}")
    for name, a, b in zip(METRICS, here[0], there[0]):
        print(f"     {name:9} {a:.4f} here, {b:.4f} lm-eval")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
