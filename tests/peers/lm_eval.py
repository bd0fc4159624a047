#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""lm-eval against `motet serve` and against stock transformers in float32.

No part of the build or of ctest: it needs a Python environment with torch,
transformers and lm-eval[api].

    motet serve MODEL_DIR --address 127.0.0.1:0 --port-file F
    PYTHON tests/peers/lm_eval.py MODEL_DIR $(cat F) FILE.jsonl [N]

Makes a multiple-choice task of N (default: 12) documents of the file: the
beginning of each, and as choices what follows there and in two others. Runs
it with lm-eval's local-completions (prompts as token ids, in batches) and
with its own transformers model, and prints the largest difference of
log-likelihoods.
"""
import json
import os
import sys
import tempfile
import urllib.request

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

sys.path.pop(0)  # this file's folder, where lm_eval is this file
import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

TOLERANCE = 1e-3
TASK = """\
task: motet_peer
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


def write_task(folder, texts):
    items = []
    for text in texts:
        words = text.split(" ")
        items.append((" ".join(words[:40]), " " + " ".join(words[40:60])))
    data = os.path.join(folder, "test.jsonl")
    with open(data, "w") as out:
        for i, (context, _) in enumerate(items):
            choices = [items[(i + j) % len(items)][1] for j in range(3)]
            out.write(json.dumps({"context": context, "choices": choices,
                                  "label": 0}) + "\n")
    with open(os.path.join(folder, "motet_peer.yaml"), "w") as out:
        out.write(TASK.format(data=data))


def likelihoods(folder, model, model_args, batch_size):
    result = lm_eval.simple_evaluate(
        model=model, model_args=model_args, tasks=["motet_peer"],
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        batch_size=batch_size, device="cpu", log_samples=True,
        bootstrap_iters=0)
    samples = sorted(result["samples"]["motet_peer"],
                     key=lambda sample: sample["doc_id"])
    accuracy = result["results"]["motet_peer"]["acc,none"]
    return accuracy, [(float(answer[0]), str(answer[1]) == "True")
                      for sample in samples
                      for answer in sample["filtered_resps"]]


def main(folder, address, data, count="12"):
    lines = [json.loads(line)["text"] for line in open(data) if line.strip()]
    texts = [t for t in lines if len(t.split(" ")) >= 60][:int(count)]
    with urllib.request.urlopen(f"http://{address}/v1/models") as answer:
        name = json.load(answer)["data"][0]["id"]
    with tempfile.TemporaryDirectory() as scratch:
        write_task(scratch, texts)
        ours = likelihoods(
            scratch, "local-completions",
            f"base_url=http://{address}/v1/completions,model={name},"
            f"tokenizer={folder},tokenizer_backend=huggingface", 4)
        theirs = likelihoods(scratch, "hf",
                             f"pretrained={folder},dtype=float32", 4)
    difference = max(abs(a[0] - b[0]) for a, b in zip(ours[1], theirs[1]))
    greedy = sum(a[1] != b[1] for a, b in zip(ours[1], theirs[1]))
    good = (len(ours[1]) == len(theirs[1]) == 3 * len(texts)
            and difference <= TOLERANCE and greedy == 0
            and ours[0] == theirs[0])
    print(f"{'ok  ' if good else 'FAIL'} {len(ours[1])} log-likelihoods, "
          f"largest difference {difference:.1e}; accuracy {ours[0]:.3f} "
          f"served, {theirs[0]:.3f} transformers; is_greedy differs in "
          f"{greedy}")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
