# SPDX-License-Identifier: MIT
"""Modules of PyTorch."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from . import functional
from .functional import Record
from .model import Model
from .rule import Key, Rule

__all__ = ["Automaton", "Rollout"]


def _weights(model: Model) -> dict[str, Any]:
    tensors = {k: torch.nn.Parameter(v) for k, v in model.state_dict().items()}
    return {"b2": None, **tensors}


class Rollout(torch.nn.Module):
    """A layer that runs many steps of an automaton: functional.rollout with weights of its own.

    model: the first weights and the rule. steps: how many, where a call does not say it.
    Parameters: w1 [128, 48], b1 [128], w2 [16, 128] and b2 [16], or None where the model has none.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Optional[Tensor]

    def __init__(self, model: Model, steps: int) -> None:
        super().__init__()
        self.rule: Rule = model.rule
        self.steps = steps
        for name, weight in _weights(model).items():
            self.register_parameter(name, weight)

    def forward(
        self, x: Tensor, key: Key, *, steps: Optional[int] = None, record: Record = None
    ) -> Tensor:
        """As functional.rollout. Give every call a key of its own: the same key draws the same fire
        masks."""
        return functional.rollout(
            x, self.w1, self.b1, self.w2, self.b2, steps=self.steps if steps is None else steps,
            rule=self.rule, key=key, record=record,
        )  # fmt: skip

    def model(self) -> Model:
        """The model with the weights as they are now: to save, to show, to run elsewhere."""
        w1, b1, w2 = (w.detach().cpu().numpy() for w in (self.w1, self.b1, self.w2))
        return Model(self.rule, w1, b1, w2, None if self.b2 is None else self.b2.detach().cpu().numpy())

    def extra_repr(self) -> str:
        return f"steps={self.steps}, fire_rate={self.rule.fire_rate:g}"


class Automaton(torch.nn.Module):
    """The same automaton in plain PyTorch, one step a call: to read, to change, to compare with.

    States are [batch, 16, height, width]. The layers are net[0] and net[2], as in the notebook; the
    filters are the buffer ``filters`` [48, 1, 3, 3]. Model.from_torch reads it back.
    """

    filters: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.rule: Rule = model.rule
        weights = _weights(model)
        filters = torch.tensor(self.rule.filters).reshape(3, 1, 3, 3)
        self.register_buffer("filters", filters.repeat(16, 1, 1, 1))
        first = torch.nn.Conv2d(48, 128, 1)
        second = torch.nn.Conv2d(128, 16, 1, bias=weights["b2"] is not None)
        self.net = torch.nn.Sequential(first, torch.nn.ReLU(), second)
        first.weight.data = weights["w1"].data[:, :, None, None]
        second.weight.data = weights["w2"].data[:, :, None, None]
        for layer, name in (first, "b1"), (second, "b2"):
            if layer.bias is not None:
                layer.bias.data = weights[name].data

    def _padded(self, x: Tensor) -> Tensor:
        mode = "circular" if self.rule.edges == "circular" else "constant"
        return torch.nn.functional.pad(x, (1, 1, 1, 1), mode=mode)

    def _living(self, x: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(self._padded(x[:, 3:4]), 3, stride=1) > 0.1

    def forward(self, x: Tensor, fire: Optional[Tensor] = None) -> Tensor:
        """One step. fire [batch, 1, height, width]: 1 where a cell fires; without it they are drawn
        by torch. libnca.fire_mask has the masks of a Key."""
        if fire is None:
            fire = (torch.rand_like(x[:, :1]) < self.rule.fire_rate).to(x.dtype)
        perceived = torch.nn.functional.conv2d(self._padded(x), self.filters, groups=16)
        updated = x + self.rule.step_size * fire * self.net(perceived)
        life = self._living(updated)
        if self.rule.life == "pre_and_post":
            life = life & self._living(x)
        return updated * life
