"""Python processes of their own, with as many fake devices as a test wants."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import jax

import jaxdet

COMMAND = "from jaxdet.cli.main import main; main()"  # `jaxdet`, of this checkout


def start(
    program: str, arguments: list[Any], devices: int, told: pathlib.Path, **environment: str
) -> subprocess.Popen:
    """Starts `python -c program arguments`; what it says is added to the file `told`.

    It shares the tests' compiled programs, and finds the toy as well as the package.
    """
    here = pathlib.Path(__file__).parent
    package = pathlib.Path(jaxdet.__file__).parents[1]
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "PYTHONPATH": os.pathsep.join([str(here), str(package)]),
        **environment,
    }
    with open(told, "ab") as file:
        argv = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.Popen(argv, env=env, stdout=file, stderr=file)
