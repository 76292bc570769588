"""Cases of the ops that work value by value."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from tests.converters.one_op import Case, Draw, Given, Maker, a_shape, either, fixed, options

_ACTIVATION = st.sampled_from([0, 1, 2, 3])


def _unary(low: float = -4, high: float = 4, dtype: str = "float32", kind: str = "") -> Maker:
    return lambda draw: Case(options(kind) if kind else None, (Given(a_shape(draw), dtype, low, high),), (dtype,))


def _broadcast_shapes(draw: Draw, whole: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    """Shapes that fit together: one is whole, the others may have ones or lack axes."""
    shapes = [whole]
    for _ in range(count - 1):
        some = tuple(draw(st.sampled_from([1, size])) for size in whole)
        shapes.append(some[draw(st.integers(0, len(whole))) :])
    return draw(st.permutations(shapes))


def _operands(draw: Draw, count: int, dtype: str, low: float, high: float) -> list[Any]:
    givens = [Given(shape, dtype, low, high) for shape in _broadcast_shapes(draw, a_shape(draw), count)]
    fed = draw(st.integers(0, count - 1))  # one must be
    return [given if i == fed else either(draw, given) for i, given in enumerate(givens)]


def _binary(
    kind: str,
    dtypes: tuple[str, ...] = ("float32",),
    out: str = "",
    low: float = -4,
    high: float = 4,
    fuses: bool = False,
) -> Maker:
    def make(draw: Draw) -> Case:
        dtype = draw(st.sampled_from(dtypes))
        fused = {"fusedActivationFunction": draw(_ACTIVATION)} if fuses and dtype == "float32" else {}
        return Case(options(kind, **fused), tuple(_operands(draw, 2, dtype, low, high)), (out or dtype,))

    return make


_NUMBERS = ("float32", "int32")


def _add_n(draw: Draw) -> Case:
    given = Given(a_shape(draw))
    return Case(options("AddN"), (given, *(either(draw, given) for _ in range(draw(st.integers(1, 3))))))


def _prelu(draw: Draw) -> Case:
    whole = a_shape(draw, 2)
    return Case(None, (Given(whole), fixed(draw, Given((*[1] * (len(whole) - 2), whole[-1])))))


def _select(draw: Draw) -> Case:
    whole = (*a_shape(draw, 0, 3), 2)  # of a single value the interpreter makes a scalar
    condition = draw(st.sampled_from([whole, whole[:1]]))
    x, y = Given(whole), Given(whole)
    return Case(options("Select"), (either(draw, Given(condition, "bool")), x, either(draw, y)))


def _select_v2(draw: Draw) -> Case:
    condition, x, y = _broadcast_shapes(draw, (*a_shape(draw, 0, 3), 2), 3)
    return Case(options("SelectV2"), (either(draw, Given(condition, "bool")), Given(x), either(draw, Given(y))))


def _cast(draw: Draw) -> Case:
    source, target = (draw(st.sampled_from(["float32", "int32", "int64", "bool"])) for _ in range(2))
    return Case(options("Cast"), (Given(a_shape(draw), source, -9, 9),), (target,))


def _dequantize(draw: Draw) -> Case:
    return Case(options("Dequantize"), (Given(a_shape(draw), "float16"),))


def _gelu(draw: Draw) -> Case:
    return Case(options("Gelu", approximate=draw(st.booleans())), (Given(a_shape(draw)),))


def _leaky_relu(draw: Draw) -> Case:
    return Case(options("LeakyRelu", alpha=draw(st.sampled_from([0.01, 0.3, 1.5]))), (Given(a_shape(draw)),))


def _atan2(draw: Draw) -> Case:
    whole = a_shape(draw)
    return Case(options("ATan2"), (Given(whole), either(draw, Given(whole))))


CASES: dict[str, Maker] = {
    "RELU": _unary(),
    "RELU6": _unary(-3, 9),
    "RELU_N1_TO_1": _unary(),
    "RELU_0_TO_1": _unary(),
    "LEAKY_RELU": _leaky_relu,
    "PRELU": _prelu,
    "ELU": _unary(),
    "TANH": _unary(),
    "LOGISTIC": _unary(),
    "HARD_SWISH": _unary(-6, 6, kind="HardSwish"),
    "GELU": _gelu,
    "EXP": _unary(kind="Exp"),
    "LOG": _unary(0.1),
    "SQRT": _unary(0.1),
    "RSQRT": _unary(0.1),
    "SQUARE": _unary(kind="Square"),
    "ABS": _unary(kind="Abs"),
    "NEG": _unary(kind="Neg"),
    "SIN": _unary(),
    "COS": _unary(kind="Cos"),
    "FLOOR": _unary(),
    "CEIL": _unary(),
    "ROUND": _unary(),
    "SIGN": _unary(kind="Sign"),
    "LOGICAL_NOT": _unary(dtype="bool", kind="LogicalNot"),
    "ZEROS_LIKE": _unary(kind="ZerosLike"),
    "CAST": _cast,
    "DEQUANTIZE": _dequantize,
    "ADD": _binary("Add", _NUMBERS, fuses=True),
    "ADD_N": _add_n,
    "SUB": _binary("Sub", _NUMBERS, fuses=True),
    "MUL": _binary("Mul", _NUMBERS, fuses=True),
    "DIV": _binary("Div", _NUMBERS, low=1, high=9, fuses=True),
    "MAXIMUM": _binary("MaximumMinimum", _NUMBERS),
    "MINIMUM": _binary("MaximumMinimum", _NUMBERS),
    "SQUARED_DIFFERENCE": _binary("SquaredDifference", _NUMBERS),
    "POW": _binary("Pow", _NUMBERS, low=1, high=4),
    "FLOOR_DIV": _binary("FloorDiv", _NUMBERS, low=1, high=9),
    "FLOOR_MOD": _binary("FloorMod", _NUMBERS, low=1, high=9),
    "ATAN2": _atan2,
    "EQUAL": _binary("Equal", _NUMBERS, "bool"),
    "NOT_EQUAL": _binary("NotEqual", _NUMBERS, "bool"),
    "LESS": _binary("Less", _NUMBERS, "bool"),
    "LESS_EQUAL": _binary("LessEqual", _NUMBERS, "bool"),
    "GREATER": _binary("Greater", _NUMBERS, "bool"),
    "GREATER_EQUAL": _binary("GreaterEqual", _NUMBERS, "bool"),
    "LOGICAL_AND": _binary("LogicalAnd", ("bool",)),
    "LOGICAL_OR": _binary("LogicalOr", ("bool",)),
    "SELECT": _select,
    "SELECT_V2": _select_v2,
}
