# SPDX-License-Identifier: MIT
"""The library's own training loop."""

import math
import signal
import threading

import numpy as np
import pytest
from conftest import LIZARD, write_png

import libnca

SMALL = dict(target_size=12, padding=2, batch=2, fewest_steps=6, most_steps=10, seed=4)


def square():
    """A picture of 12 x 12 pixels: a red square with a half transparent corner."""
    picture = np.zeros((12, 12, 4), np.uint8)
    picture[3:9, 3:9] = (220, 40, 30, 255)
    picture[3:5, 3:5, 3] = 128
    return picture


def weights(model):
    return [model.w1, model.b1, model.w2, model.b2]


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


@pytest.mark.parametrize("preset", ["notebook", "growing", "persistent", "regenerating"])
def test_the_tool_trains_the_same_model(tool, tmp_path, preset):
    write_png(tmp_path / "square.png", square())
    pool = [] if preset in ("notebook", "growing") else ["--pool", 4]
    damage = ["--damage", 1] if preset == "regenerating" else []
    tool("train", tmp_path / "square.png", "-o", tmp_path / "m.safetensors", "--preset", preset,
         "--size", 12, "--padding", 2, "--batch", 2, "--steps", "6:10", "--seed", 4,
         "--iterations", 5, "--device", "cpu", "--quiet", *pool, *damage)  # fmt: skip
    options = {**SMALL, **({"pool": 4} if pool else {}), **({"damaged": 1} if damage else {})}
    trainer = libnca.Trainer(square(), preset, device="cpu", **options)
    model = trainer.run(5).model()
    expected = libnca.Model.load(tmp_path / "m.safetensors")
    assert same(model, expected) and model.rule == expected.rule
    assert model.history == {**expected.history, "target": ""}
    assert model.history["iterations"] == 5


def test_a_run_reports_and_learns():
    reports = []
    trainer = libnca.Trainer(square(), "growing", **SMALL)
    assert trainer.iteration == 0 and math.isnan(trainer.loss) and trainer.blank_loss > 0
    assert trainer.run(60, callback=reports.append) is trainer
    assert [report.iteration for report in reports] == list(range(60))
    assert trainer.iteration == 60 and trainer.device
    assert all(6 <= report.steps < 10 for report in reports)
    assert reports[0].learning_rate == pytest.approx(2e-3) and reports[0].gradient_norm > 0
    assert reports[0].recovery == "" and "iteration=0" in repr(reports[0])
    losses = [report.loss for report in reports]
    assert trainer.loss == pytest.approx(np.mean(losses))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert trainer.states().shape == (2, 16, 16, 16)
    target = trainer.target()
    assert target.shape == (16, 16, 4) and target.dtype == np.float32
    assert not target[:5].any() and target[10, 10] == pytest.approx([220 / 255, 40 / 255, 30 / 255, 1])
    assert target[5, 5, 3] == pytest.approx(128 / 255)
    assert target[5, 5, 0] == pytest.approx(220 / 255 * 128 / 255)  # premultiplied
    trainer.run(60)
    assert trainer.iteration == 60
    history = trainer.model().history
    assert (history["iterations"], history["height"], history["seed"]) == (60, 16, 4)


def test_the_callback_ends_the_run():
    reports = []

    def callback(report):
        reports.append(report)
        return len(reports) < 3

    trainer = libnca.Trainer(square(), device="cpu", **SMALL).run(10, callback)
    assert trainer.iteration == 3 == len(reports)
    whole = libnca.Trainer(square(), device="cpu", **SMALL).run(10)
    assert same(trainer.run(10).model(), whole.model())


def test_an_exception_of_the_callback_comes_out():
    def callback(report):
        raise LookupError("enough")

    trainer = libnca.Trainer(square(), device="cpu", **SMALL)
    with pytest.raises(LookupError, match="enough"):
        trainer.run(10, callback)
    assert trainer.run(2).iteration == 2


@pytest.mark.parametrize("from_a_thread", [False, True])
def test_ctrl_c_leaves_a_trainer_that_goes_on(from_a_thread):
    whole = libnca.Trainer(square(), device="cpu", **SMALL).run(30)
    trainer = libnca.Trainer(square(), device="cpu", **SMALL)

    def interrupt(report):
        if report.iteration != 9:
            return
        if from_a_thread:
            thread = threading.Thread(target=signal.raise_signal, args=(signal.SIGINT,))
            thread.start()
            thread.join()
        else:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.run(1000, interrupt)
    assert 10 <= trainer.iteration <= 11
    assert same(trainer.run(30).model(), whole.model())


@pytest.mark.parametrize("preset", ["growing", "persistent"])
def test_a_checkpoint_goes_on_with_the_same_bits(tmp_path, preset):
    options = {**SMALL, **({"pool": 6} if preset == "persistent" else {})}
    trainer = libnca.Trainer(square(), preset, device="cpu", **options).run(4)
    trainer.save_checkpoint(tmp_path / "c")
    resumed = libnca.Trainer.from_checkpoint(tmp_path / "c", device="cpu")
    assert resumed.iteration == 4 and resumed.loss == pytest.approx(trainer.loss)
    assert same(resumed.run(9).model(), trainer.run(9).model())
    resumed.model().save(tmp_path / "m.safetensors")
    trainer.model().save(tmp_path / "same.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "same.safetensors").read_bytes()


def test_the_tool_goes_on_with_a_checkpoint(tool, tmp_path):
    trainer = libnca.Trainer(square(), device="cpu", **SMALL).run(4)
    trainer.save_checkpoint(tmp_path / "c")
    tool("train", "--resume", tmp_path / "c", "-o", tmp_path / "m.safetensors",
         "--iterations", 9, "--device", "cpu", "--quiet")  # fmt: skip
    assert same(libnca.Model.load(tmp_path / "m.safetensors"), trainer.run(9).model())


def test_training_starts_from_a_model(lizard):
    trainer = libnca.Trainer(square(), **SMALL)
    trainer.start_from(lizard, "lizard")
    assert same(trainer.run(1).model(), lizard)  # before the first update
    assert trainer.model().history["init"].startswith("lizard, 8000 iterations")
    assert not same(trainer.run(2).model(), lizard)
    with pytest.raises(ValueError, match="before its first iteration"):
        trainer.start_from(lizard)


def test_pictures_of_other_kinds_are_the_same_target():
    expected = libnca.Trainer(square(), **SMALL).target()
    as_floats = square() / 255
    for picture in as_floats, as_floats.astype(np.float32), square()[:, ::-1][:, ::-1], square().tolist():
        if isinstance(picture, list):
            picture = np.array(picture, np.uint8)
        assert np.array_equal(libnca.Trainer(picture, **SMALL).target(), expected)
    opaque = square()
    opaque[..., 3] = 255
    expected = libnca.Trainer(opaque, **SMALL).target()
    assert np.array_equal(libnca.Trainer(opaque[..., :3], **SMALL).target(), expected)


@pytest.mark.parametrize(
    "picture, error, message",
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"shape \(4, 4\): expected \(height, width, 4\)"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 4), np.uint8), ValueError, "at least 1 x 1"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, "no pixel with alpha above 0.1"),
        (np.ones((4, 4, 4), np.int64), TypeError, "picture is int64: expected uint8, or floats"),
        (np.full((4, 4, 4), 255.0), ValueError, "divide by 255"),
        (np.full((4, 4, 4), np.nan), ValueError, "outside of 0..1"),
        (np.ones((1, 40000, 4)), ValueError, "expected at most"),
    ],
    ids=lambda value: str(getattr(value, "shape", "")),
)
def test_pictures_that_are_none_are_refused(picture, error, message):
    with pytest.raises(error, match=message):
        libnca.Trainer(picture)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(preset="other"), ValueError, "use one of notebook, growing"),
        (dict(size=3), ValueError, "no such option: size; there are rule, start_cells, output_bias"),
        (dict(batch=0), ValueError, "batch is 0: expected 1 to 4096"),
        (dict(batch="many"), TypeError, "batch is 'many': expected a whole number"),
        (dict(batch=2.5), TypeError, "batch is 2.5: expected a whole number"),
        (dict(seed=-1), TypeError, r"seed is -1: expected a whole number from 0 to 2\^32 - 1"),
        (dict(learning_rate="x"), TypeError, "learning_rate is 'x': expected a number"),
        (dict(output_bias="x"), TypeError, "output_bias is 'x': expected True or False"),
        (dict(rule="growing"), TypeError, "rule is a str: expected a libnca.Rule"),
        (dict(start_cells=[3]), TypeError, r"start_cells: expected a list of \(y, x\)"),
        (dict(start_cells=[(90, 0)]), ValueError, "start cell"),
        (dict(fewest_steps=9, most_steps=9), ValueError, "range of steps"),
        (dict(device="abacus"), ValueError, "unknown device 'abacus'"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        libnca.Trainer(square(), **options)


def test_options_reach_the_training():
    rule = libnca.Rule.growing(edges="circular", fire_rate=0.75)
    options = {**SMALL, "rule": rule, "start_cells": [(2, 3), (9, 9)], "output_bias": False,
               "learning_rate": np.float32(1e-3), "batch": np.int64(3)}  # fmt: skip
    trainer = libnca.Trainer(square(), **options)
    reports = []
    trainer.run(1, reports.append)
    model = trainer.model()
    assert model.rule == rule and model.b2 is None
    assert model.history["start_cells"] == [(2, 3), (9, 9)]
    assert reports[0].learning_rate == pytest.approx(1e-3)
    assert trainer.states().shape[0] == 3


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(OSError, match="there is no such file"):
        libnca.Trainer.from_checkpoint(tmp_path / "none")
    with pytest.raises(ValueError, match="lizard_growing.safetensors"):
        libnca.Trainer.from_checkpoint(LIZARD)
    with pytest.raises(OSError, match="create the folder"):
        libnca.Trainer(square(), **SMALL).save_checkpoint(tmp_path / "no" / "folder")
