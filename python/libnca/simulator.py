# SPDX-License-Identifier: MIT
"""Runs a model on one grid, with arrays of numpy."""

from __future__ import annotations

from typing import Optional

import numpy as np
import numpy.typing as npt

from . import _core
from .model import Model


class Simulator:
    """Grows a model from its start cell on a grid of its own.

    size: (height, width) in cells. seed: of the fire masks. device: "auto", "cpu", "cuda" or
    "cuda:N". Places are (y, x), counted from 0, from the top and from the left. Steps and pictures
    are those of ``nca grow`` with the same seed. One thread may use it at a time.
    """

    def __init__(
        self,
        model: Model,
        size: tuple[int, int] = (72, 72),
        *,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model is a {type(model).__name__}: expected a libnca.Model")
        height, width = size
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}: expected 0 to 2**32 - 1")
        self._core = _core.Simulator(model._core, height, width, seed, device)
        self._size = (height, width)
        self._core.plant_seed()

    def step(self, steps: int = 1) -> None:
        """Runs that many steps."""
        self._core.step(steps)

    def plant_seed(self, y: Optional[int] = None, x: Optional[int] = None) -> None:
        """Overwrites one cell by the start cell; without a place, the cells that the model was
        trained to grow from, as when the simulator was made."""
        if (y is None) != (x is None):
            raise TypeError("plant_seed takes y and x, or neither")
        if y is None:
            self._core.plant_seed()
        else:
            self._core.plant_seed(y, x)

    def erase_circle(self, y: float, x: float, radius: float) -> None:
        """Clears the cells whose centre is at most radius cells from (y, x)."""
        self._core.erase_circle(y, x, radius)

    def erase_rectangle(self, top: int, left: int, bottom: int, right: int) -> None:
        """Clears rows top .. bottom - 1 of columns left .. right - 1."""
        self._core.erase_rectangle(top, left, bottom, right)

    def clear(self) -> None:
        """Clears all cells."""
        self._core.erase_rectangle(0, 0, *self._size)

    def picture(self) -> npt.NDArray[np.uint8]:
        """The state as a picture, [height, width, 4]: red, green, blue and straight alpha, 0..255.
        PIL.Image.fromarray(...) shows it."""
        return self._core.picture()

    def state(self) -> npt.NDArray[np.float32]:
        """A copy of all channels, [height, width, 16]."""
        return self._core.state()

    @property
    def living(self) -> int:
        """How many cells have an alpha above 0.1."""
        return self._core.living()

    @property
    def steps_done(self) -> int:
        """How many steps were run."""
        return self._core.steps_done

    @property
    def device(self) -> str:
        """What it runs on, in words."""
        return self._core.device
