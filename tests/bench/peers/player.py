# SPDX-License-Identifier: Apache-2.0
"""A peer's side of a benchmark: the Python form of tests/bench/player.h.

The driver writes a task's name and a line end; the player runs one timed
round and answers with one line of JSON, {"value": 123.4} or {"error": ...}.
A task's first round, in which it loads its model, is not counted. What
libraries print goes to standard error.
"""
import json
import os
import sys

THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count())


def token_at(sequence, position, vocabulary):
    """The ids that serve_bench.cc makes."""
    return (sequence * 7919 + position * 1543 + 17) % vocabulary


def play(tasks):
    """tasks: name -> function without arguments, returning the value."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in tasks:
                raise KeyError(f"no task {name}")
            answer = {"value": tasks[name]()}
        except Exception as error:  # told to the driver, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
