# SPDX-License-Identifier: Apache-2.0
"""FAISS's side of the row index as its Python wheel has it, which is built for
this machine's instructions: IndexHNSWFlat of index_bench.cc's parameters over
the same file, 4,096 vectors at a time. Every round is a process of its own.

  index_faiss.py FOLDER VECTORS

Tasks: faiss, in vectors a second; faiss_memory, the most that its process
held, in MiB: of the last counted build where there is one. A first round, which
is not counted, is of few vectors; the file is index_bench's to make.
"""
import json
import os
import subprocess
import sys
import time

import player

WIDTH, PIECE, FIRST = 384, 4096, 20000
LINKS, CONSTRUCTION = 32, 64  # compose/retrieve/hnsw.h


def build(path, vectors):
    import faiss
    import numpy
    faiss.omp_set_num_threads(player.THREADS)
    start = time.perf_counter()
    index = faiss.IndexHNSWFlat(WIDTH, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = CONSTRUCTION
    with open(path, "rb") as file:
        for row in range(0, vectors, PIECE):
            rows = min(PIECE, vectors - row)
            piece = numpy.fromfile(file, numpy.float32, rows * WIDTH)
            index.add(piece.reshape(rows, WIDTH))
    seconds = time.perf_counter() - start
    assert index.ntotal == vectors
    print(json.dumps(seconds))


class Side:
    def __init__(self, path, vectors):
        self.path, self.vectors = path, vectors
        self.first, self.counted, self.mib = True, False, 0.0

    def run(self):
        vectors = min(self.vectors, FIRST) if self.first else self.vectors
        first, self.first = self.first, False
        if first and not os.path.exists(self.path):
            return 0.0  # the other side makes it in its own first round
        child = subprocess.Popen(
            [sys.executable, __file__, "--once", self.path, str(vectors)],
            stdout=subprocess.PIPE)
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise RuntimeError(f"FAISS ended with {status}")
        self.counted = not first
        self.mib = usage.ru_maxrss / 1024
        return vectors / json.loads(said)

    def memory(self):
        if not self.counted:
            self.run()
        return self.mib


if __name__ == "__main__":
    if sys.argv[1] == "--once":
        build(sys.argv[2], int(sys.argv[3]))
    else:
        side = Side(f"{sys.argv[1]}/made-{sys.argv[2]}", int(sys.argv[2]))
        player.play({"faiss": side.run, "faiss_memory": side.memory})
