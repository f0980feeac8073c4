# SPDX-License-Identifier: MIT
"""The same automaton by other programs: in plain PyTorch, by the notebook's formula, by the tool."""

import numpy as np
import pytest
from conftest import LIZARD, RULES, random_model, random_states

import libnca

KEY = libnca.Key(seed=11)


def masks(key, rule, batch, height, width):
    return libnca.fire_mask(key, rule.fire_rate, batch, height, width)


@pytest.mark.parametrize("edges", ["zero", "circular"])
@pytest.mark.parametrize("life", ["post", "pre_and_post"])
@pytest.mark.parametrize("name", RULES)
def test_plain_torch_computes_the_same_steps(name, edges, life):
    torch = pytest.importorskip("torch")
    import dataclasses

    rule = dataclasses.replace(RULES[name], edges=edges, life=life, fire_rate=0.7, step_size=0.8)
    # Strong enough that cells come to life and die.
    model = random_model(rule, strength=0.1)
    automaton, layer = model.to_torch(), libnca.nn.Rollout(model, steps=1)
    x = torch.from_numpy(random_states(2, 9, 11))
    counts = set()
    for t in range(8):
        fire = torch.from_numpy(masks(KEY.after(t), rule, 2, 9, 11))[:, None].float()
        with torch.no_grad():
            expected = automaton(x.permute(0, 3, 1, 2), fire).permute(0, 2, 3, 1)
            x = layer(x, KEY.after(t))
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
        counts.add(int((x != 0).any(-1).sum()))
    assert len(counts) > 3


def test_gradients_of_plain_torch_are_the_same():
    torch = pytest.importorskip("torch")
    model = random_model(RULES["notebook"])
    automaton, layer = model.to_torch(), libnca.nn.Rollout(model, steps=4)
    x = torch.from_numpy(random_states(2, 8, 8))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    layer(x, KEY).backward(grad)
    y = x.permute(0, 3, 1, 2)
    for t in range(4):
        fire = torch.from_numpy(masks(KEY.after(t), model.rule, 2, 8, 8))[:, None].float()
        y = automaton(y, fire)
    y.backward(grad.permute(0, 3, 1, 2))
    net = automaton.net
    for ours, theirs in (
        (layer.w1, net[0].weight),
        (layer.b1, net[0].bias),
        (layer.w2, net[2].weight),
        (layer.b2, net[2].bias),
    ):
        expected = theirs.grad.reshape(ours.shape)
        assert (ours.grad - expected).norm() < 1e-5 * expected.norm()


def test_plain_torch_draws_masks_of_the_fire_rate():
    torch = pytest.importorskip("torch")
    model = random_model(libnca.Rule.growing(fire_rate=0.25))
    x = torch.ones(1, 16, 40, 40)
    with torch.no_grad():
        fired = (model.to_torch()(x) != x).any(1).double().mean()
    assert 0.2 < fired < 0.3


def test_the_notebook_computes_the_same_steps():
    """The step of the notebook, as it is printed there: its identity filter is all zero."""
    torch = pytest.importorskip("torch")
    rule = libnca.Rule.notebook().without_identity()
    model = random_model(rule, output_bias=False, strength=0.1)
    w = model.state_dict()
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([torch.zeros(3, 3), sobel, sobel.T])[:, None]
    circular = lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")

    def step(x, mask):
        b, c, h, w_ = x.shape
        y = torch.nn.functional.conv2d(circular(x.reshape(b * c, 1, h, w_)), kernels)
        y = y.reshape(b, -1, h, w_)
        y = torch.nn.functional.conv2d(y, w["w1"][:, :, None, None], w["b1"])
        y = torch.nn.functional.conv2d(torch.relu(y), w["w2"][:, :, None, None])
        x = x + y * mask
        return x * (torch.nn.functional.max_pool2d(circular(x[:, 3:4]), 3, stride=1) > 0.1)

    ours = torch.zeros(2, 16, 12, 13).to(memory_format=torch.channels_last)
    ours[:, 3, 6, 6] = 1
    for t in range(30):
        mask = torch.from_numpy(masks(KEY.after(t), rule, 2, 12, 13))[:, None].float()
        expected = step(ours, mask)
        ours = libnca.functional.rollout(
            ours, w["w1"], w["b1"], w["w2"], None, steps=1, rule=rule, key=KEY.after(t)
        )
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert (ours != 0).any(1).sum() > 30


def test_the_tool_the_simulator_and_the_operation_give_the_same_bits(tool, tmp_path, lizard):
    tool("grow", LIZARD, "-o", tmp_path / "last.png", "--state-out", tmp_path / "state.npy",
         "--steps", 40, "--size", "33x35", "--seed", 5, "--device", "cpu")  # fmt: skip
    expected = np.load(tmp_path / "state.npy")
    assert expected.shape == (33, 35, 16) and (expected[..., 3] > 0.1).sum() > 100
    simulator = libnca.Simulator(lizard, (33, 35), seed=5, device="cpu")
    first = simulator.state()
    simulator.step(40)
    assert np.array_equal(simulator.state(), expected)
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(first)[None].requires_grad_()
    layer = libnca.nn.Rollout(lizard, steps=40)
    y = layer(x, libnca.Key(seed=5))
    assert np.array_equal(y[0].detach().numpy(), expected)


def test_a_simulator_draws_the_masks_of_a_key(lizard):
    """By what changes: the weights of a step that nobody fires in change nothing."""
    simulator = libnca.Simulator(lizard, (20, 20), seed=9)
    simulator.step(30)
    before = simulator.state()
    simulator.step()
    after = simulator.state()
    fire = masks(libnca.Key(seed=9, step=30), lizard.rule, 1, 20, 20)[0].astype(bool)
    changed = (before != after).any(-1) & after.any(-1)
    assert changed.sum() > 30 and not (changed & ~fire).any()
    assert 0.4 < fire.mean() < 0.6
