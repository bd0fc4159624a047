# SPDX-License-Identifier: Apache-2.0
"""The peer of the merge rows: mergekit, a cold process for every round.

  merge_mergekit.py BASE MODELS OUT

MODELS/model0 to model2 are branches of BASE; slerp takes the first two.
Tasks: ties, slerp, linear, in seconds of run_merge alone (starting Python and
importing torch and mergekit is not counted), and each with _memory, the most
that the whole process held, in MiB. mergekit computes and writes in bf16, its
fastest: in f32 it takes two to three times as long.

With --once KIND before the rest it is that process and prints {"seconds"}.
"""
import json
import os
import subprocess
import sys
import time

import player


def configuration(kind, base, models):
    folders = [f"{models}/model{i}" for i in range(3)]
    config = {"dtype": "bfloat16"}
    if kind == "slerp":
        config |= {"merge_method": "slerp", "base_model": folders[0],
                   "models": [{"model": f} for f in folders[:2]],
                   "parameters": {"t": 0.4}}
    elif kind == "linear":
        config |= {"merge_method": "linear", "models": [
            {"model": f, "parameters": {"weight": 1 / 3}} for f in folders]}
    else:
        config |= {"merge_method": "ties", "base_model": base, "models": [
            {"model": f, "parameters": {"weight": 1 / 3, "density": 0.2}}
            for f in folders], "parameters": {"normalize": True}}
    return config


def once(task, base, models, out):
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge
    torch.set_num_threads(player.THREADS)
    config = MergeConfiguration.model_validate(
        configuration(task, base, models))
    options = MergeOptions(copy_tokenizer=False, lazy_unpickle=True,
                           write_model_card=False, quiet=True)
    start = time.perf_counter()
    run_merge(config, out, options)
    print(json.dumps({"seconds": time.perf_counter() - start}))
    sys.stdout.flush()
    os._exit(0)  # nobody waits for the interpreter to clean up


def main():
    if sys.argv[1] == "--once":
        once(*sys.argv[2:])

    def round_of(task, memory):
        child = subprocess.Popen(
            [sys.executable, __file__, "--once", task, *sys.argv[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = child.stdout.read(), child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            raise RuntimeError((err.strip().splitlines() or ["failed"])[-1])
        if memory:
            return usage.ru_maxrss / 1024
        return json.loads(out.strip().splitlines()[-1])["seconds"]

    tasks = {}
    for kind in ("ties", "slerp", "linear"):
        tasks[kind] = lambda kind=kind: round_of(kind, False)
        tasks[kind + "_memory"] = lambda kind=kind: round_of(kind, True)
    player.play(tasks)


if __name__ == "__main__":
    main()
