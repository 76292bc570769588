"""Whole graphs in TensorFlow: equal to the interpreter, many samples at once, differentiable."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekd_converters.graph import Graph
from edgekd_converters.program import verify_program

RESNET8 = Path(__file__).parents[3] / "shared/data/mlperf_tiny_resnet8/pretrainedResnet.tflite"


def test_a_conv_net_equals_the_interpreter(conv_graph: Graph, images: list[Any]) -> None:
    assert verify_program(conv_graph, {"image": np.concatenate(images[:3])}) < 1e-5


def test_a_text_student_equals_the_interpreter(student_graph: Graph, student_rows: list[Any]) -> None:
    assert verify_program(student_graph, {"ids": np.concatenate(student_rows[:3])}) < 1e-5
