"""``make bench-banking77``: MiniLM → n-gram student → int8 → labels over HTTP, on all of BANKING77's test sentences."""

from __future__ import annotations

import csv
import json
import sys

from common import RESULTS, SHARED, RawClient, edgekd, finish, need, serving

SEED = 0
TARGETS = {"teacher": 0.930, "student": 0.925, "int8, served": 0.922}
MAX_MODEL_BYTES = 1_000_000


def main() -> None:
    data = need(SHARED / "banking77")
    train, test = data / "train.csv", data / "test.csv"
    output = RESULTS / "banking77"
    common = ("--label-column", "category", "--seed", SEED)
    student = edgekd("distill", "--data", train, "--eval", test, *common, "--output", output / "student")
    converted = edgekd("convert", output / "student", "--samples", train, "--eval", test, *common, "--output", output)
    bundle = output / "banking77.edgekd"
    with test.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with serving(bundle) as (_, port):
        client = RawClient(port, "/v1/models/banking77:classify")
        right = sum(json.loads(client.send(client.request(row["text"])))["label"] == row["category"] for row in rows)
    reached = {
        "teacher": student["accuracy"]["teacher_eval"],
        "student": student["accuracy"]["student_eval"],
        "int8, served": right / len(rows),
    }
    size = converted["bytes"]["int8"]
    met = {name: reached[name] >= target for name, target in TARGETS.items()} | {"model bytes": size <= MAX_MODEL_BYTES}
    table = [
        (name, f"{reached[name]:.4f}", f"≥ {TARGETS[name]:.3f}", "met" if met[name] else "MISSED") for name in TARGETS
    ]
    table.append(("model bytes", f"{size:,}", f"≤ {MAX_MODEL_BYTES:,}", "met" if met["model bytes"] else "MISSED"))
    result = {"sentences": len(rows), "seed": SEED, "accuracy": reached, "bytes": converted["bytes"], "met": met}
    finish("banking77", result | {"distill": student, "convert": converted}, table, ("", "measured", "asked", ""))
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
