# SPDX-License-Identifier: MIT
"""Models: a rule and its weights, in files and in memory."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import numpy.typing as npt

from . import _core
from .rule import Rule

if TYPE_CHECKING:
    import torch

    from . import nn

Path = Union[str, "os.PathLike[str]"]
Array = npt.NDArray[np.float32]

_SHAPES = {"w1": (128, 48), "b1": (128,), "w2": (16, 128), "b2": (16,)}


def _python_words(text: str) -> str:
    """The library's messages name options as the tool does: --input-order is input_order here."""
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), text)


def _in_words_of_python(error: Exception) -> Exception:
    kind = ValueError if isinstance(error, ValueError) else RuntimeError
    return kind(_python_words(str(error)))


class Model:
    """A rule and the weights of an automaton, with what its file says of its training.

    Model(rule, w1, b1, w2, b2) takes arrays of the shapes [128, 48], [128], [16, 128] and [16] or
    None; column c * 3 + k of w1 belongs to channel c and filter k.
    """

    def __init__(
        self,
        rule: Rule,
        w1: npt.ArrayLike,
        b1: npt.ArrayLike,
        w2: npt.ArrayLike,
        b2: Optional[npt.ArrayLike] = None,
    ) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(f"rule is a {type(rule).__name__}: expected a libnca.Rule")
        parts = []
        for (name, shape), given in zip(_SHAPES.items(), (w1, b1, w2, b2)):
            if given is None and name == "b2":
                continue
            array = np.asarray(given, np.float32)
            if array.shape != shape and array.shape != shape + (1, 1):
                raise ValueError(f"{name} has the shape {array.shape}: expected {shape}")
            parts.append(array.ravel())
        self._core = _core.make_model(rule.text, np.concatenate(parts))

    @classmethod
    def _of(cls, core: Any) -> Model:
        model = cls.__new__(cls)
        model._core = core
        return model

    @classmethod
    def load(cls, path: Path, **options: Any) -> Model:
        """Reads a model of this library, a safetensors file of another program, json of the Distill
        article's web demo, or the graph of its notebook.

        Where the file has no rule it is guessed, or given by options: rule ("notebook", "growing"
        or "demo"), edges, sobel_scale, identity_filter, life, start_cell, fire_rate, step_size,
        premultiplied, input_order, transposed (docs/weights-from-elsewhere.md). PyTorch's own files
        (.pt, .pth) are read by torch: Model.from_torch(module). Raises OSError where the file cannot
        be read, ValueError where it is not a model.
        """
        try:
            return cls._of(_core.load_model(os.fspath(path), options))
        except (ValueError, RuntimeError) as error:
            raise _in_words_of_python(error) from None

    def save(self, path: Path) -> None:
        """Writes a safetensors file, which ``nca`` and the notebook's PyTorch module read, too. The
        old file stays until the new one is complete. Raises OSError, and ValueError where a weight
        is not finite."""
        self._core.save(os.fspath(path))

    @classmethod
    def from_torch(
        cls, module: torch.nn.Module, *, rule: Union[Rule, str, None] = None, **options: Any
    ) -> Model:
        """The model of a PyTorch module that has two 1x1 convolutions or linear layers (48 to 128
        and 128 to 16 channels), and perhaps its fixed filters as parameters or buffers.

        rule: of the module, as a Rule or by a name. The other options are those of load(), of which
        a Rule leaves input_order alone. What is not given is guessed: the first of the known rules
        under which the automaton lives, and ``model.notes`` says so. With a Rule the inputs are by
        channel, unless input_order or the module's filters say otherwise. Raises ValueError, which
        says why, where the tensors are not those of one automaton.
        """
        import torch

        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"module is a {type(module).__name__}: expected a torch.nn.Module, into which "
                "load_state_dict has put the weights"
            )
        tensors = []
        for name, tensor in module.state_dict().items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                continue
            array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            tensors.append((name, np.ascontiguousarray(array)))
        source = f"the module {type(module).__name__}"
        text = None
        if isinstance(rule, Rule):
            text = rule.text
        else:
            options["rule"] = rule
        try:
            return cls._of(_core.model_of_arrays(tensors, text, options, source))
        except (ValueError, RuntimeError) as error:
            raise _in_words_of_python(error) from None

    def to_torch(self) -> nn.Automaton:
        """A module of plain PyTorch that computes the same, step by step: see nn.Automaton."""
        from . import nn

        return nn.Automaton(self)

    @property
    def rule(self) -> Rule:
        """How a step is computed."""
        return Rule._of(self._core.rule)

    @property
    def history(self) -> dict[str, Any]:
        """What the model's file says of its training: preset, target, iterations, loss, ..."""
        return dict(self._core.history)

    @property
    def notes(self) -> list[str]:
        """What was converted, left out or guessed when it was read, a sentence each."""
        return [_python_words(note) for note in self._core.notes]

    def _arrays(self) -> dict[str, Any]:
        flat = self._core.weights()
        arrays: dict[str, Any] = dict.fromkeys(_SHAPES)
        for name, shape in _SHAPES.items():
            size = int(np.prod(shape))
            if flat.size:
                arrays[name] = flat[:size].reshape(shape).copy()
            flat = flat[size:]
        return arrays

    @property
    def w1(self) -> Array:
        """A copy, [128, 48]."""
        return self._arrays()["w1"]

    @property
    def b1(self) -> Array:
        """A copy, [128]."""
        return self._arrays()["b1"]

    @property
    def w2(self) -> Array:
        """A copy, [16, 128]."""
        return self._arrays()["w2"]

    @property
    def b2(self) -> Optional[Array]:
        """A copy, [16], or None where the model has no output bias."""
        return self._arrays()["b2"]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of the weights as tensors of PyTorch, named as in nn.Rollout: w1, b1, w2 and,
        where there is one, b2."""
        import torch

        return {k: torch.from_numpy(v) for k, v in self._arrays().items() if v is not None}

    def __repr__(self) -> str:
        history = self.history
        trained = ""
        if history["preset"]:
            trained = f", {history['iterations']} iterations of {history['preset']}"
            if history["target"]:
                trained += f" on {history['target']}"
        return f"<libnca.Model, fire rate {self.rule.fire_rate:g}{trained}>"
