"""Ops that the quantiser does not know by itself keep their name, become int8 and compute what the float op does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_quantizer.utils import tfl_flatbuffer_utils
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tests.converters import op_cases_axes, op_cases_values, op_cases_windows
from tests.converters.one_op import Case, Draw, Given, Maker, a_shape, build, ints, options
from tests.converters.reals import in_int8, one_op_feeds, real_outputs, relative_error

from edgekd_converters.graph import read_graph
from edgekd_converters.integer import require_integer
from edgekd_converters.kernels import KNOWN_AS, known_to_quantizer


def _long_vectors(draw: Draw) -> Case:
    """Far enough from 0, where the direction hangs on rounding."""
    return Case(options("L2Norm"), (Given((draw(st.integers(1, 3)), draw(st.integers(1, 5))), low=0.5),))


def _greatest(draw: Draw) -> Case:
    """Each axis once; LiteRT itself fails when one is named twice."""
    shape = a_shape(draw)
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return Case(options("Reducer", keepDims=draw(st.booleans())), (Given(shape), ints(*axes)))


CASES: dict[str, Maker] = {
    **op_cases_values.CASES,
    **op_cases_windows.CASES,
    **op_cases_axes.CASES,
    "L2_NORMALIZATION": _long_vectors,
    "REDUCE_MAX": _greatest,
}
CHOICES = ("ARG_MAX", "ARG_MIN")


@pytest.mark.parametrize("name", sorted(set(KNOWN_AS) - set(CHOICES)))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_an_op_stays_and_computes_the_same_in_int8(name: str, data: Any) -> None:
    case = CASES[name](data.draw)
    assume(set(case.outputs) == {"float32"})
    original, fed = build(name, case), one_op_feeds(case)
    int8 = in_int8(original, fed)
    assert name in [op.name for op in int8.main]
    require_integer(int8)
    assert relative_error(real_outputs(original, fed), real_outputs(int8, fed)) < 0.05


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_among_values_that_differ_is_the_same(name: str) -> None:
    given_ = Given((4, 9))
    kind = {"ARG_MAX": "ArgMax", "ARG_MIN": "ArgMin"}[name]
    original = build(name, Case(options(kind, outputType=2), (given_, ints(1)), ("int32",)))
    rng = np.random.default_rng(0)
    fed = [{"x0": rng.permuted(np.tile(np.linspace(-2, 2, 9, dtype=np.float32), (4, 1)), axis=1)} for _ in range(8)]
    wanted, got = real_outputs(original, fed), real_outputs(in_int8(original, fed), fed)
    np.testing.assert_array_equal(got["y0"], wanted["y0"])


def test_a_chain_of_them_needs_nothing_in_between(to_tflite: Callable[..., bytes], tf: Any) -> None:
    def network(image: Any, other: Any) -> Any:
        x = tf.image.resize(tf.nn.leaky_relu(image, 0.1), (6, 8), "nearest")
        x = tf.tile(tf.nn.elu(x), (1, 2, 1, 1))
        return tf.minimum(tf.squeeze(tf.reduce_max(x, 1, keepdims=True), 1), other)

    float32 = tf.float32
    original = read_graph(to_tflite(network, ((1, 3, 4, 2), float32), ((1, 8, 2), float32)))
    rng, (image, other) = np.random.default_rng(0), original.signature.inputs
    fed = [
        {image: rng.normal(size=(1, 3, 4, 2)).astype("f4"), other: rng.normal(size=(1, 8, 2)).astype("f4")}
        for _ in range(9)
    ]
    int8 = in_int8(original, fed)
    kinds = [op.name for op in int8.main]
    assert [name for name in kinds if name != "QUANTIZE"] == [op.name for op in original.main]
    assert kinds.count("QUANTIZE") <= 2  # both sides of the minimum
    assert relative_error(real_outputs(original, fed), real_outputs(int8, fed)) < 0.05


def test_the_quantiser_forgets_again_what_it_was_told() -> None:
    before = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME
    with pytest.raises(ZeroDivisionError), known_to_quantizer():
        assert len(tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME) > len(before)
        1 / 0  # noqa: B018
    assert tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME is before
