# SPDX-License-Identifier: MIT
"""The programs of docs/python.md run, one after the other as a reader would type them."""

import pathlib
import re

import pytest

pytest.importorskip("torch")

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_programs_of_the_page(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "python.md").read_text()
    before_jax, after_jax = page.split("\n## JAX\n")
    after_jax = after_jax[after_jax.index("\n## ") :]
    blocks = re.findall(r"```python\n(.*?)```", before_jax + after_jax, re.DOTALL)
    assert len(blocks) >= 6
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        short = block.replace("range(8000)", "range(2)").replace("=8000", "=2")
        exec(compile(short, "docs/python.md", "exec"), names)
    assert names["trainer"].iteration == 2
    assert names["picture"].shape == (40, 40, 4)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "tuned.safetensors", "square.checkpoint", "square.safetensors",
    }  # fmt: skip
