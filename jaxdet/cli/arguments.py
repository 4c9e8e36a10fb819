"""From a config file and flags to an Experiment."""

import importlib.util
import pathlib
from typing import Annotated, Any

import tyro

from jaxdet.config import Experiment


def load_config(path: str) -> Experiment:
    """The `experiment()` of a Python config file."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no config file at {path}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "experiment"):
        raise ValueError(f"{path} has no function experiment() that returns a jaxdet Experiment")
    return module.experiment()


def typed(experiment: Experiment) -> Any:
    """The type that lets tyro offer every field of this experiment, its model's too, without prefix."""
    return Annotated[Experiment[type(experiment.model)], tyro.conf.arg(name="")]


def config_path(argv: list[str], verb: str) -> str:
    """The first argument, which names the config: its fields are the flags that may follow."""
    if not argv or argv[0].startswith("-"):
        print(f"usage: jaxdet {verb} CONFIG --out RUN [--train.lr 1e-3 --model.size s ...]")
        print(f"`jaxdet {verb} CONFIG --help` lists every field of that config")
        raise SystemExit(0 if argv and argv[0] in ("-h", "--help") else 2)
    return argv[0]
