# SPDX-License-Identifier: MIT
"""Rules and keys: what a rollout needs besides states and weights."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from . import _core

_EDGES = ("circular", "zero")
_LIFE = ("post", "pre_and_post")
_START_CELL = ("alpha", "alpha_and_hidden")

Filter = tuple[float, ...]


def _single(value: float) -> float:
    """The float32 next to it, as the shortest number that means it: a rule that was saved and loaded
    is the same."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _number_of(names: tuple[str, ...], field: str, value: str) -> float:
    if value not in names:
        raise ValueError(f"Rule.{field} is {value!r}: expected {' or '.join(map(repr, names))}")
    return float(names.index(value))


@dataclasses.dataclass(frozen=True)
class Rule:
    """Everything about an automaton except its weights: how a step is computed.

    The default is the rule of the preset ``growing``, experiment 1 of Mordvintsev et al.,
    "Growing Neural Cellular Automata", Distill 2020. Raises ValueError where a value is outside
    its range or not finite.
    """

    filters: tuple[Filter, Filter, Filter] = (
        (0, 0, 0, 0, 1, 0, 0, 0, 0),
        (-0.125, 0, 0.125, -0.25, 0, 0.25, -0.125, 0, 0.125),
        (-0.125, -0.25, -0.125, 0, 0, 0, 0.125, 0.25, 0.125),
    )
    """Identity, Sobel x and Sobel y, nine factors each, row by row."""
    edges: Literal["circular", "zero"] = "zero"
    """What lies beyond the edge of the grid: the opposite side, or zeros."""
    life: Literal["post", "pre_and_post"] = "pre_and_post"
    """Which cells a step keeps: those living after it, or both before and after it."""
    start_cell: Literal["alpha", "alpha_and_hidden"] = "alpha_and_hidden"
    """Which channels of the start cell are 1: alpha, or alpha and the twelve hidden ones."""
    fire_rate: float = 0.5
    """The probability that a cell fires in a step, in 0..1."""
    step_size: float = 1.0
    """The factor of an update."""
    premultiplied: bool = True
    """Whether the colour channels hold colour times alpha."""

    text: str = dataclasses.field(init=False, repr=False, compare=False)
    """The rule as text, the argument of the operation libnca::rollout."""

    def __post_init__(self) -> None:
        if len(self.filters) != 3 or any(len(one) != 9 for one in self.filters):
            raise ValueError("Rule.filters: expected three filters of nine factors")
        filters = tuple(tuple(map(_single, one)) for one in self.filters)
        object.__setattr__(self, "filters", filters)
        for field in "fire_rate", "step_size":
            object.__setattr__(self, field, _single(getattr(self, field)))
        numbers = (
            *(factor for one in filters for factor in one),
            _number_of(_EDGES, "edges", self.edges),
            _number_of(_LIFE, "life", self.life),
            _number_of(_START_CELL, "start_cell", self.start_cell),
            self.fire_rate,
            self.step_size,
            float(bool(self.premultiplied)),
        )
        text = " ".join(f"{number:.9g}" for number in numbers)
        _core.check_rule(text)
        object.__setattr__(self, "text", text)

    @classmethod
    def _of(cls, text: str) -> Rule:
        numbers = [float(number) for number in text.split()]
        filters = tuple(tuple(numbers[k * 9 : k * 9 + 9]) for k in range(3))
        edges, life, start_cell, fire_rate, step_size, premultiplied = numbers[27:]
        return cls(
            filters=filters,  # type: ignore[arg-type]
            edges=_EDGES[int(edges)],  # type: ignore[arg-type]
            life=_LIFE[int(life)],  # type: ignore[arg-type]
            start_cell=_START_CELL[int(start_cell)],  # type: ignore[arg-type]
            fire_rate=fire_rate,
            step_size=step_size,
            premultiplied=bool(premultiplied),
        )

    @classmethod
    def growing(cls, **changes: Any) -> Rule:
        """The rule of the presets growing, persistent and regenerating (Distill 2020)."""
        return dataclasses.replace(cls._of(_core.rule_text("growing")), **changes)

    @classmethod
    def notebook(cls, **changes: Any) -> Rule:
        """The rule of the PyTorch notebook: circular edges, Sobel filters without the factor 1/8,
        life after the update, a start cell of alpha, straight alpha.

        The notebook as it is printed has an identity filter of zeros:
        ``Rule.notebook().without_identity()``.
        """
        return dataclasses.replace(cls._of(_core.rule_text("notebook")), **changes)

    @classmethod
    def demo(cls, **changes: Any) -> Rule:
        """The rule of the web demo of the Distill article: growing with circular edges."""
        return dataclasses.replace(cls._of(_core.rule_text("demo")), **changes)

    def without_identity(self) -> Rule:
        """The rule with zeros in place of the identity filter."""
        return dataclasses.replace(self, filters=((0.0,) * 9, *self.filters[1:]))

    def rotated(self, degrees: float) -> Rule:
        """The rule with its Sobel filters rotated: a pattern then grows rotated (Distill 2020,
        experiment 4)."""
        return self._of(_core.rotated(self.text, degrees))


@dataclasses.dataclass(frozen=True)
class Key:
    """Which fire masks a rollout draws: a name for random numbers, not a generator.

    The same key gives the same masks on every device, in every process and in every run. Cell i of
    sample b draws in step t the number of (seed, iteration, step + t, sample + b, i), all modulo
    2**32. So two rollouts with the keys ``Key(seed)`` of 30 steps and ``Key(seed, step=30)`` of 50
    are one of 80 steps. In training, give every iteration a key of its own:
    ``Key(seed, iteration=i)``. With several processes (DistributedDataParallel) give each its own
    samples: ``Key(seed, iteration=i, sample=rank * batch)``.
    """

    seed: int = 0
    iteration: int = 0
    step: int = 0
    sample: int = 0

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """The key as plain numbers, the argument of the operation libnca::rollout."""
        return (int(self.seed), int(self.iteration), int(self.step), int(self.sample))

    def after(self, steps: int) -> Key:
        """The key with which a rollout goes on that has done so many steps."""
        step = self.step + steps
        if isinstance(step, int):  # the integers of JAX wrap by themselves
            step %= 2**32
        return dataclasses.replace(self, step=step)
