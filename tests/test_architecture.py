"""What may import what, and what a user's machine need not have."""

import os
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import jaxdet

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = ("jax", "flax", "optax", "orbax", "tensorflow", "torch", "SimpleITK", "onnx")


def loaded(code):
    """Which of HEAVY a fresh Python holds after `code`."""
    code += f"\nimport sys; print([m for m in {HEAVY} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.splitlines()[-1]


def every_module(package, prefix):
    """Code that imports all modules below a package."""
    names = [m.name for m in pkgutil.walk_packages(package.__path__, prefix)]
    assert len(names) > 10
    return "import " + ", ".join(names)


def test_the_package_itself_loads_nothing():
    assert loaded("import jaxdet, jaxdet.config, jaxdet.types, jaxdet.cli.main") == "[]"


def test_the_data_room_loads_neither_jax_nor_simpleitk():
    assert loaded(every_module(jaxdet.data, "jaxdet.data.")) == "[]"


def test_no_module_needs_torch_tensorflow_simpleitk_or_onnx():
    told = loaded(every_module(jaxdet, "jaxdet."))
    assert told == "['jax', 'flax', 'optax', 'orbax']"


def test_import_contracts():
    pytest.importorskip("importlinter", reason="the contracts are checked by import-linter")
    # import-linter has no stable Python interface; its command is one function.
    code = "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())"
    told = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",  # its check marks are no ASCII, whatever the locale
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert " 0 broken" in told.stdout
