# SPDX-License-Identifier: MIT
"""What the tests of the Python package share. They run on the package that Python finds:

    PYTHONPATH=python pytest     the build tree's, which python/libnca/_core*.so links to
    scripts/test-python          a wheel's

NCA_TOOL is the path of the tool nca, NCA_WHEEL that of a wheel; without them some tests are skipped.
"""

import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import libnca

ROOT = Path(__file__).parents[2]
LIZARD = ROOT / "data/models/lizard_growing.safetensors"

RULES = {
    "growing": libnca.Rule.growing(),
    "notebook": libnca.Rule.notebook(),
    "notebook without identity": libnca.Rule.notebook().without_identity(),
    "demo": libnca.Rule.demo(),
}


def random_model(rule, seed=0, output_bias=True, strength=0.02):
    """Weights like those of a young training: a step changes little, whatever the rule."""
    random = np.random.default_rng(seed)
    bound = 48**-0.5 / max(abs(factor) for factor in rule.filters[1])
    return libnca.Model(
        rule,
        random.uniform(-bound, bound, (128, 48)),
        random.uniform(-0.1, 0.1, 128),
        random.normal(0, strength, (16, 128)),
        random.normal(0, strength, 16) if output_bias else None,
    )


def random_states(batch, height, width, seed=0, living=0.4):
    """Patches of living cells in an empty grid, [batch, height, width, 16]: their alpha is between
    0.4 and 1, far from the 0.1 where life ends."""
    random = np.random.default_rng(seed)
    states = random.uniform(-0.5, 0.5, (batch, height, width, 16)).astype(np.float32)
    states[..., 3] = random.uniform(0.4, 1, (batch, height, width))
    y, x = np.mgrid[:height, :width]
    for state in states:
        at_y, at_x = random.integers(height), random.integers(width)
        far = np.maximum(abs(y - at_y), abs(x - at_x)) > living * max(height, width)
        state[far] = 0
    return states


def write_png(path, picture):
    """picture: [height, width, 4], uint8."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    height, width, _ = picture.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def in_child_of_fork(function):
    """What function() returns in a child process made by os.fork, as text; or its exception."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            text = str(function())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            return pipe.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture
def threads():
    """Restores the number of threads."""
    before = libnca.threads()
    yield libnca.set_threads
    libnca.set_threads(before)


@pytest.fixture
def lizard():
    return libnca.Model.load(LIZARD)


@pytest.fixture
def tool():
    """Runs the tool nca with these arguments."""
    path = os.environ.get("NCA_TOOL")
    if not path:
        pytest.skip("NCA_TOOL is not set")

    def run(*arguments):
        command = [path, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run
