# SPDX-License-Identifier: MIT
"""Rollouts under the transformations of JAX: values, gradients, keys, errors, threads."""

import functools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import RULES, random_model, random_states

import libnca

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
import jax.test_util  # noqa: E402

import libnca.jax  # noqa: E402

leaves = jax.tree_util.tree_leaves
KEY = libnca.Key(seed=7, iteration=3)
GROWING = RULES["growing"]


def weights_of(rule, **options):
    model = random_model(rule, **options)
    weights = [np.array(weight) for weight in (model.w1, model.b1, model.w2)]
    return weights if model.b2 is None else [*weights, np.array(model.b2)]


X = random_states(2, 9, 12)
WEIGHTS = weights_of(GROWING)


def rollout(x, weights, **options):
    return libnca.jax.rollout(x, *weights, **{"rule": GROWING, "key": KEY, **options})


def equal(left, right):
    left, right = leaves(left), leaves(right)
    return len(left) == len(right) and all(map(np.array_equal, left, right))


def distance(value, expected):
    """The relative L2 distance."""
    value, expected = np.float64(value), np.float64(expected)
    assert value.shape == expected.shape and np.linalg.norm(expected) > 0
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


# --- the same in jnp, step by step -------------------------------------------------------------------


def neighbours(x, rule):
    """The nine shifted grids, [9, batch, height, width, channels]."""
    height, width = x.shape[1:3]
    mode = "wrap" if rule.edges == "circular" else "constant"
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode)
    return jnp.stack(
        [padded[:, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    )


def living(x, rule):
    return neighbours(x[..., 3:4], rule).max(0) > 0.1


def one_step(x, weights, rule, fires):
    w1, b1, w2, *b2 = weights
    filters = jnp.array(rule.filters, x.dtype)
    perception = jnp.einsum("kn,nbyxc->byxck", filters, neighbours(x, rule))
    hidden = jax.nn.relu(perception.reshape(*x.shape[:3], 48) @ w1.T + b1)
    update = hidden @ w2.T + (b2[0] if b2 else 0)
    after = x + rule.step_size * update * fires[..., None]
    mask = living(after, rule)
    if rule.life == "pre_and_post":
        mask &= living(x, rule)
    return after * mask


def all_states(x, weights, rule, key, steps):
    masks = [libnca.fire_mask(key.after(t), rule.fire_rate, *x.shape[:3]) for t in range(steps)]

    def body(state, fires):
        after = one_step(state, weights, rule, fires)
        return after, after

    states = jax.lax.scan(body, jnp.asarray(x), jnp.stack(masks))[1]
    return jnp.concatenate([x[None], states])


STEPS = 6


@functools.partial(jax.jit, static_argnums=3)
def expected_of(x, weights, grad, rule):
    """All states, and the gradients of x and the weights from those of all states."""
    states, backward = jax.vjp(lambda *inputs: all_states(*inputs, rule, KEY, STEPS), x, weights)
    return states, backward(grad)


# --- values and gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_the_values_are_those_of_the_simulator(name):
    rule = RULES[name]
    model = random_model(rule, strength=0.1)
    simulator = libnca.Simulator(model, size=(11, 8), seed=5)
    x = np.array(simulator.state())[None]
    simulator.step(12)
    weights = weights_of(rule, strength=0.1)
    y = rollout(x, weights, steps=12, rule=rule, key=libnca.Key(seed=5))
    assert isinstance(y, jax.Array) and y.dtype == jnp.float32
    assert np.array_equal(y[0], simulator.state())
    jitted = jax.jit(lambda x: rollout(x, weights, steps=12, rule=rule, key=libnca.Key(seed=5)))
    assert np.array_equal(jitted(x), y)
    (taped, _) = jax.vjp(
        lambda x: rollout(x, weights, steps=12, rule=rule, key=libnca.Key(seed=5)), x
    )
    assert np.array_equal(taped, y)


def random_like(shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name, output_bias", [("growing", True), ("notebook", False), ("demo", True)])
def test_gradients_are_those_of_the_same_in_jnp(name, output_bias):
    rule, weights = RULES[name], weights_of(RULES[name], output_bias=output_bias)
    grad = np.zeros((STEPS + 1, *X.shape), np.float32)
    grad[STEPS] = random_like(X.shape)

    def loss(x, weights):
        return jnp.sum(rollout(x, weights, steps=STEPS, rule=rule) * grad[STEPS])

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(X, weights)
    states, expected = expected_of(X, weights, grad, rule)
    assert distance(rollout(X, weights, steps=STEPS, rule=rule), states[STEPS]) <= 1e-5
    assert len(gradients[1]) == (4 if output_bias else 3)
    for one, other in zip(leaves(gradients), leaves(expected), strict=True):
        assert distance(one, other) <= 1e-5
    assert equal(jax.grad(loss, argnums=(0, 1))(X, weights), gradients)


@pytest.mark.parametrize("record", ["all", [0], [6], [2, 6, 0, 2, 6], [3, 1]], ids=str)
def test_recorded_states_and_their_gradients(record):
    recorded = list(range(STEPS + 1)) if record == "all" else record
    factors = random_like((len(recorded), *X.shape))
    grad = np.zeros((STEPS + 1, *X.shape), np.float32)
    np.add.at(grad, recorded, factors)

    def run(x, weights):
        return rollout(x, weights, steps=STEPS, record=record)

    y = jax.jit(run)(X, WEIGHTS)
    for state, step in zip(y, recorded, strict=True):
        assert np.array_equal(state, rollout(X, WEIGHTS, steps=step))
    taped, backward = jax.vjp(run, X, WEIGHTS)
    assert np.array_equal(taped, y)
    _, expected = expected_of(X, WEIGHTS, grad, GROWING)
    for one, other in zip(leaves(backward(factors)), leaves(expected), strict=True):
        if recorded == [0] and one.shape != X.shape:
            assert not np.any(one) and not np.any(other)
        else:
            assert distance(one, other) <= 1e-5


def test_no_steps():
    y, backward = jax.vjp(lambda x, weights: rollout(x, weights, steps=0), X, WEIGHTS)
    assert np.array_equal(y, X)
    grad_x, grad_weights = backward(y)
    assert np.array_equal(grad_x, X) and not any(np.any(grad) for grad in grad_weights)
    assert rollout(X, WEIGHTS, steps=0, record="all").shape == (1, *X.shape)


def test_a_rule_whose_filters_are_lists():
    rule = libnca.Rule.growing(filters=[list(one) for one in GROWING.filters])
    assert equal(rollout(X, WEIGHTS, steps=3, rule=rule), rollout(X, WEIGHTS, steps=3))


def test_all_states_are_the_memory_of_the_tape():
    states, backward = jax.vjp(lambda x: rollout(x, WEIGHTS, steps=4, record="all"), X)
    kept = [
        array.unsafe_buffer_pointer()
        for array in leaves(backward)
        if getattr(array, "shape", None) == states.shape
    ]
    assert kept == [states.unsafe_buffer_pointer()]


# --- transformations ---------------------------------------------------------------------------------


def test_checkpoint_computes_the_same_gradients():
    def half(x, weights, key):
        return rollout(x, weights, steps=4, key=key)

    def loss(half, weights):
        y = half(half(X, weights, KEY), weights, KEY.after(4))
        return jnp.sum(y[..., :4] ** 2)

    expected = jax.grad(lambda weights: loss(half, weights))(WEIGHTS)
    assert any(np.any(gradient) for gradient in expected)
    again = jax.checkpoint(half)
    assert equal(jax.grad(lambda weights: loss(again, weights))(WEIGHTS), expected)
    assert equal(jax.jit(jax.grad(lambda weights: loss(again, weights)))(WEIGHTS), expected)
    assert equal(
        rollout(X, WEIGHTS, steps=8), half(half(X, WEIGHTS, KEY), WEIGHTS, KEY.after(4))
    )


def test_training_in_a_scan_is_training_in_a_loop():
    def update(weights, i):
        def loss(weights):
            y = rollout(X, weights, steps=3, key=libnca.Key(seed=1, iteration=i))
            return jnp.mean(y[..., :4] ** 2)

        value, gradients = jax.value_and_grad(loss)(weights)
        return [w - 0.1 * g for w, g in zip(weights, gradients)], value

    weights = list(map(jnp.asarray, WEIGHTS))
    scanned, values = jax.lax.scan(update, weights, jnp.arange(4))
    expected = []
    update = jax.jit(update, static_argnums=1)
    for i in range(4):
        weights, value = update(weights, i)
        expected.append(value)
    assert len(set(map(float, expected))) == 4
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    for one, other in zip(scanned, weights):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_key_is_an_argument_and_does_not_compile_again():
    traces = []

    @jax.jit
    def run(x, key):
        traces.append(key)
        return rollout(x, WEIGHTS, steps=3, key=key)

    keys = [libnca.Key(2**32 - 1, i, 2**31, i * 2**31) for i in range(2)]
    results = [run(X, key) for key in keys]
    assert len(traces) == 1
    for result, key in zip(results, keys):
        assert np.array_equal(result, rollout(X, WEIGHTS, steps=3, key=key))
    assert not np.array_equal(*results)


def test_traced_numbers_of_a_key_count_modulo_2_32():
    run = jax.jit(lambda step: rollout(X, WEIGHTS, steps=3, key=libnca.Key(7, step=step)))
    assert np.array_equal(
        run(jnp.int32(-2)), rollout(X, WEIGHTS, steps=3, key=libnca.Key(7, step=2**32 - 2))
    )
    # From step 2^32 - 1 on: [1, 3] ends the first part at step 0.
    key = libnca.Key(7, step=2**32 - 1)
    two = rollout(X, WEIGHTS, steps=3, key=key, record=[1, 3])
    assert np.array_equal(two[1], rollout(X, WEIGHTS, steps=3, key=key))
    assert np.array_equal(two[1], rollout(two[0], WEIGHTS, steps=2, key=libnca.Key(7)))


def test_a_key_in_the_carry_of_a_scan():
    def body(carry, _):
        x, key = carry
        return (rollout(x, WEIGHTS, steps=2, key=key), key.after(2)), None

    (y, key), _ = jax.lax.scan(body, (jnp.asarray(X), KEY), length=3)
    assert np.array_equal(y, rollout(X, WEIGHTS, steps=6))
    assert int(key.step) == 6


@pytest.mark.parametrize("record", [None, [3, 1], "all"], ids=str)
def test_vmap_is_a_loop(record):
    xs = np.stack([X, random_states(2, 9, 12, seed=1)])

    def loss(weights, x, i):
        y = rollout(x, weights, steps=3, key=libnca.Key(1, i), record=record)
        return jnp.sum(y[..., :4] ** 2)

    def total(weights):
        return jax.vmap(loss, (None, 0, 0))(weights, xs, jnp.arange(2)).sum()

    gradients_of = jax.jit(jax.grad(loss))
    each = [gradients_of(WEIGHTS, xs[i], i) for i in range(2)]
    mapped = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(WEIGHTS, xs, jnp.arange(2))
    assert equal(mapped, [np.stack(pair) for pair in zip(*each)])
    for one, other in zip(jax.jit(jax.grad(total))(WEIGHTS), mapped, strict=True):
        np.testing.assert_allclose(one, other.sum(0), rtol=1e-5, atol=1e-6)


def run_program(program, **environment):
    """What a program prints that imports this file."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_shards_on_two_devices_are_one_batch():
    program = """
import jax, libnca.jax, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from test_jax import X, WEIGHTS, rollout
try:
    shard_map = jax.shard_map
except AttributeError:
    from jax.experimental.shard_map import shard_map
mesh = Mesh(np.array(jax.devices()), ("batch",))
def run(x, weights):
    key = libnca.Key(7, 3, sample=jax.lax.axis_index("batch") * x.shape[0])
    return rollout(x, weights, steps=4, key=key)
sharded = jax.jit(shard_map(run, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch")))
y = sharded(X, WEIGHTS)
print(len(y.devices()), np.array_equal(y, rollout(X, WEIGHTS, steps=4)))
"""
    flags = "--xla_force_host_platform_device_count=2"
    assert run_program(program, XLA_FLAGS=flags) == "2 True\n"


# --- float64 -----------------------------------------------------------------------------------------


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("record", [None, [3, 0, 3, 1]])
def test_float64(x64, record):
    x = np.float64(random_states(2, 3, 4))
    weights = [np.float64(weight) for weight in WEIGHTS]

    def run(x, weights):
        return rollout(x, weights, steps=3, record=record)

    expected = all_states(x, weights, GROWING, KEY, 3)[np.array(record or 3)]
    assert run(x, weights).dtype == jnp.float64
    assert distance(run(x, weights), expected) <= 1e-14
    jax.test_util.check_grads(jax.jit(run), (x, weights), order=1, modes=["rev"], eps=1e-6)
    x32 = x.astype(np.float32)
    assert rollout(x32, WEIGHTS, steps=3).dtype == jnp.float32
    assert distance(rollout(x32, WEIGHTS, steps=3, record=record), expected) <= 1e-6


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, kind, message",
    [
        ({"x": X[..., :8]}, ValueError, "x has the shape [2, 9, 12, 8]: expected [batch, height"),
        ({"x": X[0]}, ValueError, "x has the shape [9, 12, 16]"),
        ({"x": np.moveaxis(X, 3, 1)}, ValueError, "x has the shape [2, 16, 9, 12]"),
        ({"x": X[:0]}, ValueError, "expected at least one cell"),
        ({"x": X.astype(np.float16)}, TypeError, "x is float16: expected float32"),
        ({"x": X.astype(np.float64)}, TypeError, "jax_enable_x64 is not set"),
        ({"x": X.tolist()}, TypeError, "x is a list: expected a jax.Array"),
        ({"w1": WEIGHTS[0].T}, ValueError, "w1 has the shape [48, 128]: expected [128, 48]"),
        ({"b1": WEIGHTS[3]}, ValueError, "b1 has the shape [16]: expected [128]"),
        ({"w2": None}, TypeError, "w2 is a NoneType: expected a jax.Array"),
        ({"b2": np.zeros(16)}, TypeError, "b2 is float64 and x is float32"),
        ({"steps": -1}, ValueError, "steps is -1: expected 0 to 2**24"),
        ({"steps": 2**24 + 1}, ValueError, "steps is 16777217"),
        ({"steps": 1.5}, TypeError, "steps has 1.5: expected an integer"),
        ({"record": "last"}, ValueError, "record is 'last': expected None"),
        ({"record": []}, ValueError, "record is empty"),
        ({"record": [1, 5]}, ValueError, "record has 5: expected 0 to 4"),
        ({"rule": "growing"}, TypeError, "rule is a str: expected a libnca.Rule"),
        ({"key": 0}, TypeError, "key is a int: expected a libnca.Key"),
        ({"key": libnca.Key(-1)}, ValueError, "key.seed is -1: expected 0 to 2**32 - 1"),
        ({"key": libnca.Key(0, np.int64(2**32))}, ValueError, "key.iteration is 4294967296"),
        ({"key": libnca.Key(0, step=0.5)}, TypeError, "key.step is float32[]: expected one"),
        ({"key": libnca.Key(0, sample=jnp.arange(2))}, TypeError, "key.sample is int32[2]"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_refused_with_one_sentence(change, kind, message):
    arguments = dict(zip(("x", "w1", "b1", "w2", "b2"), (X, *WEIGHTS)))
    arguments.update(steps=4, rule=GROWING, key=KEY)
    libnca.jax.rollout(**arguments)
    arguments.update(change)
    with pytest.raises(kind) as error:
        libnca.jax.rollout(**arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_traced_steps_are_refused():
    with pytest.raises(TypeError, match="steps is traced: .* static argument"):
        jax.jit(lambda steps: rollout(X, WEIGHTS, steps=steps))(3)
    with pytest.raises(TypeError, match="record is traced"):
        jax.jit(lambda step: rollout(X, WEIGHTS, steps=3, record=[step]))(3)


def call(name, results, **attributes):
    """What XLA calls, without the checks in front of it."""
    operands = (jnp.asarray(X), *WEIGHTS, np.zeros(4, np.uint32))
    return jax.ffi.ffi_call(f"libnca_{name}", results, **attributes.pop("options", {}))(
        *operands, **attributes
    )


def test_an_exception_of_the_engine_is_one_of_jax():
    state = jax.ShapeDtypeStruct(X.shape, X.dtype)
    options = {"input_output_aliases": {0: 0}}

    def run(rule, steps):
        return call("advance", state, options=options, rule=rule, steps=np.int64(steps))

    for attempt in (run, jax.jit(run, static_argnums=(0, 1))):
        assert attempt(GROWING.text, 1).shape == X.shape
        with pytest.raises(Exception, match="a rule of 2 numbers: expected 33"):
            jax.block_until_ready(attempt("1 2", 1))
        with pytest.raises(Exception, match="steps"):
            jax.block_until_ready(attempt(GROWING.text, -1))
    assert np.array_equal(rollout(X, WEIGHTS, steps=1, key=libnca.Key()), run(GROWING.text, 1))


def test_a_tape_without_enough_memory_is_refused():
    tape = jax.ShapeDtypeStruct((3, *X.shape), X.dtype), jax.ShapeDtypeStruct((8,), np.uint8)
    with pytest.raises(Exception, match="a tape's rest of 8 bytes on device -1, which needs"):
        jax.block_until_ready(call("forward", tape, rule=GROWING.text, steps=np.int64(2)))


def test_another_version_of_jax_is_an_import_error(monkeypatch):
    libnca.jax._check_version()
    monkeypatch.setattr(libnca._core, "jax_api", (0, 99))
    with pytest.raises(ImportError, match=r"interface is \(0, 99\), and that of jaxlib .* newer jax"):
        libnca.jax._check_version()
    monkeypatch.setattr(jax, "__version_info__", (0, 5, 3))
    with pytest.raises(ImportError, match="needs jax 0.6 or later"):
        libnca.jax._check_version()


def test_the_module_shows_nothing_of_its_own_standard_library():
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("there is no nm, which lists symbols")
    command = [nm, "-D", "--defined-only", "--format=posix", libnca._core.__file__]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in symbols.splitlines()] == ["PyInit__core"]


# --- threads and devices -----------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [2, 8])
def test_threads_at_once(threads, at_once):
    threads(2)
    x = random_states(4, 16, 16)

    def function_of(steps):
        def loss(weights, i):
            y = rollout(x, weights, steps=steps, key=libnca.Key(0, i))
            return jnp.sum(y[..., :4] ** 2)

        return jax.jit(jax.value_and_grad(loss))

    functions = [function_of(steps) for steps in (8, 11)] * (at_once // 2)
    expected = [[function(WEIGHTS, i) for i in range(4)] for function in functions]
    with ThreadPoolExecutor(at_once) as pool:
        found = pool.map(lambda function: [function(WEIGHTS, i) for i in range(4)], functions)
        assert equal(list(found), expected)


def test_many_threads_of_xla_do_not_have_a_team_of_threads_each():
    program = """
import jax, libnca, os, threading
from test_jax import X, WEIGHTS, rollout
libnca.set_threads(8)
run = jax.jit(lambda x: rollout(x, WEIGHTS, steps=2)[0, 0, 0, 3])
expected = float(run(X))
before = len(os.listdir("/proc/self/task"))
wrong, end = [], threading.Event()
def call(done):
    if float(run(X)) != expected:
        wrong.append(1)
    done.set()
    end.wait()
for _ in range(20):                                    # one after the other, and all stay
    done = threading.Event()
    threading.Thread(target=call, args=(done,)).start()
    done.wait()
print(len(wrong), len(os.listdir("/proc/self/task")) - before - 20)
end.set()
"""
    # In this mode XLA calls from the thread that calls it.
    output = run_program(program, JAX_CPU_ENABLE_ASYNC_DISPATCH="false")
    wrong, more = map(int, output.split())
    assert wrong == 0 and more <= 4 * 7 + 8


def test_cuda():
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError:
        pytest.skip("JAX has no CUDA device")

    def run(x, weights, key):
        return rollout(x, weights, steps=6, key=key, record=[2, 6, 6])

    def loss(x, weights, key):
        return jnp.sum(run(x, weights, key)[..., :4] ** 2)

    results = []
    for place in (device, jax.devices("cpu")[0]):
        arguments = jax.device_put((X, WEIGHTS, KEY), place)
        y = jax.jit(run)(*arguments)
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(*arguments)
        assert {array.device for array in leaves((y, gradients))} == {place}
        results.append(leaves((y, gradients)))
    for one, expected in zip(*results):
        assert distance(one, expected) <= 1e-5
    with pytest.raises(TypeError, match="float64"):
        rollout(jax.device_put(np.float64(X), device), WEIGHTS, steps=1)
