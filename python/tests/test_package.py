# SPDX-License-Identifier: MIT
"""What is in the package, and what is not."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import libnca


def test_the_version_is_that_of_the_library():
    text = (ROOT / "CMakeLists.txt").read_text()
    assert libnca.__version__ == re.search(r"project\(nca_cuda VERSION ([0-9.]+)", text)[1]


def test_torch_and_jax_are_imported_by_those_who_name_them():
    script = (
        "import sys, libnca\n"
        "libnca.Simulator, libnca.Trainer, libnca.Model, libnca.Rule.growing(), libnca.Key()\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'jax', 'jaxlib'}))\n"
        "sys.modules['torch'] = None\n"
        "for name in 'nn', 'functional':\n"
        "    try:\n"
        "        getattr(libnca, name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines[0] == "[]"
    assert len(lines) == 3 and all("torch" in line for line in lines[1:])
    with pytest.raises(AttributeError, match="module 'libnca' has no attribute 'other'"):
        libnca.other


def test_every_name_has_a_docstring():
    for name in libnca.__all__:
        if name in ("functional", "jax", "nn"):
            continue
        thing = getattr(libnca, name)
        assert thing.__doc__, name
        for inner in vars(thing).values() if isinstance(thing, type) else ():
            if callable(inner) and not inner.__name__.startswith("_"):
                assert inner.__doc__, inner


@pytest.fixture
def wheel():
    path = os.environ.get("NCA_WHEEL")
    if not path:
        pytest.skip("NCA_WHEEL is not set")
    return Path(path)


def test_the_wheel_has_what_it_needs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/", 1)[1]: name for name in archive.namelist()}
        sources = (ROOT / "python/libnca").glob("*.py")
        modules = {name for name in names if re.fullmatch(r"_core[.].*so", name)}
        info = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}
        of_python = {path.name for path in sources} | {"_core.pyi", "py.typed"}
        libraries = {"libhwy.so.1", "libgomp.so.1"}
        assert set(names) == of_python | libraries | modules | info
        assert len(modules) == 1
        metadata = archive.read(names["METADATA"]).decode()
        assert f"\nVersion: {libnca.__version__}\n" in metadata
        assert "\nLicense-Expression: MIT\n" in metadata
        required = re.findall(r"^Requires-Dist: (\S+)(.*)$", metadata, re.MULTILINE)
        assert [name for name, condition in required if "extra" not in condition] == ["numpy>=1.24"]
    assert wheel.stat().st_size < 3_000_000


def test_the_wheel_s_module_runs_anywhere(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if re.search(r"/_core[.].*so$", name))
        module = Path(archive.extract(name, tmp_path))
    dynamic = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"R(?:UN)?PATH\).*\[(.*)\]", dynamic) == ["$ORIGIN"]
    needed = set(re.findall(r"NEEDED\).*\[(.*)\]", dynamic))
    system = {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "libpthread.so.0", "libdl.so.2", "librt.so.1"}
    assert needed - system == {"libhwy.so.1", "libgomp.so.1"}
    symbols = subprocess.run(
        ["readelf", "--dyn-syms", "-W", module], capture_output=True, text=True, check=True
    ).stdout
    exported = [
        row.split()[7]
        for row in symbols.splitlines()
        if len(row.split()) > 7 and row.split()[4] in ("GLOBAL", "WEAK", "UNIQUE") and row.split()[6] != "UND"
    ]
    assert exported == ["PyInit__core"]
    contents = module.read_bytes()
    for place in str(ROOT), "build-via-sdist", str(Path.home()):
        assert len(place) == 1 or place.encode() not in contents  # "/" in some containers


def test_the_wheel_is_what_is_tested(wheel):
    assert ROOT / "python" not in Path(libnca.__file__).parents
