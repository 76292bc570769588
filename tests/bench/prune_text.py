"""``make bench-prune_text``: half of the BANKING77 student's embedding and dense weights gone, by the tool itself."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, SHARED, edgekd, finish, need
from edgekd_converters.graph import read_graph

SEEDS = (0, 1, 2)
STEPS = 2000
MAX_DROP = 0.005
MAX_WEIGHTS = 0.5


def main() -> None:
    data = need(SHARED / "banking77")
    output = RESULTS / "prune_text"
    output.mkdir(parents=True, exist_ok=True)
    student = distilled(data)
    whole = convert(student, data, data / "train.csv", output / "whole")
    samples = {"labels": data / "train.csv", "no labels": without_labels(data / "train.csv", output / "texts.csv")}
    runs = {
        name: [
            convert(
                *(student, data, file, output / f"pruned-{seed}"),
                *("--prune", 0.5, "--importance", "activation", "--recover-steps", STEPS, "--seed", seed),
            )
            for seed in SEEDS
        ]
        for name, file in samples.items()
    }
    share = weights(output / f"pruned-{SEEDS[0]}" / "float.tflite") / weights(output / "whole" / "float.tflite")
    met = {"weights": share <= MAX_WEIGHTS}
    table = [("embedding and dense weights left", f"{share:.4f}", "", f"≤ {MAX_WEIGHTS}", verdict(met["weights"]))]
    for kind in ("float", "int8"):
        table.append((f"{kind}, whole", f"{whole['accuracy'][kind]:.4f}", "", "", ""))
        for name, reports in runs.items():
            reached = [report["accuracy"][kind] for report in reports]
            lost = whole["accuracy"][kind] - min(reached)
            met[f"{kind}, {name}"] = lost <= MAX_DROP + 1e-9
            each = " ".join(f"{accuracy:.4f}" for accuracy in reached)
            asked = f"≤ {MAX_DROP}", verdict(met[f"{kind}, {name}"])
            table.append((f"{kind}, pruned, {name}", each, f"{lost:.4f}", *asked))
    result = {"sentences": whole["judged_on"]["rows"], "seeds": SEEDS, "steps": STEPS, "weights_left": share}
    headings = ("", f"seeds {', '.join(map(str, SEEDS))}", "worst loss", "asked", "")
    finish("prune_text", {**result, "met": met, "whole": whole, "pruned": runs}, table, headings)
    sys.exit(0 if all(met.values()) else 1)


def distilled(data: Path) -> Path:
    """The student of ``make bench-banking77``, made now if it is not there."""
    student = RESULTS / "banking77" / "student"
    if not (student / "distill.json").is_file():
        train = ("--data", data / "train.csv", "--eval", data / "test.csv", "--label-column", "category")
        edgekd("distill", *train, "--seed", 0, "--output", student)
    return student


def convert(student: Path, data: Path, samples: Path, output: Path, *options: object) -> dict[str, Any]:
    common = ("--samples", samples, "--eval", data / "test.csv", "--label-column", "category", "--output", output)
    return edgekd("convert", student, *common, *options)


def without_labels(source: Path, copy: Path) -> Path:
    with source.open(encoding="utf-8", newline="") as file, copy.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text"])
        writer.writerows([row["text"]] for row in csv.DictReader(file))
    return copy


def weights(model: Path) -> int:
    """Values in tables and dense kernels; a column of constants is none."""
    graph = read_graph(model.read_bytes())
    used = {tensor.index: tensor for op in graph.main for tensor in op.inputs if tensor.is_constant}
    matrices = [tensor.shape for tensor in used.values() if tensor.dtype == "FLOAT32" and len(tensor.shape) == 2]
    return sum(math.prod(shape) for shape in matrices if shape[1] > 1)


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    main()
