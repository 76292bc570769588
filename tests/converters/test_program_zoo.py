"""Every architecture of the zoo in TensorFlow, three samples at once, against the interpreter."""

import pytest
from tests.converters import zoo

from edgekd_converters.errors import UnsupportedOpError
from edgekd_converters.program import Program, verify_program

LOOPS = {"lstm_while"}
"""Their loop is a subgraph, which only the interpreter runs."""


@pytest.mark.parametrize("name", sorted(set(zoo.ZOO) - LOOPS))
def test_an_architecture_equals_the_interpreter(name: str) -> None:
    graph = zoo.graph(name)
    assert verify_program(graph, zoo.samples(graph, 3, seed=1)) < 1e-5


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_a_loop_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedOpError, match="WHILE"):
        Program(zoo.graph(name))
