"""Every config of configs/ loads, says how it is run, and fits itself."""

import pathlib
import re

import pytest

from jaxdet import models, run
from jaxdet.cli.arguments import load_config
from jaxdet.config import to_json
from jaxdet.data import sources

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config(file):
    """It names its own command, takes the channels of its data and survives a RUN's JSON."""
    assert f"jaxdet train configs/{file.name} " in file.read_text().split('"""')[1]
    made = load_config(str(file))
    assert models.raw_channels(made.model) == made.data.channels
    assert len(made.data.pad) in (1, made.data.channels)
    assert len(made.data.classes) in (0, getattr(made.model, "num_classes", 0))
    family = type(made.model).__module__.rsplit(".", 1)[-1]
    assert run.experiment_from_json(family, to_json(made)) == made
    variables = run.abstract_variables(made)  # sides that the strides do not divide are refused
    assert variables["params"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_files_a_config_names_are_there(file):
    """Scripts and other configs; data and results come with a run."""
    named = re.findall(r"\b(?:configs|scripts)/[\w/]+\.(?:py|sh|sbatch)\b", file.read_text())
    root = file.parents[1]
    assert [name for name in named if not (root / name).is_file()] == []


def test_the_demo_is_what_its_data_are():
    made = load_config(str(next(file for file in FILES if file.stem == "demo")))
    train, val = (sources.load(made.data, split) for split in ("train", "val"))
    assert len(train.class_names) == made.model.num_classes
    assert len(train) + len(val) == made.data.phantom_patients * made.data.phantom_slices
    assert not {r.patient for r in train.records} & {r.patient for r in val.records}
    assert train[0].image.shape[2] == made.data.channels
