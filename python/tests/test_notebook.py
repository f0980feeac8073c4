# SPDX-License-Identifier: MIT
"""examples/notebook.py runs, with our rollout and with the notebook's own loop."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import libnca

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("options", [[], ["--loop"]])
def test_the_notebook_trains(tmp_path, options):
    command = [sys.executable, ROOT / "examples" / "notebook.py", ROOT / "data" / "lizard.png",
               "--iterations", "2", "--output", tmp_path / "new" / "lizard", *options]  # fmt: skip
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "iteration 0: loss 0.113155" in done.stdout  # of the start cell: no update was made yet
    model = libnca.Model.load(tmp_path / "new" / "lizard.safetensors")
    assert model.rule == libnca.Rule.notebook().without_identity()
    assert model.b2 is None
    assert np.abs(model.w2).max() > 0  # it was zero before the first update
    assert Image.open(tmp_path / "new" / "lizard.png").size == (8 * 40 * 4, 40 * 4)
