# SPDX-License-Identifier: MIT
"""Training by the library's own loop, with arrays of numpy."""

from __future__ import annotations

import os
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

from . import _core
from .model import Model, Path, _in_words_of_python
from .rule import Rule


class Trainer:
    """Trains an automaton by the library's own loop, at its speed (docs/tool.md).

    picture: the target, [height, width, 4] or [height, width, 3], uint8 in 0..255 or floats in
    0..1, straight alpha; it is scaled to target_size cells. preset: "notebook", "growing",
    "persistent" or "regenerating". options: what differs from the preset, by the names of
    TrainingConfig in C++: batch, target_size, padding, learning_rate, fewest_steps, most_steps,
    seed, ..., rule (a Rule), start_cells (a list of (y, x)). One thread may use it at a time.
    """

    def __init__(
        self, picture: npt.ArrayLike, preset: str = "growing", *, device: str = "auto", **options: Any
    ) -> None:
        if "rule" in options:
            if not isinstance(options["rule"], Rule):
                kind = type(options["rule"]).__name__
                raise TypeError(f"rule is a {kind}: expected a libnca.Rule")
            options["rule"] = options["rule"].text
        self._core = _core.Trainer(_picture_of(picture), preset, options, device)

    @classmethod
    def from_checkpoint(cls, path: Path, *, device: str = "auto") -> Trainer:
        """Goes on with the run of a checkpoint, of this class or of ``nca train``: the bits are
        those of a run that never stopped."""
        trainer = cls.__new__(cls)
        trainer._core = _core.Trainer.from_checkpoint(os.fspath(path), device)
        return trainer

    def start_from(self, model: Model, name: str = "a model in memory") -> None:
        """Takes the weights of a model in place of new ones, before the first iteration. name: for
        the history of what is trained."""
        try:
            self._core.start_from(model._core, name)
        except ValueError as error:
            raise _in_words_of_python(error) from None

    def run(
        self, iterations: int, callback: Optional[Callable[[Any], Any]] = None
    ) -> Trainer:
        """Trains until so many iterations are done, those before included, and returns itself.

        callback: called with a report of every iteration (iteration, steps, loss, learning_rate,
        gradient_norm, dead, reset, recovery); training stops where it returns False. On a GPU up to
        32 iterations run before their reports come, so that it stops up to 31 later. Ctrl-C stops
        it, too; what was trained stays. Raises RuntimeError where training fails for good.
        """
        while self.iteration < iterations:
            for report in self._core.iterate(min(iterations - self.iteration, 2**31 - 1)):
                if callback is not None and callback(report) is False:
                    return self
        return self

    def model(self) -> Model:
        """The trained model as it is now."""
        return Model._of(self._core.model())

    def save_checkpoint(self, path: Path) -> None:
        """Saves all that from_checkpoint needs. The old file stays until the new one is complete."""
        self._core.save_checkpoint(os.fspath(path))

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return self._core.iteration

    @property
    def loss(self) -> float:
        """The mean of the last 100 good iterations; NaN before the first."""
        return self._core.loss

    @property
    def blank_loss(self) -> float:
        """The loss of an empty grid."""
        return self._core.blank_loss

    @property
    def device(self) -> str:
        """What it trains on, in words."""
        return self._core.device

    def target(self) -> npt.NDArray[np.float32]:
        """The target on the grid, [grid, grid, 4]."""
        return self._core.target()

    def states(self) -> npt.NDArray[np.float32]:
        """A copy of the states that the last iteration ended with, [batch, grid, grid, 16]."""
        return self._core.states()


def _picture_of(picture: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError(f"picture has the shape {array.shape}: expected (height, width, 4)")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"picture is {array.dtype}: expected uint8, or floats in 0..1")
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError("picture has floats outside of 0..1: divide by 255 where it is 0..255")
        array = np.round(array * 255).astype(np.uint8)
    if array.shape[2] == 3:
        opaque = np.full((*array.shape[:2], 1), 255, np.uint8)
        array = np.concatenate([array, opaque], axis=2)
    return np.ascontiguousarray(array)
