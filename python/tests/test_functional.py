# SPDX-License-Identifier: MIT
"""Rollouts as operations of PyTorch: values, gradients, and all that a program does with tensors."""

import copy
import gc
import io
import itertools
import pickle
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import RULES, in_child_of_fork, random_model, random_states

import libnca

torch = pytest.importorskip("torch")
import libnca.functional as F  # noqa: E402

KEY = libnca.Key(seed=7)
ops = torch.ops.libnca


def states(*arguments, dtype=torch.float32, **options):
    return torch.from_numpy(random_states(*arguments, **options)).to(dtype)


def weights_of(rule, dtype=torch.float32, grad=True, **options):
    named = random_model(rule, **options).state_dict()
    weights = [named[name].to(dtype) for name in ("w1", "b1", "w2", "b2") if name in named]
    return [weight.requires_grad_(grad) for weight in weights]


def gradients(y, grad, *inputs):
    return torch.autograd.grad(y, inputs, grad)


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def distance(value, expected):
    """The relative L2 distance."""
    value, expected = value.detach().double(), expected.detach().double()
    assert expected.norm() > 0
    return float((value - expected).norm() / expected.norm())


# --- values and gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_a_recorded_state_is_that_of_as_many_single_steps(name):
    rule, weights = RULES[name], weights_of(RULES[name], grad=False)
    x = states(2, 9, 12)
    expected = [x]
    for t in range(5):
        expected.append(F.rollout(expected[-1], *weights, steps=1, rule=rule, key=KEY.after(t)))
    assert not torch.equal(expected[5], expected[4])
    for grad in False, True:
        for weight in weights:
            weight.requires_grad_(grad)
        run = lambda record: F.rollout(x, *weights, steps=5, rule=rule, key=KEY, record=record)
        assert torch.equal(run(None), expected[5])
        assert torch.equal(run("all"), torch.stack(expected))
        for record in [0], [5], [3, 3, 0], [4, 1, 2, 4], (1,), np.array([2, 0]), range(1, 3):
            assert torch.equal(run(record), torch.stack([expected[t] for t in record]))


def test_no_steps_return_the_state_and_its_gradient():
    rule, x = RULES["growing"], states(1, 4, 5).requires_grad_()
    weights = weights_of(rule)
    for record in None, [0], "all", [0, 0]:
        y = F.rollout(x, *weights, steps=0, rule=rule, key=KEY, record=record)
        copies = y if record is None else y[0]
        assert torch.equal(copies, x)
        grad, *others = gradients(y, torch.ones_like(y), x, *weights)
        assert torch.equal(grad, torch.full_like(x, 2.0 if record == [0, 0] else 1.0))
        assert all(not other.any() for other in others)


def test_a_key_goes_on_where_a_rollout_ended_and_after_a_sample():
    rule, weights, x = RULES["demo"], weights_of(RULES["demo"], grad=False), states(3, 8, 8)
    run = lambda x, steps, key: F.rollout(x, *weights, steps=steps, rule=rule, key=key)
    whole = run(x, 6, libnca.Key(3, iteration=2, step=2**32 - 2, sample=5))
    half = run(x, 3, libnca.Key(3, iteration=2, step=2**32 - 2, sample=5))
    assert torch.equal(run(half, 3, libnca.Key(3, iteration=2, step=1, sample=5)), whole)
    of_two = run(x[1:], 6, libnca.Key(3, iteration=2, step=2**32 - 2, sample=6))
    assert torch.equal(of_two, whole[1:])
    for other in libnca.Key(4), libnca.Key(3, iteration=1), libnca.Key(3, step=1):
        assert not torch.equal(run(x, 6, other), run(x, 6, libnca.Key(3)))


@pytest.mark.parametrize("record", [None, [1, 3, 3, 0, 2], "all"], ids=str)
@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("name", ["growing", "notebook"])
def test_float64_gradients_are_those_of_finite_differences(name, output_bias, record):
    rule = RULES[name]
    x = states(2, 3, 4, living=1, dtype=torch.float64).requires_grad_()
    weights = weights_of(rule, torch.float64, output_bias=output_bias)

    def run(x, *weights):
        return F.rollout(x, *weights, steps=3, rule=rule, key=KEY, record=record)

    assert torch.autograd.gradcheck(run, (x, *weights), fast_mode=True)


@pytest.mark.parametrize("record", [None, [6, 0, 9, 9, 3], [5, 2], "all"], ids=str)
@pytest.mark.parametrize("name", ["growing", "notebook"])
def test_float32_gradients_are_those_of_float64(name, record):
    rule = RULES[name]
    results = []
    for dtype in torch.float32, torch.float64:
        x = states(2, 13, 11, dtype=dtype).requires_grad_()
        weights = weights_of(rule, dtype)
        y = F.rollout(x, *weights, steps=12, rule=rule, key=KEY, record=record)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        results.append([y, *gradients(y, grad, x, *weights)])
    (y, *grads), (expected_y, *expected_grads) = results
    assert torch.equal((y != 0).any(-1), (expected_y != 0).any(-1))  # the same cells live
    assert distance(y, expected_y) < 1e-5
    for grad, expected in zip(grads, expected_grads, strict=True):
        assert distance(grad, expected) < 1e-5


def test_gradients_of_recorded_states_add_up():
    rule, x = RULES["growing"], states(2, 8, 9).requires_grad_()
    weights = weights_of(rule)

    def of(record, grads):
        y = F.rollout(x, *weights, steps=6, rule=rule, key=KEY, record=record)
        return gradients(y, torch.stack(grads), x, *weights)

    grads = [torch.randn_like(x) for _ in range(3)]
    together = of([2, 6, 2], grads)
    apart = [of([step], [grad]) for step, grad in zip((2, 6, 2), grads)]
    for sum_of_all, *parts in zip(together, *apart, strict=True):
        assert distance(sum_of_all, sum(parts)) < 1e-5
    # Zeros for the states that nobody asks for.
    zero = torch.zeros_like(x)
    assert equal(of("all", [zero, zero, zero, zero, zero, zero, grads[0]]), of([6], grads[:1]))
    assert equal(of([3, 6], [grads[0], zero]), of([3], grads[:1]))


def test_each_sample_has_a_step_of_its_own_by_indexing():
    rule, x = RULES["growing"], states(3, 8, 8).requires_grad_()
    weights = weights_of(rule)
    steps = torch.tensor([2, 5, 4])
    y = F.rollout(x, *weights, steps=5, rule=rule, key=KEY, record="all")[steps, torch.arange(3)]
    grad = torch.randn_like(y)
    grad_x = gradients(y, grad, x, *weights)[0]
    for sample, count in enumerate(steps.tolist()):
        one = x[sample : sample + 1].detach().requires_grad_()
        key = libnca.Key(seed=7, sample=sample)
        alone = F.rollout(one, *weights, steps=count, rule=rule, key=key)
        assert torch.equal(alone[0], y[sample])
        grad_one = gradients(alone, grad[sample : sample + 1], one)[0]
        assert distance(grad_x[sample], grad_one[0]) < 1e-5


def test_only_what_needs_a_gradient_gets_one():
    rule, x = RULES["growing"], states(1, 6, 6)
    all_of_them = [x, *weights_of(rule, grad=False)]
    grad = torch.randn_like(x)

    def run(wanted):
        inputs = [tensor.detach().requires_grad_(i in wanted) for i, tensor in enumerate(all_of_them)]
        y = F.rollout(*inputs, steps=3, rule=rule, key=KEY)
        assert y.requires_grad == bool(wanted)
        if wanted:
            y.backward(grad)
        return y.detach(), [tensor.grad for tensor in inputs]

    y, expected = run({0, 1, 2, 3, 4})
    for wanted in set(), {0}, {1}, {4}, {2, 3}, {1, 2, 3, 4}:
        same, grads = run(wanted)
        assert torch.equal(same, y)
        for i, grad_i in enumerate(grads):
            assert (grad_i is None) if i not in wanted else torch.equal(grad_i, expected[i])


def test_without_gradients_the_bits_are_the_same():
    rule, weights = RULES["growing"], weights_of(RULES["growing"])
    x = states(2, 10, 10)
    run = lambda: F.rollout(x, *weights, steps=7, rule=rule, key=KEY, record=[7, 3])
    y = run()
    for mode in torch.no_grad, torch.inference_mode:
        with mode():
            without = run()
        assert torch.equal(without, y) and not without.requires_grad


def test_advance_overwrites():
    rule, weights = RULES["notebook"], weights_of(RULES["notebook"])
    x = states(2, 7, 8)
    expected = F.rollout(x, *weights, steps=5, rule=rule, key=KEY).detach()
    address = x.data_ptr()
    result = F.advance_(x, *weights, steps=2, rule=rule, key=KEY)
    F.advance_(x, *weights, rule=rule, key=KEY.after(2))
    F.advance_(x, *weights, steps=2, rule=rule, key=KEY.after(3))
    F.advance_(x, *weights, steps=0, rule=rule, key=KEY)
    assert result is x and x.data_ptr() == address and not x.requires_grad
    assert torch.equal(x, expected)
    channels_last = states(2, 7, 8).permute(0, 3, 1, 2)
    F.advance_(channels_last, *weights, steps=5, rule=rule, key=KEY)
    assert torch.equal(channels_last.permute(0, 2, 3, 1), expected)
    # autograd sees that the tensor is another one now
    leaf = torch.ones(1, requires_grad=True)
    y = leaf * x.sum() + (leaf * x).pow(2).sum()
    F.advance_(x, *weights, rule=rule, key=KEY)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_advance_refuses_what_needs_a_gradient():
    rule, weights = RULES["growing"], weights_of(RULES["growing"])
    x = states(1, 4, 4).requires_grad_()
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="requires a gradient: use rollout"):
        F.advance_(x, *weights, rule=rule, key=KEY)
    with pytest.raises(TypeError, match="advance_ takes float32"):
        F.advance_(x.detach().double(), *weights, rule=rule, key=KEY)
    assert torch.equal(x, before)
    with torch.no_grad():
        F.advance_(x, *weights, rule=rule, key=KEY)
    assert not torch.equal(x, before)


# --- layouts, and what is refused --------------------------------------------------------------------


def test_channels_last_is_taken_without_a_copy(monkeypatch):
    rule, weights = RULES["growing"], weights_of(RULES["growing"])
    x = states(2, 6, 7)
    expected = F.rollout(x, *weights, steps=3, rule=rule, key=KEY, record="all")
    expected_grads = gradients(expected, expected, *weights)
    nchw = x.permute(0, 3, 1, 2)
    assert nchw.is_contiguous(memory_format=torch.channels_last)
    addresses = []

    class Core:
        def __getattr__(self, name):
            return getattr(libnca._core, name)

        def forward(self, *arguments):
            addresses.append(arguments[7])
            return libnca._core.forward(*arguments)

    monkeypatch.setattr(F, "_core", Core())
    y = F.rollout(nchw, *weights, steps=3, rule=rule, key=KEY, record="all")
    assert addresses == [x.data_ptr()]
    assert torch.equal(y.movedim(2, -1), expected)
    assert y.shape == (4, 2, 16, 6, 7)
    grads = gradients(y, y, *weights)
    assert equal(grads, expected_grads)
    last = F.rollout(nchw, *weights, steps=3, rule=rule, key=KEY)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last.permute(0, 2, 3, 1), expected[-1])
    leaf = nchw.clone(memory_format=torch.preserve_format).requires_grad_()
    F.rollout(leaf, *weights, steps=3, rule=rule, key=KEY).sum().backward()
    assert leaf.grad.shape == nchw.shape and leaf.grad.any()


def test_weights_of_convolutions_and_strided_ones_are_taken():
    rule, (w1, b1, w2, b2) = RULES["growing"], weights_of(RULES["growing"])
    x = states(1, 6, 6)
    run = lambda *weights: F.rollout(x, *weights, steps=3, rule=rule, key=KEY)
    expected = run(w1, b1, w2, b2)
    grads = gradients(expected, expected, w1, b1, w2, b2)
    c1 = w1.detach()[:, :, None, None].requires_grad_()
    c2 = w2.detach()[:, :, None, None].requires_grad_()
    y = run(c1, b1, c2, b2)
    assert torch.equal(y, expected)
    for grad, like, of_matrix in zip(gradients(y, y, c1, b1, c2, b2), (c1, b1, c2, b2), grads):
        assert grad.shape == like.shape and torch.equal(grad.reshape(of_matrix.shape), of_matrix)
    t1 = w1.detach().t().contiguous().t().requires_grad_()
    every_second = torch.zeros(32)
    every_second[::2] = b2.detach()
    s2 = every_second[::2].requires_grad_()
    y = run(t1, b1, w2, s2)
    assert torch.equal(y, expected)
    assert equal(gradients(y, y, t1, b1, w2, s2), grads)


def good(**changes):
    """Arguments of rollout that are all right, but for these changes."""
    rule = RULES["growing"]
    w1, b1, w2, b2 = weights_of(rule, grad=False)
    named = dict(x=states(1, 4, 5), w1=w1, b1=b1, w2=w2, b2=b2, steps=2, rule=rule, key=KEY)
    return {**named, **changes}


plain = torch.zeros(2, 16, 6, 7)
REFUSED = {
    "no tensor": (dict(x=np.zeros((1, 4, 4, 16))), TypeError, "x is a ndarray: expected"),
    "NCHW": (dict(x=plain), ValueError, r"x has the shape \[2, 16, 6, 7\] in a memory format"),
    "strided": (dict(x=torch.zeros(2, 6, 14, 16)[:, :, ::2]), ValueError, "is not contiguous: call"),
    "3 dims": (dict(x=torch.zeros(6, 7, 16)), ValueError, r"shape \[6, 7, 16\]: expected \[batch"),
    "15 channels": (dict(x=torch.zeros(1, 6, 7, 15)), ValueError, r"shape \[1, 6, 7, 15\]: expected"),
    "empty": (dict(x=torch.zeros(0, 6, 7, 16)), ValueError, "expected at least one cell"),
    "half": (dict(x=torch.zeros(1, 6, 7, 16).half()), TypeError, "x is torch.float16: expected"),
    "meta": (dict(x=torch.zeros(1, 6, 7, 16, device="meta")), ValueError, "x is on meta: expected"),
    "w1 double": (dict(w1=torch.zeros(128, 48).double()), TypeError, "w1 is torch.float64 on cpu and"),
    "b1 meta": (dict(b1=torch.zeros(128, device="meta")), TypeError, "b1 is torch.float32 on meta"),
    "w2 list": (dict(w2=[1.0]), TypeError, "w2 is a list: expected a torch.Tensor"),
    "w2 None": (dict(w2=None), TypeError, "w2 is None: only b2 may be"),
    "w1 turned": (dict(w1=torch.zeros(48, 128)), ValueError, r"w1 has .* expected \[128, 48\]"),
    "b1 1x1": (dict(b1=torch.zeros(128, 1, 1)), ValueError, r"b1 has .* expected \[128\]"),
    "b2 17": (dict(b2=torch.zeros(17)), ValueError, r"b2 has .* expected \[16\]"),
    "w2 3x3": (dict(w2=torch.zeros(16, 128, 3, 3)), ValueError, r"w2 has .* expected \[16, 128\]"),
    "steps -1": (dict(steps=-1), ValueError, "steps is -1: expected"),
    "steps 2.5": (dict(steps=2.5), TypeError, "steps is 2.5: expected a whole number"),
    "steps many": (dict(steps=2**24 + 1), ValueError, "steps is 16777217: expected 0 to 16777216"),
    "steps more": (dict(steps=2**70), ValueError, "expected 0 to 16777216"),
    "rule": (dict(rule="growing"), TypeError, "rule is a str: expected a libnca.Rule"),
    "key": (dict(key=3), TypeError, "key is a int: expected a libnca.Key"),
    "key -1": (dict(key=libnca.Key(-1)), ValueError, r"a key with -1: expected 0 to 2\^32 - 1"),
    "key 2**32": (dict(key=libnca.Key(0, 2**32)), ValueError, "a key with 4294967296: expected"),
}
REFUSED_RECORDS = {
    "empty": ([], ValueError, "record is empty"),
    "word": ("last", TypeError, 'record is \'last\': expected None, "all" or a list of steps'),
    "number": (2, TypeError, 'record is 2: expected None, "all" or a list of steps'),
    "behind": ([1, 3], ValueError, "record has 3: expected 0 to 2"),
    "negative": ([-1], ValueError, "record has -1: expected 0 to 2"),
    "fraction": ([1.5], TypeError, "record has 1.5: expected whole numbers"),
}


def check_sentence(caught):
    text = str(caught.value)
    assert "\n" not in text and len(text) < 250


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("changes, error, message", REFUSED.values(), ids=REFUSED)
def test_a_bad_argument_is_refused_with_one_sentence(changes, error, message, grad):
    arguments = good(**changes)
    if grad:
        for name in "w1", "b1", "w2", "b2":
            if isinstance(arguments[name], torch.Tensor):
                arguments[name].requires_grad_()
    for function in F.rollout, F.advance_:
        with pytest.raises(error, match=message) as caught:
            function(**arguments)
        check_sentence(caught)


@pytest.mark.parametrize("record, error, message", REFUSED_RECORDS.values(), ids=REFUSED_RECORDS)
def test_a_bad_record_is_refused_with_one_sentence(record, error, message):
    with pytest.raises(error, match=message) as caught:
        F.rollout(**good(record=record))
    check_sentence(caught)


def test_there_is_no_second_gradient_and_a_sentence_says_so():
    arguments = good()
    arguments["w1"].requires_grad_()
    y = F.rollout(**arguments)
    with pytest.raises(RuntimeError, match="no gradients of gradients"):
        torch.autograd.grad(y.square().sum(), arguments["w1"], create_graph=True)


def test_too_much_memory_is_refused():
    arguments = good(steps=2**24, x=torch.zeros(8, 256, 256, 16))
    arguments["w1"].requires_grad_()
    with pytest.raises(RuntimeError, match="no memory for .* use a smaller batch"):
        F.rollout(**arguments)


def test_numbers_may_be_those_of_numpy():
    key = libnca.Key(seed=np.uint32(7), iteration=np.int64(2))
    expected = F.rollout(**good(key=libnca.Key(7, 2)))
    assert torch.equal(F.rollout(**good(key=key, steps=np.int32(2))), expected)


# --- threads and memory ------------------------------------------------------------------------------


def forward_and_backward(seed, batch=2, height=12, width=11, steps=9, record=None):
    rule = RULES["growing"]
    x = states(batch, height, width, seed=seed).requires_grad_()
    weights = weights_of(rule, seed=seed)
    y = F.rollout(x, *weights, steps=steps, rule=rule, key=libnca.Key(seed), record=record)
    return [y.detach(), *gradients(y, y.detach(), x, *weights)]


def test_many_threads_at_once_give_the_same_bits():
    expected = [forward_and_backward(seed) for seed in range(6)]
    for of_torch in 1, 2:
        before = torch.get_num_threads()
        torch.set_num_threads(of_torch)
        try:
            with ThreadPoolExecutor(3) as pool:
                for _ in range(3):
                    assert all(map(equal, pool.map(forward_and_backward, range(6)), expected))
        finally:
            torch.set_num_threads(before)


def test_the_number_of_threads_does_not_matter(threads):
    results = []
    for count in 1, 2, 3:
        threads(count)
        assert libnca.threads() == count
        results.append(forward_and_backward(0, height=30, width=70))
    assert equal(results[1], results[0]) and equal(results[2], results[0])


def test_other_python_threads_run_meanwhile():
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        rule, weights = RULES["growing"], weights_of(RULES["growing"])
        x = states(8, 64, 64, living=1)
        began = time.perf_counter()
        y = F.rollout(x, *weights, steps=40, rule=rule, key=KEY)
        half = time.perf_counter()
        gradients(y, y.detach(), *weights)
        end = time.perf_counter()
    finally:
        done.set()
        thread.join()
    for first, last in (began, half), (half, end):
        # Held, the lock would let one or two through, at the beginning and at the end.
        count = sum(first < tick < last for tick in ticks)
        assert count >= min(10, (last - first) / 0.01)


def test_a_tape_outlives_model_and_layer():
    model = random_model(RULES["growing"])
    layer = libnca.nn.Rollout(model, steps=6)
    x = states(1, 9, 9).requires_grad_()
    y = layer(x, KEY)
    expected = gradients(y, y.detach(), x)
    y = layer(x, KEY)
    del layer, model
    gc.collect()
    others = [forward_and_backward(seed, 1, 9, 9) for seed in range(3)]
    assert equal(gradients(y, y.detach(), x), expected)
    assert len(others) == 3


def test_backward_runs_twice_where_the_graph_is_kept():
    rule, x = RULES["growing"], states(1, 9, 9).requires_grad_()
    y = F.rollout(x, *weights_of(rule), steps=6, rule=rule, key=KEY)
    first = torch.autograd.grad(y, x, y.detach(), retain_graph=True)[0]
    second = torch.autograd.grad(y, x, y.detach(), retain_graph=True)[0]
    assert torch.equal(first, second) and first.any()
    torch.autograd.grad(y, x, y.detach())
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, y.detach())


def test_memory_of_earlier_tapes_does_not_show():
    """Rollouts of several shapes and lengths, up to a dozen alive at once, whose ways back run in
    another order. What they give is compared with record="all", whose tape lies in torch's memory."""
    random = np.random.default_rng(5)
    rule = RULES["growing"]
    weights = weights_of(rule)
    shapes = [(1, 9, 7), (2, 9, 7), (1, 7, 9), (1, 3, 67), (1, 4, 64)]

    def check(x, y, key, steps):
        grads = gradients(y, y.detach(), x, *weights)
        same_x = x.detach().requires_grad_()
        same = F.rollout(same_x, *weights, steps=steps, rule=rule, key=key, record="all")[-1]
        assert torch.equal(same, y)
        assert equal(gradients(same, y.detach(), same_x, *weights), grads)

    alive = []
    for i in range(150):
        shape = shapes[random.integers(len(shapes))]
        living = random.choice([-1, 0.1, 0.4, 1])  # empty, a few, many, all
        x = states(*shape, seed=i, living=living).requires_grad_()
        steps, key = int(random.choice([0, 1, 2, 5, 9])), libnca.Key(i)
        alive.append((x, F.rollout(x, *weights, steps=steps, rule=rule, key=key), key, steps))
        while len(alive) > random.choice([0, 2, 12]):
            ended = alive.pop(random.integers(len(alive)))
            if random.random() < 0.8:  # some are never run back
                check(*ended)
    for ended in alive:
        check(*ended)


def test_a_tape_that_is_in_use_is_not_reused():
    rule, weights = RULES["growing"], weights_of(RULES["growing"])
    x = states(1, 9, 9).requires_grad_()
    _, tape, rest = ops.rollout(x, *weights, 4, rule.text, KEY.numbers, [4], False)
    values = tape.clone(), rest.clone()
    kept = tape[100:200]
    del tape
    others = [forward_and_backward(seed, 1, 9, 9, 4) for seed in range(3)]
    assert torch.equal(kept, values[0][100:200]) and torch.equal(rest, values[1])
    assert len(others) == 3


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant):
    from torch.utils.checkpoint import checkpoint

    rule, x = RULES["growing"], states(2, 9, 9).requires_grad_()
    weights = weights_of(rule)

    def half(x, key):
        return F.rollout(x, *weights, steps=5, rule=rule, key=key)

    y = half(half(x, KEY), KEY.after(5))
    expected = gradients(y, y.detach(), x, *weights) if not reentrant else None
    if reentrant:
        y.backward(y.detach(), retain_graph=True)
        expected = [tensor.grad.clone() for tensor in (x, *weights)]
        for tensor in (x, *weights):
            tensor.grad = None
    same = checkpoint(half, x, KEY, use_reentrant=reentrant)
    same = checkpoint(half, same, KEY.after(5), use_reentrant=reentrant)
    assert torch.equal(same, y)
    if reentrant:
        same.backward(y.detach())
        assert equal([tensor.grad for tensor in (x, *weights)], expected)
    else:
        assert equal(gradients(same, y.detach(), x, *weights), expected)


def test_saved_tensors_may_be_copies_at_odd_addresses():
    rule, x = RULES["growing"], states(2, 9, 9).requires_grad_()
    weights = weights_of(rule)
    run = lambda: F.rollout(x, *weights, steps=5, rule=rule, key=KEY)
    y = run()
    expected = gradients(y, y.detach(), x, *weights)

    def packed(tensor):
        flat = torch.cat([torch.zeros(4, dtype=tensor.dtype), tensor.detach().reshape(-1)])
        return flat.clone(), tensor.shape

    def unpacked(saved):
        return saved[0][4:].view(saved[1])

    with torch.autograd.graph.saved_tensors_hooks(packed, unpacked):
        y = run()
    forward_and_backward(1, 2, 9, 9, 5)
    assert equal(gradients(y, y.detach(), x, *weights), expected)
    with torch.autograd.graph.save_on_cpu():
        y = run()
    assert equal(gradients(y, y.detach(), x, *weights), expected)


def test_a_child_of_fork_gets_a_sentence_or_computes_on_one_thread(threads, tmp_path):
    threads(2)
    arguments = good(x=states(2, 20, 20, living=1))
    expected = F.rollout(**arguments)
    arguments["w1"].requires_grad_()
    for function in F.rollout, F.advance_:
        said = in_child_of_fork(lambda: function(**arguments))
        assert said.startswith("RuntimeError: ") and "fork" in said

    def on_one_thread():
        torch.set_num_threads(1)  # torch's own threads are not there either
        libnca.set_threads(1)
        y = F.rollout(**arguments)
        return torch.equal(y, expected) and bool(gradients(y, y.detach(), arguments["w1"])[0].any())

    assert in_child_of_fork(on_one_thread) == "True"

    def files():
        random_model(RULES["growing"]).save(tmp_path / "m.safetensors")
        return libnca.Model.load(tmp_path / "m.safetensors").w1.shape

    assert in_child_of_fork(files) == "(128, 48)"
    assert torch.equal(F.rollout(**arguments), expected)


# --- torch's own tools -------------------------------------------------------------------------------

OPERATION_ARGUMENTS = [
    (dtype, record, output_bias)
    for dtype in (torch.float32, torch.float64)
    for record, output_bias in ((None, True), ("all", False), ([2, 0, 2], True))
]


@pytest.mark.parametrize("dtype, record, output_bias", OPERATION_ARGUMENTS, ids=str)
def test_opcheck(dtype, record, output_bias):
    rule = RULES["growing"]
    x = states(2, 5, 6, dtype=dtype).requires_grad_()
    weights = weights_of(rule, dtype, output_bias=output_bias)
    if not output_bias:
        weights.append(None)
    recorded, is_all = F._recorded(record, 3)
    rest = (3, rule.text, KEY.numbers, recorded)
    arguments = (x, *weights, *rest, is_all)
    # Which cells live is a matter of the memory's values: outputs of bytes are not compared.
    torch.library.opcheck(ops.rollout.default, arguments)
    with torch.no_grad():
        y, tape, bits = ops.rollout(*arguments)
        if is_all and dtype == torch.float32:
            tape = y
        without = [weight if weight is None else weight.detach() for weight in weights]
        torch.library.opcheck(
            ops.rollout_backward.default, (torch.randn_like(y), tape, bits, *without, *rest)
        )
        if dtype == torch.float32:
            torch.library.opcheck(
                ops.advance_.default, (x.detach().clone(), *without, *rest[:3])
            )


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request):
    torch._dynamo.reset()
    yield request.param
    torch._dynamo.reset()


def test_compiled_code_gives_the_same_bits(backend):
    rule = RULES["growing"]
    weights = weights_of(rule)
    compilations = 0

    def loss_of(x, steps, key, record):
        nonlocal compilations
        if torch.compiler.is_dynamo_compiling():
            compilations += 1
        states = F.rollout(x * 0.5, *weights, steps=steps, rule=rule, key=key, record=record)
        return states

    eager_counter = torch._dynamo.utils.counters
    eager_counter.clear()
    compiled = torch.compile(loss_of, fullgraph=True, backend=backend)
    x = states(2, 9, 9).requires_grad_()
    for i in range(6):
        steps, key = 3 + i, libnca.Key(seed=1, iteration=i * 7, sample=i % 2)
        y, same = loss_of(x, steps, key, None), compiled(x, steps, key, None)
        assert torch.equal(same, y)
        grad = torch.randn_like(y)
        assert equal(gradients(same, grad, x, *weights), gradients(y, grad, x, *weights))
    assert eager_counter["stats"]["unique_graphs"] <= 3
    for record in "all", [1, 4, 4]:
        y, same = loss_of(x, 4, KEY, record), compiled(x, 4, KEY, record)
        assert torch.equal(same, y)
        assert equal(gradients(same, y.detach(), x, *weights), gradients(y, y.detach(), x, *weights))


def test_compiled_code_without_gradients_gives_the_same_bits(backend):
    rule = RULES["notebook"]
    weights = weights_of(rule)

    def run(x, key):
        with torch.no_grad():
            y = F.rollout(x, *weights, steps=4, rule=rule, key=key, record=[4, 2])
            other = x.clone()
            F.advance_(other, *weights, steps=4, rule=rule, key=key)
            return y, other * 2

    compiled = torch.compile(run, fullgraph=True, backend=backend)
    x = states(2, 8, 8)
    for i in range(3):
        key = libnca.Key(i)
        assert equal(compiled(x, key), run(x, key))


@pytest.mark.parametrize("output_bias", [True, False])
def test_a_layer_is_copied_pickled_and_saved(output_bias):
    model = random_model(RULES["notebook"], output_bias=output_bias)
    layer = libnca.nn.Rollout(model, steps=3)
    x = states(1, 6, 6)
    expected = layer(x, KEY)
    names = {"w1", "b1", "w2", "b2"} if output_bias else {"w1", "b1", "w2"}
    assert set(layer.state_dict()) == names == set(model.state_dict())
    assert torch.equal(copy.deepcopy(layer)(x, KEY), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x, KEY), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = libnca.nn.Rollout(random_model(RULES["notebook"], 1, output_bias), steps=3)
    assert not torch.equal(other(x, KEY), expected)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x, KEY), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x, KEY, steps=1), layer(x, KEY, steps=1))
    same = layer.model()
    assert same.rule == model.rule and np.array_equal(same.w2, model.w2)
    assert "steps=3, fire_rate=0.5" in repr(layer)
    for thing in model.rule, KEY:
        assert pickle.loads(pickle.dumps(thing)) == thing == copy.deepcopy(thing)


def test_an_optimiser_makes_the_loss_smaller():
    layer = libnca.nn.Rollout(random_model(RULES["growing"]), steps=8)
    optimiser = torch.optim.Adam(layer.parameters(), 2e-3)
    x, target = states(2, 10, 10), torch.zeros(2, 10, 10, 4)
    losses = []
    for i in range(12):
        optimiser.zero_grad()
        loss = (layer(x, libnca.Key(0, i))[..., :4] - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_distributed_data_parallel(tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        layer = libnca.nn.Rollout(random_model(RULES["growing"]), steps=4)
        x = states(2, 8, 8)
        layer(x, KEY).sum().backward()
        expected = [weight.grad.clone() for weight in layer.parameters()]
        layer.zero_grad()
        parallel = torch.nn.parallel.DistributedDataParallel(layer)
        parallel(x, KEY).sum().backward()
        assert equal([weight.grad for weight in layer.parameters()], expected)
    finally:
        distributed.destroy_process_group()


# --- CUDA --------------------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    try:
        libnca.Simulator(random_model(RULES["growing"]), device="cuda")
    except RuntimeError as error:
        pytest.skip(str(error))
    libnca.set_precision("exact")
    return torch.device("cuda")


def on(device, *tensors):
    return [tensor.detach().to(device).requires_grad_(tensor.requires_grad) for tensor in tensors]


@pytest.mark.parametrize("record", [None, [6, 0, 9, 9, 3], "all"], ids=str)
@pytest.mark.parametrize("name", ["growing", "notebook"])
def test_cuda_gives_what_the_cpu_gives(cuda, name, record):
    rule = RULES[name]
    results = []
    for device in torch.device("cpu"), cuda:
        x, *weights = on(device, states(2, 13, 11).requires_grad_(), *weights_of(rule))
        y = F.rollout(x, *weights, steps=12, rule=rule, key=KEY, record=record)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad():
            assert torch.equal(F.rollout(x, *weights, steps=12, rule=rule, key=KEY, record=record), y)
        results.append([part.cpu() for part in (y.detach(), *gradients(y, grad, x, *weights))])
    for value, expected in zip(*reversed(results), strict=True):
        assert distance(value, expected) < 1e-5


def test_cuda_uses_the_current_stream(cuda):
    rule = RULES["growing"]
    x, *weights = on(cuda, states(4, 40, 40).requires_grad_(), *weights_of(rule))
    y = F.rollout(x, *weights, steps=20, rule=rule, key=KEY)
    expected = [y, *gradients(y, y.detach(), x, *weights)]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what comes behind it must wait for this stream
        late = torch.zeros_like(x)
        late.copy_(x.detach())
        late.requires_grad_()
        y = F.rollout(late, *weights, steps=20, rule=rule, key=KEY)
        results = [y, *gradients(y, y.detach(), late, *weights)]
    torch.cuda.synchronize()
    assert equal(results, expected)


def test_cuda_graphs_replay_a_rollout_and_its_way_back(cuda):
    rule = RULES["growing"]
    x, *weights = on(cuda, states(2, 24, 24).requires_grad_(), *weights_of(rule))

    def run():
        y = F.rollout(x, *weights, steps=8, rule=rule, key=KEY)
        return [y, *gradients(y, y.detach(), x, *weights)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    with torch.no_grad():
        x.copy_(states(2, 24, 24, seed=1))
    graph.replay()
    torch.cuda.synchronize()
    replayed = [result.clone() for result in results]
    assert equal(replayed, run())


def test_cuda_refuses_what_lies_elsewhere(cuda):
    w1, b1, w2, b2 = on(cuda, *weights_of(RULES["growing"]))
    run = lambda x, w1: F.rollout(x, w1, b1, w2, b2, steps=1, rule=RULES["growing"], key=KEY)
    with pytest.raises(TypeError, match="w1 is torch.float32 on cpu and x is .* on cuda:0"):
        run(states(1, 4, 4).to(cuda), w1.cpu())
    with pytest.raises(TypeError, match="float64 is for the CPU alone"):
        run(states(1, 4, 4, dtype=torch.float64).to(cuda), w1)


# --- what is refused because it would come out wrong ---------------------------------------------------


def test_torch_func_and_forward_mode_are_refused():
    x, weights = torch.rand(2, 4, 5, 16), [w.detach() for w in small_weights()]
    options = {"steps": 2, "rule": libnca.Rule.growing(), "key": libnca.Key(1)}

    def run(one):
        return F.rollout(one, *weights, **options).sum()

    for transformed in torch.func.grad(run), torch.func.vmap(lambda one: run(one[None])):
        with pytest.raises(RuntimeError, match="torch.func"):
            transformed(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="forward mode"):
            run(dual)
        assert torch.isfinite(run(x))  # no tangent, no refusal


def small_weights():
    shapes = (128, 48), (128,), (16, 128), (16,)
    return [torch.rand(shape) * 0.01 for shape in shapes]


def test_steps_of_other_types_are_whole_numbers():
    x, weights = torch.rand(1, 4, 5, 16), small_weights()
    options = {"rule": libnca.Rule.growing(), "key": libnca.Key(1)}
    expected = F.rollout(x, *weights, steps=3, **options)
    for steps in 3.0, torch.tensor([3]), np.int64(3):
        assert torch.equal(F.rollout(x, *weights, steps=steps, **options), expected)
    for steps in 2.5, None, float("nan"), "3":
        with pytest.raises(TypeError, match="expected a whole number"):
            F.rollout(x, *weights, steps=steps, **options)


def test_nothing_is_computed_behind_the_last_recorded_step():
    x = torch.rand(1, 8, 8, 16)
    weights = [w.requires_grad_() for w in small_weights()]
    options = {"rule": libnca.Rule.growing(), "key": libnca.Key(1)}
    states = F.rollout(x, *weights, steps=2**24, record=[3], **options)  # would take hours
    assert torch.equal(states[0], F.rollout(x, *weights, steps=3, **options))
