# SPDX-License-Identifier: MIT
"""Rollouts under jax.jit, jax.grad and the other transformations of JAX.

    import jax, libnca, libnca.jax

    def loss(weights, x, i):
        y = libnca.jax.rollout(
            x, *weights, steps=80, rule=libnca.Rule.growing(), key=libnca.Key(seed=0, iteration=i)
        )
        return jnp.mean((y[..., :4] - target) ** 2)

    gradients = jax.jit(jax.grad(loss))(weights, x, 0)

float32 on the CPU and on CUDA devices. float64 on the CPU, where jax_enable_x64 is set, is computed
by plain loops, the specification, and is there for jax.test_util.check_grads.
"""

from __future__ import annotations

import functools
import operator
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Optional, Union

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from . import _core
from .rule import Key, Rule

__all__ = ["rollout"]

_CHANNELS = 16
_SHAPES = {"w1": (128, 48), "b1": (128,), "w2": (16, 128), "b2": (16,)}

Record = Union[None, Literal["all"], Sequence[int]]
Weights = tuple[jax.Array, jax.Array, jax.Array, Optional[jax.Array]]


def rollout(
    x: jax.Array,
    w1: jax.Array,
    b1: jax.Array,
    w2: jax.Array,
    b2: Optional[jax.Array] = None,
    *,
    steps: int,
    rule: Rule,
    key: Key,
    record: Record = None,
) -> jax.Array:
    """Runs ``steps`` steps of an automaton; gradients flow through all of them.

    x: the first states, [batch, height, width, 16]. The first four channels are red, green, blue
        and alpha.
    w1, b1, w2, b2: the weights, [128, 48], [128], [16, 128] and [16] or None. Column c * 3 + k of w1
        belongs to channel c and filter k.
    steps: how many, 0 to 2**24. A number of Python's: under jax.jit, each number compiles anew.
    rule: how a step is computed.
    key: which fire masks are drawn. The same key draws the same; give every call its own. Its
        numbers may be arrays of one integer, also traced ones: ``Key(seed=0, iteration=i)`` in
        jax.lax.scan. They count modulo 2**32. A key is a pytree, so that it can be an argument of a
        function that is transformed.
    record: after which steps the states are wanted. None: after the last. A list of steps
        (0 is x itself): an array [len(record), batch, ...] of them, in this order. "all":
        [steps + 1, batch, ...], so that result[t] is the state after t steps. A loss of any of them
        has gradients.

    Returns [batch, height, width, 16] or, with ``record``, one dimension more. Fire masks and life
    masks count as constants (docs/mathematics.md). Raises TypeError and ValueError, with one
    sentence each, for what it cannot take. What the engine raises comes as JAX's exception, with
    the engine's message. There are derivatives of the first order alone, and backwards alone.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule is a {type(rule).__name__}: expected a libnca.Rule")
    if not isinstance(key, Key):
        raise TypeError(f"key is a {type(key).__name__}: expected a libnca.Key")
    _check_arrays(x, w1, b1, w2, b2)
    steps, recorded = _recorded_steps(steps, record)
    options = _Options(rule.text, steps, tuple(sorted(set(recorded))), record is None)
    return _compiled(  # type: ignore[no-any-return]
        x, (w1, b1, w2, b2), _numbers_of(key), options, recorded
    )


# --- what comes in ---------------------------------------------------------------------------------


class _Options(NamedTuple):
    """What is known when a function is traced."""

    rule: str  # as text, which can be hashed whatever Rule.filters is
    steps: int
    record: tuple[int, ...]  # ascending; the last recorded step is the last step
    is_one: bool  # the state after the last step alone, without a dimension of records

    @property
    def records_all(self) -> bool:
        return not self.is_one and self.record == tuple(range(self.steps + 1))


def _recorded_steps(steps: int, record: Record) -> tuple[int, tuple[int, ...]]:
    """How many steps have to be run, and the recorded ones."""
    steps = _static("steps", steps)
    if not 0 <= steps <= 2**24:
        raise ValueError(f"steps is {steps}: expected 0 to 2**24")
    if record is None:
        return steps, (steps,)
    if isinstance(record, str):
        if record != "all":
            raise ValueError(f'record is {record!r}: expected None, "all" or a list of steps')
        return steps, tuple(range(steps + 1))
    recorded = tuple(_static("record", step) for step in record)
    if not recorded:
        raise ValueError("record is empty: expected at least one step")
    for step in recorded:
        if not 0 <= step <= steps:
            raise ValueError(f"record has {step}: expected 0 to {steps}, the number of steps")
    return max(recorded), recorded


def _static(name: str, number: Any) -> int:
    if isinstance(number, jax.core.Tracer):
        raise TypeError(
            f"{name} is traced: it has to be known when the function is compiled, so pass it as a "
            "static argument (jax.jit, static_argnames)"
        )
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{name} has {number!r}: expected an integer") from None


def _check_arrays(x: Any, *weights: Any) -> None:
    """All that the engine cannot see."""
    for name, array in zip(("x", *_SHAPES), (x, *weights)):
        if array is None and name == "b2":
            continue
        if not isinstance(array, (jax.Array, np.ndarray)):
            raise TypeError(f"{name} is a {type(array).__name__}: expected a jax.Array")
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"x is {x.dtype}: expected float32, or float64 on the CPU")
    if x.dtype == np.float64 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise TypeError("x is float64, and jax_enable_x64 is not set: call x.astype(numpy.float32)")
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        platforms = {device.platform for device in x.devices()}
        if not platforms <= {"cpu", "gpu"}:
            raise ValueError(f"x is on {platforms.pop()}: expected the CPU or a CUDA device")
        if x.dtype == np.float64 and platforms != {"cpu"}:
            raise TypeError("x is float64 on a CUDA device: float64 is for the CPU alone")
    if x.ndim != 4 or x.shape[3] != _CHANNELS:
        raise ValueError(
            f"x has the shape {list(x.shape)}: expected [batch, height, width, {_CHANNELS}]"
        )
    if x.size == 0:
        raise ValueError(f"x has the shape {list(x.shape)}: expected at least one cell")
    for (name, shape), weight in zip(_SHAPES.items(), weights):
        if weight is None:
            continue
        if weight.dtype != x.dtype:
            raise TypeError(f"{name} is {weight.dtype} and x is {x.dtype}: they have to be the same")
        if weight.shape != shape:
            raise ValueError(f"{name} has the shape {list(weight.shape)}: expected {list(shape)}")


def _numbers_of(key: Key) -> Any:
    """The key as uint32[4]."""
    numbers: list[Any] = []
    for name, number in vars(key).items():
        if isinstance(number, (int, np.integer)):
            if not 0 <= number < 2**32:
                raise ValueError(f"key.{name} is {number}: expected 0 to 2**32 - 1")
            numbers.append(np.uint32(number))
            continue
        array = jnp.asarray(number)
        if array.shape != () or not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(
                f"key.{name} is {array.dtype}{list(array.shape)}: expected one integer"
            )
        numbers.append(array.astype(jnp.uint32))
    if all(isinstance(number, np.uint32) for number in numbers):
        return np.array(numbers)
    return jnp.stack(numbers)


def _flatten_key(key: Key) -> tuple[tuple[Any, ...], None]:
    # Python's integers would become int32, which is too small for half of the seeds.
    return tuple(
        np.uint32(number) if isinstance(number, int) and 0 <= number < 2**32 else number
        for number in vars(key).values()
    ), None


def _unflatten_key(_: None, numbers: Sequence[Any]) -> Key:
    return Key(*numbers)


jax.tree_util.register_pytree_node(Key, _flatten_key, _unflatten_key)


# --- the operation -----------------------------------------------------------------------------------


def _call(
    name: str,
    results: Any,
    operands: Sequence[jax.Array],
    rule: str,
    steps: int,
    record: Optional[tuple[int, ...]] = None,
    aliases: Optional[dict[int, int]] = None,
) -> Any:
    """Calls a handler of python/module/jax.cpp."""
    attributes: dict[str, Any] = {"rule": rule, "steps": np.int64(steps)}
    if record is not None:
        attributes["record"] = np.array(record, np.int64)
    call: Any = jax.ffi.ffi_call(
        f"libnca_{name}", results, vmap_method="sequential", input_output_aliases=aliases
    )
    return call(*operands, **attributes)


def _like(array: jax.Array, *first: int) -> jax.ShapeDtypeStruct:
    """What an array is, with more dimensions in front of its own."""
    return jax.ShapeDtypeStruct((*first, *array.shape), array.dtype)  # type: ignore[no-untyped-call]


def _operands(weights: Weights) -> tuple[jax.Array, ...]:
    w1, b1, w2, b2 = weights
    return w1, b1, w2, jnp.zeros(0, w1.dtype) if b2 is None else b2


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _rollout(x: jax.Array, weights: Weights, key: jax.Array, options: _Options) -> jax.Array:
    """The recorded states where no gradient is wanted: nothing else is kept."""
    if x.dtype == np.float64:
        return _forward_double(x, weights, key, options)
    if options.records_all:
        return _forward(x, weights, key, options)[0]
    states, now, done = [], x, 0
    for step in options.record:
        operands = (now, *_operands(weights), key.at[2].add(np.uint32(done)))
        now = _call("advance", _like(x), operands, options.rule, step - done, aliases={0: 0})
        states.append(now)
        done = step
    if options.is_one:
        return now
    # By no jnp.stack: jax.vmap has to put its dimension where it puts that of _recorded(). JAX takes
    # one for the other where it differentiates a vmap under jax.jit.
    return jnp.concatenate([state.reshape(1, *x.shape) for state in states])


def _rollout_forward(
    x: jax.Array, weights: Weights, key: jax.Array, options: _Options
) -> tuple[jax.Array, Any]:
    if x.dtype == np.float64:
        return _forward_double(x, weights, key, options), (x, None, weights, key)
    states, rest = _forward(x, weights, key, options)
    return _recorded(states, options), (states, rest, weights, key)


def _rollout_backward(
    options: _Options, residuals: Any, grad: jax.Array
) -> tuple[jax.Array, Weights, None]:
    states, rest, weights, key = residuals
    if options.is_one:
        grad = grad.reshape(1, *grad.shape)
    rule, steps, record, _ = options
    if steps == 0:  # x itself
        return grad[0], jax.tree_util.tree_map(jnp.zeros_like, weights), None
    operands = _operands(weights)
    gradients = (_like(grad[0]), *map(_like, operands))
    if grad.dtype == np.float64:
        operands = (grad, states, *operands, key)
        grad_x, *grads = _call("backward_double", gradients, operands, rule, steps, record)
    else:
        others = grad[:0] if len(record) == 1 else grad
        operands = (grad[-1], others, rest, states, *operands, key)
        grad_x, *grads = _call("backward", gradients, operands, rule, steps, record, {0: 0})
    if weights[3] is None:
        grads[3] = None
    return grad_x, tuple(grads), None


_rollout.defvjp(_rollout_forward, _rollout_backward)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _compiled(
    x: jax.Array, weights: Weights, key: jax.Array, options: _Options, recorded: tuple[int, ...]
) -> jax.Array:
    states = _rollout(x, weights, key, options)
    if options.is_one or recorded == options.record:
        return states
    return states[np.array([options.record.index(step) for step in recorded])]


def _forward(
    x: jax.Array, weights: Weights, key: jax.Array, options: _Options
) -> tuple[jax.Array, jax.Array]:
    """-> the tape: states [steps + 1, batch, height, width, 16], and bytes."""
    rest = max(
        _core.tape_bytes(device, options.rule, options.steps, x.shape[:3])
        for device in (-1, *_cuda_devices())
    )
    bytes_of_rest = jax.ShapeDtypeStruct((rest,), np.uint8)  # type: ignore[no-untyped-call]
    tape = _like(x, options.steps + 1), bytes_of_rest
    operands = (x, *_operands(weights), key)
    return _call("forward", tape, operands, options.rule, options.steps)  # type: ignore[no-any-return]


@functools.cache
def _cuda_devices() -> list[int]:
    """The CUDA devices that a function may be compiled for: on which one it will run is not known
    when it is traced, and a tape's size depends on it."""
    try:
        devices = [device.local_hardware_id for device in jax.local_devices(backend="cuda")]
    except RuntimeError:  # JAX has none
        return []
    return list(filter(_has_engine, devices))


def _has_engine(device: int) -> bool:
    try:
        _core.tape_bytes(device, Rule().text, 1, (1, 1, 1))
    except RuntimeError:  # comes again, with its message, where a rollout is to run there
        return False
    return True


def _recorded(states: jax.Array, options: _Options) -> jax.Array:
    if options.records_all:
        return states
    if options.is_one:
        return states[options.steps]
    return states[np.array(options.record)]


def _forward_double(
    x: jax.Array, weights: Weights, key: jax.Array, options: _Options
) -> jax.Array:
    rule, steps, record, is_one = options
    out = _like(x) if is_one else _like(x, len(record))
    operands = (x, *_operands(weights), key)
    return _call("forward_double", out, operands, rule, steps, record)  # type: ignore[no-any-return]


# --- registration ------------------------------------------------------------------------------------


def _check_version() -> None:
    """Looks at what jaxlib's header says, because registration waits until JAX looks for devices, and
    JAX then fails as a whole."""
    if jax.__version_info__ < (0, 6):
        raise ImportError(f"libnca.jax needs jax 0.6 or later, and this is {jax.__version__}")
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    found = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header)
    interface = tuple(map(int, found))
    if interface < _core.jax_api or interface[0] != _core.jax_api[0]:
        raise ImportError(
            f"libnca was built with a jaxlib whose interface is {_core.jax_api}, and that of jaxlib "
            f"{jaxlib.version.__version__} is {interface}: install a newer jax, or build libnca with "
            "an older jaxlib"
        )


def _register() -> None:
    for name, platform, handler in _core.jax_handlers():
        jax.ffi.register_ffi_target(name, handler, platform=platform)


_check_version()
_register()
