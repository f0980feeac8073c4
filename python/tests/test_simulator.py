# SPDX-License-Identifier: MIT
"""The simulator."""

import numpy as np
import pytest
from conftest import RULES, in_child_of_fork, random_model

import libnca


def test_a_lizard_grows_and_heals(lizard):
    simulator = libnca.Simulator(lizard)
    assert simulator.living == 1 and simulator.steps_done == 0
    state = simulator.state()
    assert state.shape == (72, 72, 16) and state.dtype == np.float32
    assert np.array_equal(state[36, 36], [0, 0, 0] + [1] * 13)
    assert np.count_nonzero(state) == 13
    simulator.step(90)
    assert simulator.steps_done == 90 and 500 < simulator.living < 1500
    picture = simulator.picture()
    assert picture.shape == (72, 72, 4) and picture.dtype == np.uint8
    # The lizard's body is green and opaque where it stands, and nothing is at the grid's corners.
    assert picture[36, 36, 3] > 200 and picture[36, 36, 1] > picture[36, 36, 0]
    assert not picture[:4, :4].any()
    assert simulator.device.startswith("cpu") or simulator.device


def test_a_picture_has_straight_alpha_and_is_rounded():
    model = random_model(RULES["notebook"])
    simulator = libnca.Simulator(model, (3, 4))
    assert np.array_equal(simulator.picture()[1, 2], [0, 0, 0, 255])
    assert np.count_nonzero(simulator.picture()) == 1


def test_steps_one_by_one_are_the_same(lizard):
    together, apart = libnca.Simulator(lizard, (30, 31), seed=3), libnca.Simulator(lizard, (30, 31), seed=3)
    together.step(12)
    for _ in range(12):
        apart.step()
    assert np.array_equal(together.state(), apart.state())
    other = libnca.Simulator(lizard, (30, 31), seed=4)
    other.step(12)
    assert not np.array_equal(other.state(), together.state())


def test_cells_are_planted_and_cleared():
    simulator = libnca.Simulator(random_model(RULES["growing"]), (9, 12))
    simulator.clear()
    assert simulator.living == 0 and not simulator.state().any()
    simulator.plant_seed(2, 3)
    simulator.plant_seed(8, 11)
    alpha = simulator.state()[..., 3]
    assert alpha[2, 3] == 1 and alpha[8, 11] == 1 and alpha.sum() == 2
    simulator.erase_circle(2, 4, 1)
    assert simulator.living == 1
    simulator.plant_seed()
    assert simulator.state()[4, 6, 3] == 1 and simulator.living == 2
    simulator.erase_rectangle(4, 6, 5, 7)
    assert simulator.living == 1
    copied = simulator.state()
    copied[:] = 0
    assert simulator.living == 1


@pytest.mark.parametrize(
    "run, error, message",
    [
        (lambda m: libnca.Simulator(m, (0, 5)), ValueError, "grid of 0x5 cells"),
        (lambda m: libnca.Simulator(m, (5, 20000)), ValueError, "grid of 5x20000 cells"),
        (lambda m: libnca.Simulator(m, seed=-1), ValueError, "seed is -1: expected"),
        (lambda m: libnca.Simulator(m, seed=2**32), ValueError, "seed is 4294967296: expected"),
        (lambda m: libnca.Simulator(m, device="tpu"), ValueError, "unknown device 'tpu'"),
        (lambda m: libnca.Simulator(m).plant_seed(72, 0), ValueError, r"\(72, 0\): outside the grid"),
        (lambda m: libnca.Simulator(m).plant_seed(3), TypeError, "takes y and x, or neither"),
        (lambda m: libnca.Simulator(m).step(-1), ValueError, "-1 steps: expected 0 or more"),
        (lambda m: libnca.Simulator(m).step(1.5), TypeError, "incompatible"),
        (lambda m: libnca.Simulator(m).erase_circle(0, 0, -1), ValueError, "radius of 0 or more"),
    ],
)
def test_bad_arguments_are_refused(run, error, message):
    with pytest.raises(error, match=message):
        run(random_model(RULES["growing"]))


def test_settings_of_the_engine_are_checked(threads):
    with pytest.raises(ValueError, match="0 threads: expected 1 to 1024"):
        threads(0)
    with pytest.raises(ValueError, match="unknown precision 'best', expected exact, precise or fast"):
        libnca.set_precision("best")
    threads(2)
    assert libnca.threads() == 2
    assert "2 threads" in libnca.Simulator(random_model(RULES["growing"]), device="cpu").device


def test_a_child_of_fork_gets_a_sentence_or_computes_on_one_thread(threads, tmp_path, lizard):
    threads(2)
    simulator = libnca.Simulator(lizard, (24, 24), device="cpu")
    simulator.step(20)
    said = in_child_of_fork(lambda: simulator.step(20))
    assert said.startswith("RuntimeError: ") and "fork" in said and "\n" not in said

    def on_one_thread():
        libnca.set_threads(1)
        one = libnca.Simulator(lizard, (24, 24), device="cpu")
        one.step(20)
        return np.array_equal(one.state(), simulator.state())

    assert in_child_of_fork(on_one_thread) == "True"

    def files():
        lizard.save(tmp_path / "m.safetensors")
        return libnca.Model.load(tmp_path / "m.safetensors").history["iterations"]

    assert in_child_of_fork(files) == "8000"
