"""The options of ``edgekd convert`` that make a model smaller before it becomes int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import common
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from edgekd_converters.prune import PruneOptions
    from edgekd_converters.recover import RecoverOptions

_AUGMENTATIONS = ("flip", "crop")


def _augmentations(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """``flip,crop`` → its parts."""
    names = tuple(name.strip() for name in value.split(",")) if value is not None else ()
    if set(names) - set(_AUGMENTATIONS) or len(set(names)) != len(names):
        raise click.BadParameter(f"{value!r} is not a list of {' and '.join(_AUGMENTATIONS)}, each once at most.")
    return names


def _blocks(context: click.Context, option: click.Parameter, value: str) -> int | None:
    """None for ``auto``."""
    if value == "auto":
        return None
    if not value.isdecimal() or len(value) > 4:
        raise click.BadParameter(f"{value!r} is neither a whole number nor 'auto'.")
    return int(value)


_PRUNING = (
    click.option(
        "--prune",
        type=common.FiniteRange(0, 1, min_open=True, max_open=True),
        help="Remove this share of the multiply-accumulates, e.g. 0.5, by whole channels and residual blocks.",
    ),
    click.option(
        "--prune-blocks",
        callback=_blocks,
        default="auto",
        show_default=True,
        metavar="N",
        help="So many residual blocks leave whole; auto: as many as short trainings tell, before --recover-steps.",
    ),
    click.option(
        "--prune-uniform", is_flag=True, help="Narrow every layer alike instead of by sensitivity, for comparison."
    ),
    click.option(
        "--importance",
        type=click.Choice(["weight", "activation", "taylor"]),
        default="taylor",
        show_default=True,
        help="What tells which channels leave first.",
    ),
    click.option(
        "--prune-rounds",
        type=click.IntRange(1, 100),
        default=1,
        show_default=True,
        help="Prune and recover in turn so often; --prune and --recover-steps are spread over the rounds.",
    ),
    click.option("--no-refit", is_flag=True, help="Leave out the least-squares refit of the weights that stay."),
    click.option(
        "--channel-multiple",
        type=click.IntRange(1, 1024),
        default=8,
        show_default=True,
        help="Keep widths that are multiples of this.",
    ),
    click.option("--dry-run", is_flag=True, help="Print what --prune would remove, and write nothing."),
)
_RECOVERY = (
    click.option(
        "--recover-steps",
        type=click.IntRange(1),
        help="Then train so many batches of --samples under the teacher, with their labels if they have any.",
    ),
    click.option(
        "--teacher", type=common.PATH, help="Any model with STUDENT's inputs and outputs. [default: STUDENT itself]"
    ),
    click.option(
        "--recover-batch", type=click.IntRange(1, 65536), default=128, show_default=True, help="Rows of a batch."
    ),
    click.option(
        "--recover-learning-rate",
        type=common.FiniteRange(0, min_open=True),
        default=3e-3,
        show_default=True,
        help="The highest; a cosine takes it to zero.",
    ),
    click.option(
        "--recover-temperature",
        type=common.FiniteRange(0.05, 100),
        default=4.0,
        show_default=True,
        help="T of the teacher's soft labels.",
    ),
    click.option(
        "--recover-alpha",
        type=common.FiniteRange(0, 1),
        default=0.3,
        show_default=True,
        help="Loss = α·CE + (1−α)·T²·KL where there are labels.",
    ),
    click.option(
        "--hints",
        type=common.FiniteRange(0),
        default=0.0,
        show_default=True,
        help="Weight of the distance to the teacher's inner activations.",
    ),
    click.option(
        "--augment",
        callback=_augmentations,
        metavar="flip,crop",
        help="Change images at random in training: flip, crop.",
    ),
)
# Without the option on the left, those on the right would do nothing.
_NEEDS = {
    "prune": ("prune_blocks", "prune_uniform", "importance", "prune_rounds", "no_refit", "channel_multiple", "dry_run"),
    "recover_steps": (
        "teacher",
        "recover_batch",
        "recover_learning_rate",
        "recover_temperature",
        "recover_alpha",
        "hints",
        "augment",
    ),
}


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds them all to a command."""
    for option in reversed((*_PRUNING, *_RECOVERY)):
        command = option(command)
    return command


def check() -> None:
    """Raise ``UsageError`` for an option of the running command that was given but would do nothing."""
    context = click.get_current_context()
    for needed, others in _NEEDS.items():
        for other in others:
            given = context.get_parameter_source(other) is not click.core.ParameterSource.DEFAULT
            if given and context.params[needed] is None:
                raise UsageError(f"--{other.replace('_', '-')} needs --{needed.replace('_', '-')}")


def prune_options(given: dict[str, Any], seed: int) -> PruneOptions | None:
    """None where pruning is not asked for."""
    from edgekd_converters.prune import PruneOptions

    if given["prune"] is None:
        return None
    return PruneOptions(
        amount=given["prune"],
        uniform=given["prune_uniform"],
        importance=given["importance"],
        multiple=given["channel_multiple"],
        refit=not given["no_refit"],
        seed=seed,
        blocks=given["prune_blocks"],
    )


def recover_options(given: dict[str, Any], seed: int) -> RecoverOptions | None:
    """None where recovery is not asked for."""
    from edgekd_converters.recover import RecoverOptions

    if given["recover_steps"] is None:
        return None
    return RecoverOptions(
        steps=given["recover_steps"],
        batch=given["recover_batch"],
        learning_rate=given["recover_learning_rate"],
        temperature=given["recover_temperature"],
        alpha=given["recover_alpha"],
        hints=given["hints"],
        augment=given["augment"],
        seed=seed,
    )
