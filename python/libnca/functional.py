# SPDX-License-Identifier: MIT
"""Rollouts as operations of PyTorch.

    import torch, libnca, libnca.functional as F

    y = F.rollout(x, w1, b1, w2, b2, steps=80, rule=libnca.Rule.growing(), key=libnca.Key(seed=0))
    loss(y).backward()          # x, w1, b1, w2 and b2 get their gradients

Tensors stay where they are: on the CPU or on a CUDA device, in the current stream, and nothing is
copied on the way in. While it computes, other Python threads run.

float32 everywhere; float64 on the CPU is computed by plain loops, the specification, and is there
for torch.autograd.gradcheck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Optional, Union

import torch
from torch import Tensor

from . import _core
from .rule import Key, Rule

if not hasattr(torch.library, "register_autograd"):
    raise ImportError(f"libnca.functional needs torch 2.4 or later, and this is {torch.__version__}")

__all__ = ["advance_", "rollout"]

_CHANNELS = 16
_MOST_STEPS = 2**24
_SHAPES = {
    "w1": ((128, 48), "[128, 48]"),
    "b1": ((128,), "[128]"),
    "w2": ((16, 128), "[16, 128]"),
    "b2": ((16,), "[16]"),
}

Record = Union[None, Literal["all"], Sequence[int]]


def rollout(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Optional[Tensor] = None,
    *,
    steps: int,
    rule: Rule,
    key: Key,
    record: Record = None,
) -> Tensor:
    """Runs ``steps`` steps of an automaton; gradients flow through all of them.

    x: the first states, [batch, height, width, 16], or [batch, 16, height, width] in the memory
        format channels_last: the channels of a cell lie together in both. The first four are red,
        green, blue and alpha. Any other memory format is refused; a contiguous [batch, 16, height, 16]
        is taken for [batch, height, width, 16].
    w1, b1, w2, b2: the weights, [128, 48], [128], [16, 128] and [16] or None, those of 1x1
        convolutions ([128, 48, 1, 1]) too. Column c * 3 + k of w1 belongs to channel c and filter k.
    steps: how many, 0 to 2**24. They may differ from call to call at no cost.
    rule: how a step is computed.
    key: which fire masks are drawn. The same key draws the same; give every call its own.
    record: after which steps the states are wanted. None: after the last. A list of steps
        (0 is x itself): a tensor [len(record), batch, ...] of them, in this order. "all":
        [steps + 1, batch, ...], so that result[t] is the state after t steps. A loss of any of them
        has gradients; what comes behind the last recorded step takes no part in them.

    Returns the states in the layout of x. Fire masks and life masks count as constants
    (docs/mathematics.md). There are derivatives of the first order alone, and backwards alone.
    Raises TypeError and ValueError, with one sentence each, for what it cannot take, and
    RuntimeError where the engine fails.
    """
    cells, is_channels_first = _cells_of(x)
    w1, b1, w2, b2 = _weights_of(x, w1, b1, w2, b2)
    _refuse_other_derivatives(x, w1, b1, w2, b2)
    steps = _check_options(steps, rule, key)
    recorded, is_all = _recorded(record, steps)
    steps = max(recorded)
    wants_gradients = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, w1, b1, w2, b2)
    )
    if not (wants_gradients or x.dtype == torch.float64):
        states = _without_tape(cells, (w1, b1, w2, b2), rule, key, recorded)
    elif _is_plain(x):
        states = _Rollout.apply(
            cells, w1, b1, w2, b2, record is None, steps, rule.text, key.numbers, recorded, is_all
        )
        return _like_x(states, is_channels_first)
    else:
        states, _, _ = torch.ops.libnca.rollout(
            cells, w1, b1, w2, b2, steps, rule.text, key.numbers, recorded, is_all
        )
    if record is None:
        return _like_x(states.squeeze(0), is_channels_first)
    return _like_x(states, is_channels_first)


def advance_(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Optional[Tensor] = None,
    *,
    steps: int = 1,
    rule: Rule,
    key: Key,
) -> Tensor:
    """Overwrites the states x by those after ``steps`` steps, without gradients, and returns x.

    Arguments as in rollout(). x is float32. Raises RuntimeError where x requires a gradient and
    gradients are on.
    """
    cells, _ = _cells_of(x)
    if torch.is_grad_enabled() and x.requires_grad:
        raise RuntimeError(
            "advance_ overwrites x, which requires a gradient: use rollout, or torch.no_grad()"
        )
    if x.dtype == torch.float64:
        raise TypeError("advance_ takes float32; float64 is for the gradients of rollout")
    w1, b1, w2, b2 = _weights_of(x, w1, b1, w2, b2)
    _refuse_other_derivatives(x, w1, b1, w2, b2)
    steps = _check_options(steps, rule, key)
    with torch.no_grad():
        advance = _advance if _is_plain(x) else torch.ops.libnca.advance_
        advance(cells, w1, b1, w2, b2, steps, rule.text, key.numbers)
    return x


def _like_x(states: Tensor, is_channels_first: bool) -> Tensor:
    return states.movedim(-1, -3) if is_channels_first else states


# --- what comes in ---------------------------------------------------------------------------------


def _cells_of(x: Tensor) -> tuple[Tensor, bool]:
    """x as [batch, height, width, 16], and whether its channels come first."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}: expected a torch.Tensor")
    if x.dim() == 4 and x.shape[3] == _CHANNELS and x.is_contiguous():
        return x, False
    if x.dim() == 4 and x.shape[1] == _CHANNELS:
        cells = x.permute(0, 2, 3, 1)
        if cells.is_contiguous():
            return cells, True
        raise ValueError(
            f"x has the shape {list(x.shape)} in a memory format in which the channels of a cell do "
            "not lie together: call x.contiguous(memory_format=torch.channels_last) once, before "
            "the training"
        )
    if x.dim() == 4 and x.shape[3] == _CHANNELS:
        raise ValueError(f"x of the shape {list(x.shape)} is not contiguous: call x.contiguous()")
    raise ValueError(
        f"x has the shape {list(x.shape)}: expected [batch, height, width, {_CHANNELS}], or "
        f"[batch, {_CHANNELS}, height, width] in the memory format channels_last"
    )


def _weights_of(x: Tensor, *weights: Optional[Tensor]) -> tuple[Any, ...]:
    """The weights as matrices and vectors, after a check of all that the engine cannot see."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x is {x.dtype}: expected torch.float32, or torch.float64 on the CPU")
    if x.device.type not in ("cpu", "cuda"):
        raise ValueError(f"x is on {x.device}: expected the CPU or a CUDA device")
    if x.dtype == torch.float64 and x.device.type != "cpu":
        raise TypeError(f"x is torch.float64 on {x.device}: float64 is for the CPU alone")
    if x.numel() == 0:
        raise ValueError(f"x has the shape {list(x.shape)}: expected at least one cell")
    dtype, device = x.dtype, x.device
    result: list[Optional[Tensor]] = []
    for (name, (shape, text)), weight in zip(_SHAPES.items(), weights):
        if (
            isinstance(weight, Tensor)
            and weight.shape == shape
            and weight.dtype == dtype
            and weight.device == device
        ):
            result.append(weight if weight.is_contiguous() else weight.contiguous())
            continue
        if weight is None:
            if name != "b2":
                raise TypeError(f"{name} is None: only b2 may be")
            result.append(None)
            continue
        if not isinstance(weight, Tensor):
            raise TypeError(f"{name} is a {type(weight).__name__}: expected a torch.Tensor")
        if weight.dtype != dtype or weight.device != device:
            raise TypeError(
                f"{name} is {weight.dtype} on {weight.device} and x is {dtype} on {device}: "
                "they have to be the same"
            )
        if tuple(weight.shape) != shape + (1, 1) or len(shape) != 2:
            raise ValueError(f"{name} has the shape {list(weight.shape)}: expected {text}")
        result.append(weight.reshape(shape).contiguous())
    return tuple(result)


def _refuse_other_derivatives(*tensors: Optional[Tensor]) -> None:
    """What is not autograd's way back would come out wrong without a word."""
    if torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "rollouts do not work inside torch.func (vmap, grad, jvp): take torch.autograd, and the "
            "batch of x in place of vmap"
        )
    if torch.autograd.forward_ad._current_level >= 0 and any(
        tensor is not None and torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    ):
        raise RuntimeError("rollouts have no derivatives in forward mode: take them backwards")


def _check_options(steps: int, rule: Rule, key: Key) -> int:
    """The steps as a number of Python's."""
    if not isinstance(steps, (int, torch.SymInt)):
        try:
            whole = int(steps)
        except (TypeError, ValueError, OverflowError):
            whole = None
        if whole is None or whole != steps:
            raise TypeError(f"steps is {steps!r}: expected a whole number")
        steps = whole
    if not 0 <= steps <= _MOST_STEPS:
        raise ValueError(f"steps is {steps}: expected 0 to {_MOST_STEPS}")
    if not isinstance(rule, Rule):
        raise TypeError(f"rule is a {type(rule).__name__}: expected a libnca.Rule")
    if not isinstance(key, Key):
        raise TypeError(f"key is a {type(key).__name__}: expected a libnca.Key")
    return steps


def _recorded(record: Record, steps: int) -> tuple[list[int], bool]:
    """The recorded steps, and whether they are all."""
    if record is None:
        return [steps], False
    if isinstance(record, str) and record == "all":
        return list(range(steps + 1)), True
    if isinstance(record, str) or not hasattr(record, "__iter__"):
        raise TypeError(f'record is {record!r}: expected None, "all" or a list of steps')
    recorded = [int(step) for step in record]
    for step, wanted in zip(recorded, record):
        if step != wanted:
            raise TypeError(f"record has {wanted}: expected whole numbers")
    if not recorded:
        raise ValueError("record is empty: expected at least one step")
    for step in recorded:
        if not 0 <= step <= steps:
            raise ValueError(f"record has {step}: expected 0 to {steps}, the number of steps")
    return recorded, False


def _without_tape(
    cells: Tensor, weights: tuple[Any, ...], rule: Rule, key: Key, recorded: list[int]
) -> Tensor:
    """The recorded states, where no gradient is wanted: nothing else is kept."""
    advance = _advance if _is_plain(cells) else torch.ops.libnca.advance_
    now, done = cells.clone(), 0
    if len(recorded) == 1:
        advance(now, *weights, recorded[0], rule.text, key.numbers)
        return now.unsqueeze(0)
    states = cells.new_empty((len(recorded), *cells.shape))
    for step in sorted(set(recorded)):
        advance(now, *weights, step - done, rule.text, key.after(done).numbers)
        done = step
        for index, wanted in enumerate(recorded):
            if wanted == step:
                states[index] = now
    return states


# --- the operations ----------------------------------------------------------------------------------
#
# By Library.define and impl, which are 12 us a call faster than torch.library.custom_op.

_library = torch.library.Library("libnca", "DEF")
_library.define(
    "rollout(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor? b2, SymInt steps, str rule, "
    "SymInt[] key, SymInt[] record, bool all) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "rollout_backward(Tensor grad, Tensor states, Tensor rest, Tensor w1, Tensor b1, Tensor w2, "
    "Tensor? b2, SymInt steps, str rule, SymInt[] key, SymInt[] record) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "advance_(Tensor(a!) x, Tensor w1, Tensor b1, Tensor w2, Tensor? b2, SymInt steps, "
    "str rule, SymInt[] key) -> ()"
)


def _is_plain(x: Tensor) -> bool:
    """Whether nothing but autograd has to see the operation: neither torch.compile, nor a tensor
    subclass, or a mode that traces. It then goes past the dispatcher, which takes longer than the
    engine where the grid is small."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
    )


class _Rollout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w1, b1, w2, b2, is_one, *options):  # type: ignore[no-untyped-def]
        output = _rollout(x, w1, b1, w2, b2, *options)
        _rollout_setup(ctx, (x, w1, b1, w2, b2, *options), output)
        ctx.is_one = is_one  # without a dimension of records: a view in here costs autograd nothing
        return output[0].squeeze(0) if is_one else output[0]

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        if ctx.is_one and grad is not None:
            grad = grad.unsqueeze(0)
        grads = _rollout_autograd(ctx, grad, call=_rollout_backward)
        return (*grads[:5], None, *grads[5:])


def _place_of(tensor: Tensor) -> tuple[int, int]:
    """The engine's device and the address of the current stream."""
    if tensor.is_cuda:
        index = tensor.get_device()
        return index, torch.cuda.current_stream(index).cuda_stream
    return -1, 0


def _addresses(tensors: Sequence[Optional[Tensor]]) -> tuple[int, ...]:
    return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)


def _rollout(x, w1, b1, w2, b2, steps, rule, key, record, all):  # type: ignore[no-untyped-def]
    """-> states [records, batch, height, width, 16], and the tape: two tensors of bytes.

    Where all states are recorded they are the tape's own, and its first tensor is empty.
    """
    device, stream = _place_of(x)
    sizes = tuple(x.shape[:3])
    weights = _addresses((w1, b1, w2, b2))
    states = x.new_empty((len(record), *x.shape))
    if x.dtype == torch.float64:
        _core.forward_double(
            rule, key, steps, sizes, weights, x.data_ptr(), record, states.data_ptr()
        )
        return states, x.clone(), x.new_empty(0, dtype=torch.uint8)
    is_clean = False
    copied = record
    if all:
        tape = x.new_empty(0, dtype=torch.uint8)
        copied = []
        address = states.data_ptr()
        rest = x.new_empty(_core.tape_bytes(device, rule, steps, sizes), dtype=torch.uint8)
    elif device >= 0:
        tape = x.new_empty((steps + 1) * x.numel() * 4, dtype=torch.uint8)
        rest = x.new_empty(_core.tape_bytes(device, rule, steps, sizes), dtype=torch.uint8)
        address = tape.data_ptr()
        copied = []
    else:
        tape, rest = (torch.from_dlpack(part) for part in _core.take_tape(steps, sizes))
        address = tape.data_ptr()
        is_clean = True
    _core.forward(
        device, stream, rule, key, steps, sizes, weights, x.data_ptr(), address, rest.data_ptr(),
        is_clean, copied, states.data_ptr(),
    )  # fmt: skip
    if device >= 0 and not all:
        of_step = tape.view(torch.float32).view(steps + 1, *x.shape)
        for index, step in enumerate(record):
            states[index] = of_step[step]
    return states, tape, rest


def _rollout_fake(x, w1, b1, w2, b2, steps, rule, key, record, all):  # type: ignore[no-untyped-def]
    states = x.new_empty((len(record), *x.shape))
    if x.dtype == torch.float64:
        return states, torch.empty_like(x), x.new_empty(0, dtype=torch.uint8)
    bytes_of_tape = 0 if all else (steps + 1) * x.numel() * 4
    if x.is_cuda:  # only the engine knows
        bytes_of_rest = torch.library.get_ctx().new_dynamic_size()
    else:
        batch, height, width = x.shape[:3]
        bytes_of_rest = (steps + 1) * batch * height * ((width + 63) // 64) * 8
    return (
        states,
        x.new_empty(bytes_of_tape, dtype=torch.uint8),
        x.new_empty(bytes_of_rest, dtype=torch.uint8),
    )


def _rollout_setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, w1, b1, w2, b2, steps, rule, key, record, all = inputs
    states, tape, rest = output
    ctx.save_for_backward(states if all and states.dtype == torch.float32 else tape, rest, w1, b1, w2, b2)
    ctx.options = steps, rule, key, record
    ctx.set_materialize_grads(False)


def _rollout_autograd(ctx, grad, *of_tape, call=None):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        raise RuntimeError("rollout has no gradients of gradients: leave create_graph out")
    if grad is None:
        return (None,) * 10
    tape, rest, w1, b1, w2, b2 = ctx.saved_tensors
    grad_x, *grads = (call or torch.ops.libnca.rollout_backward)(
        grad.contiguous(), tape, rest, w1, b1, w2, b2, *ctx.options
    )
    if b2 is None:
        grads[3] = None
    return grad_x, *grads, None, None, None, None, None


def _rollout_backward(grad, tape, rest, w1, b1, w2, b2, steps, rule, key, record):  # type: ignore[no-untyped-def]
    device, stream = _place_of(grad)
    sizes = tuple(grad.shape[1:4])
    weights = (w1, b1, w2, b2)
    grads = [torch.empty_like(weight) for weight in (w1, b1, w2)]
    grads.append(grad.new_empty(0) if b2 is None else torch.empty_like(b2))
    grad_addresses = tuple(g.data_ptr() if g.numel() else 0 for g in grads)
    if grad.dtype == torch.float64:
        grad_x = torch.empty_like(tape)
        _core.backward_double(
            rule, key, steps, sizes, _addresses(weights), tape.data_ptr(), record, grad.data_ptr(),
            grad_x.data_ptr(), grad_addresses,
        )  # fmt: skip
        return grad_x, *grads
    if steps == 0:  # x itself
        return grad.sum(0), *(g.zero_() for g in grads)
    of_step: dict[int, Tensor] = {}  # those of a step that was recorded twice are summed
    for step, one in zip(record, grad.unbind()):
        of_step[step] = of_step[step] + one if step in of_step else one
    last = of_step.pop(steps, None)
    grad_x = grad.new_zeros(grad.shape[1:]) if last is None else last.clone()
    others = [(step, one.data_ptr()) for step, one in of_step.items()]
    # Those that hooks have packed may lie anywhere.
    tape, rest = (part.clone() if part.data_ptr() % 16 else part for part in (tape, rest))
    _core.backward(
        device, stream, rule, key, steps, sizes, _addresses(weights), tape.data_ptr(),
        rest.data_ptr(), others, grad_x.data_ptr(), grad_addresses,
    )  # fmt: skip
    return grad_x, *grads


def _rollout_backward_fake(grad, tape, rest, w1, b1, w2, b2, steps, rule, key, record):  # type: ignore[no-untyped-def]
    grad_b2 = grad.new_empty(0) if b2 is None else torch.empty_like(b2)
    return (
        grad.new_empty(grad.shape[1:]),
        torch.empty_like(w1),
        torch.empty_like(b1),
        torch.empty_like(w2),
        grad_b2,
    )


def _advance(x, w1, b1, w2, b2, steps, rule, key):  # type: ignore[no-untyped-def]
    device, stream = _place_of(x)
    weights = _addresses((w1, b1, w2, b2))
    _core.advance(device, stream, rule, key, steps, tuple(x.shape[:3]), weights, x.data_ptr())
    torch.autograd.graph.increment_version(x)  # autograd sees that x is another one now


for _key in ("CPU", "CUDA"):
    _library.impl("rollout", _rollout, _key)
    _library.impl("rollout_backward", _rollout_backward, _key)
    _library.impl("advance_", _advance, _key)
torch.library.register_fake("libnca::rollout", _rollout_fake, lib=_library)
torch.library.register_fake("libnca::rollout_backward", _rollout_backward_fake, lib=_library)
torch.library.register_fake("libnca::advance_", lambda *arguments: None, lib=_library)
torch.library.register_autograd(
    "libnca::rollout", _rollout_autograd, setup_context=_rollout_setup, lib=_library
)
