"""Eight fake devices, a compilation cache, annotations checked at run time, and the shared data."""

import locale
import os
import pathlib
import tempfile

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jaxtyping

jax.config.update("jax_num_cpu_devices", 8)
_cache = pathlib.Path(tempfile.gettempdir()) / f"jaxdet-test-cache-{jax.__version__}"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# Checks every jaxtyping annotation of the package: a function that lies about shapes fails here.
jaxtyping.install_import_hook("jaxdet", "beartype.beartype")


_locale = locale.setlocale(locale.LC_ALL)


@pytest.fixture(autouse=True)
def same_locale() -> None:
    """SimpleITK leaves the C locale behind where it writes DICOM: open() then reads ASCII only."""
    locale.setlocale(locale.LC_ALL, _locale)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of golden answers and real images; tests that need it skip where it is absent."""
    where = os.environ.get("JAXDET_SHARED", "")
    if not where or not pathlib.Path(where).is_dir():
        pytest.skip("JAXDET_SHARED does not name the folder with goldens and real data")
    return pathlib.Path(where)
