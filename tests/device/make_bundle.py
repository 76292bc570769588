"""Write a real, quickly trained bundle: ``make_bundle.py FOLDER``. Prints its path last.

A program of its own because it imports TensorFlow, which must not be in the process under test.
"""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "customer_service"
EPOCHS = 8


def main(folder: Path) -> Path:
    from edgekd.distill import DistillOptions, distill
    from edgekd.distill.train import TrainOptions
    from edgekd.options import ConvertOptions
    from edgekd.pipeline import convert

    student = folder / "student"
    training = TrainOptions(epochs=EPOCHS)
    distill(DistillOptions(data=EXAMPLE / "train.csv", output=student, teacher="none", training=training))
    options = ConvertOptions(
        student=student,
        samples=EXAMPLE / "train.csv",
        output=folder / "bundle",
        evaluation=EXAMPLE / "eval.csv",
        out_of_scope=EXAMPLE / "out_of_scope.csv",
        answers=EXAMPLE / "answers.json",
        name="customer-service",
        max_samples=200,
    )
    return convert(options).bundle


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
