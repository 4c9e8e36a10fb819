"""From a config file and flags to an Experiment."""

import dataclasses
import importlib.util
import pathlib
import traceback
from typing import Annotated, Any

import tyro

from jaxdet.config import Experiment

RunFolder = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]


def load_config(path: str) -> Experiment:
    """The `experiment()` of a Python config file. ValueError names the file and the line."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no config file at {path}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file: a config ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.experiment() if hasattr(module, "experiment") else None
    except Exception as error:
        raise ValueError(f"{_place(error, file)}: {error}") from error
    if not isinstance(made, Experiment):
        raise ValueError(f"{path} has no function experiment() that returns a jaxdet Experiment")
    return made


def _place(error: Exception, file: pathlib.Path) -> str:
    """The config's own line at which it went wrong."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"{file}, line {line}: {type(error).__name__}" if line else f"{file}"


def typed(experiment: Experiment) -> Any:
    """The type that lets tyro offer the fields of this experiment and its model, without prefix."""
    return Annotated[Experiment[type(experiment.model)], tyro.conf.arg(name="")]


def check_flags(argv: list[str], experiment: Experiment) -> None:
    """Refuses a flag such as --train.leraning-rate in the config's own words, the nearest name."""
    for word in argv:
        *groups, name = word.removeprefix("--").split("=")[0].replace("-", "_").split(".")
        if not groups or not word.startswith("--"):
            continue
        part: Any = experiment
        for group in groups:
            part = getattr(part, group, None)
        if dataclasses.is_dataclass(part) and name not in vars(part):
            type(part)(**{name: None})  # raises


def config_path(argv: list[str], verb: str, flags: str = "--out RUN [--resume]") -> str:
    """The first argument, which names the config: its fields are the flags that may follow.

    Without it the usage is printed, with the `flags` of the verb.
    """
    if not argv or argv[0].startswith("-"):
        print(f"usage: jaxdet {verb} CONFIG {flags} [--train.lr 1e-3 --model.size s ...]")
        print(f"`jaxdet {verb} CONFIG --help` lists every field of that config")
        raise SystemExit(0 if argv and argv[0] in ("-h", "--help") else 2)
    return argv[0]
