# SPDX-License-Identifier: MIT
"""Neural cellular automata, forward and backward through time (docs/python.md).

    libnca.functional   rollouts as operations of PyTorch      (needs torch)
    libnca.nn           modules of PyTorch                     (needs torch)
    libnca.jax          rollouts under jax.jit and jax.grad    (needs jax)
    libnca.Model        models in files and in memory
    libnca.Simulator    grows a model
    libnca.Trainer      trains one

torch and jax are imported by those three modules alone, which are imported where they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _core
from .model import Model
from .rule import Key, Rule
from .simulator import Simulator
from .trainer import Trainer

if TYPE_CHECKING:
    from . import functional, jax, nn

__version__: str = _core.version
__all__ = [
    "Key",
    "Model",
    "Rule",
    "Simulator",
    "Trainer",
    "fire_mask",
    "set_precision",
    "set_threads",
    "threads",
]


def __getattr__(name: str) -> Any:
    if name in ("functional", "jax", "nn"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def fire_mask(
    key: Key, fire_rate: float, batch: int, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Which cells fire in the first step of a rollout with this key, [batch, height, width] of 0
    and 1; key.after(t) has those of step t. For who computes a step on their own."""
    return _core.fire_mask(key.numbers, fire_rate, (batch, height, width))


def set_threads(threads: int) -> None:
    """On how many threads the CPU engine computes from now on; at first one for each processor.
    The results do not depend on it."""
    _core.set_threads(threads)


def threads() -> int:
    """On how many threads the CPU engine computes."""
    return _core.threads()


def set_precision(precision: str) -> None:
    """What the CUDA engine computes its matrix products in from now on: "exact", "precise" or
    "fast" (docs/cuda.md). At first the default of the device. Raises RuntimeError after the first
    rollout on a GPU."""
    _core.set_precision(precision)
