#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A run file of `motet eval retrieval` as ir_measures counts it.

    ir_measures.py RUN QRELS.tsv [MOTET.json]

Prints nDCG@10, MRR@10 and recall@100. With the JSON that `motet eval
retrieval -o json` printed for the same run, every figure of every query must
be the same to 1e-6, or the exit status is 1. Needs ir-measures, from the
Python index.
"""
import json
import sys

# Run as a script, this file would stand in for the module of its name.
sys.path = [p for p in sys.path if not p.endswith("tests/peers")]
import ir_measures  # noqa: E402
from ir_measures import RR, R, nDCG  # noqa: E402

MEASURES = {"ndcg@10": nDCG @ 10, "mrr@10": RR @ 10, "recall@100": R @ 100}


def judgements(path):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("query-id") or not line.strip():
                continue
            query, document, score = line.rstrip("\r\n").split("\t")
            yield ir_measures.Qrel(query, document, int(score))


def main(run_path, qrels_path, json_path=None):
    qrels = list(judgements(qrels_path))
    run = list(ir_measures.read_trec_run(run_path))
    found = {}
    for one in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        found[one.query_id, str(one.measure)] = one.value
    queries = sorted({q.query_id for q in qrels if q.relevance > 0})
    for name, measure in MEASURES.items():
        mean = sum(found.get((q, str(measure)), 0) for q in queries)
        print(f"{name} {mean / len(queries):.6f}")
    if json_path is None:
        return 0
    with open(json_path, encoding="utf-8") as file:
        ours = {q["query"]: q for q in json.load(file)["queries"]}
    differ = set(queries) ^ set(ours)
    for query in set(queries) & set(ours):
        for name, measure in MEASURES.items():
            theirs = found.get((query, str(measure)), 0)
            if abs(ours[query][name] - theirs) > 1e-6:
                differ.add(query)
                print(f"{query} {name}: ours {ours[query][name]}, "
                      f"ir_measures {theirs}")
    print(f"{len(queries)} queries, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
