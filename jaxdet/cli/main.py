"""The command `jaxdet`: parse, call, print. `jaxdet VERB --help` explains a verb."""

import importlib
import os
import pathlib
import sys

VERBS = {
    "train": "train a detector from a config file into a RUN folder",
    "evaluate": "score a RUN on a split",
    "crossval": "train and score fold by fold, patients apart; mean, SD and paired tests",
    "reproduce": "a table of a paper, the paper's numbers beside ours",
    "predict": "find lesions in images, DICOM folders and NIfTI volumes",
    "import": "official PyTorch weights to a RUN",
    "export": "a RUN to PyTorch, ONNX or StableHLO",
    "data": "make prepared data sets and list them",
}
WITHOUT_JAX = ("data",)  # it starts in no time, and so do the processes it starts


def main(argv: list[str] | None = None) -> None:
    """Runs one verb. Errors of the user's input end with code 2 and one clear message."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: jaxdet VERB ...\n")
        print("\n".join(f"  {name:9} {text}" for name, text in VERBS.items()))
        return
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        _fail(f"there is no verb {verb!r}; there are {', '.join(VERBS)}")
    if verb not in WITHOUT_JAX:
        _remember_compilations()
        importlib.import_module("jaxdet.train.parallel").keep_memory()
        _quieten_orbax()
    try:
        importlib.import_module(f"jaxdet.cli.{verb}_verb").main(rest)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("JAXDET_DEBUG"):
            raise
        _fail(str(error) + "".join(f"\n  {note}" for note in getattr(error, "__notes__", ())))


def _remember_compilations() -> None:
    """Compiled programs are kept between runs, so that only the first one waits for them."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update(
            "jax_compilation_cache_dir", str(home / "jaxdet" / f"jax-{jax.__version__}")
        )


def _quieten_orbax() -> None:
    """Orbax warns at every reading that reading does not write; its errors are exceptions."""
    from absl import logging

    if not os.environ.get("JAXDET_DEBUG"):
        logging.set_verbosity(logging.ERROR)


def _fail(message: str) -> None:
    print(f"jaxdet: {message}", file=sys.stderr)
    print("(JAXDET_DEBUG=1 shows where this came from)", file=sys.stderr)
    raise SystemExit(2)
