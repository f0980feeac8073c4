# SPDX-License-Identifier: MIT
"""The programs of docs/python.md run, one after the other as a reader would type them."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


PAGE = (ROOT / "docs" / "python.md").read_text()
BEFORE_JAX, JAX = PAGE.split("\n## JAX\n")
JAX, AFTER_JAX = JAX.split("\n## ", 1)


def run_programs(text, folder):
    """Those of a part of the page, in shorter trainings; returns the names that they leave."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "out").mkdir()
    names: dict = {}
    for block in blocks:
        short = block.replace("range(8000)", "range(2)").replace("=8000", "=2")
        short = short.replace("arange(100)", "arange(2)")
        exec(compile(short, "docs/python.md", "exec"), names)
    return names


def test_programs_for_jax(tmp_path, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.chdir(tmp_path)
    assert run_programs(JAX, tmp_path)["losses"].shape == (2,)


def test_programs_of_the_page(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names = run_programs(BEFORE_JAX + AFTER_JAX, tmp_path)
    assert names["trainer"].iteration == 2
    assert names["picture"].shape == (40, 40, 4)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "tuned.safetensors", "square.checkpoint", "square.safetensors",
    }  # fmt: skip
