"""Runs on an emulated board under ``count_instructions.c``: instructions of each ``invoke()`` of a model, as JSON."""

from __future__ import annotations

import gc
import json
import mmap
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

WARM_UP = 10  # the first invokes allocate, and Python still specialises its bytecode


def main(model: str, counter: str, invokes: str) -> None:
    """The counter is a file of at least 8 bytes, which the plugin has mapped too."""
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        # Ids stay 0, which every table has.
        high = 1 if detail["dtype"] in (np.int32, np.int64) else 100
        interpreter.set_tensor(detail["index"], rng.integers(0, high, detail["shape"]).astype(detail["dtype"]))
    gc.disable()
    counts = []
    with Path(counter).open("r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
        total = memoryview(shared).cast("Q")
        for _ in range(WARM_UP + int(invokes)):
            before = total[0]
            interpreter.invoke()
            counts.append(total[0] - before)
        total.release()
    delegated = any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())
    print(json.dumps({"counts": counts[WARM_UP:], "delegated": delegated}))


if __name__ == "__main__":
    main(*sys.argv[1:])
