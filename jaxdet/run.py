"""The RUN folder: what an experiment was, what it learned, and how to read it again.

    RUN/run.json         the resolved config, class names, window, phase order, versions, digests of
                         the split and the folds, the patients that it was trained on
    RUN/checkpoints/N/   state (to resume), weights (the moving average), meta (step, best, digests)
    RUN/train.jsonl      one line a logged step or evaluation; TensorBoard files beside it
    RUN/metrics/*.json   evaluations;  RUN/pictures/  curves and overlays
    RUN/siamese/         the RUN of a first stage, and its maps
    RUN/.lock            who trains into it, while somebody does

All that reads or writes a RUN goes through here.
"""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import socket
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxdet import models
from jaxdet.config import Data, Experiment, from_json, to_json
from jaxdet.models.detector import Detector
from jaxdet.types import Array, Detections

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = 1
SIAMESE = "siamese"  # the folder of a first stage, itself a RUN
SIAMESE_EXECUTION = ("convolution", "rematerialise")  # fields that change no number
# Fields that change nothing of what is learned: where the data lie, and how it is gone about.
MOVABLE = (
    "data.path",
    "data.threads",
    "data.cache",
    "train.log_every",
    "model.siamese_from",
    "model.siamese_train.log_every",
    *(f"model.{name}" for name in SIAMESE_EXECUTION),
    *(f"model.siamese.{name}" for name in SIAMESE_EXECUTION),
)
DIGESTS = ("split_digest", "folds_digest")  # of run.json, in every checkpoint and metrics file too
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of file systems that have none
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-python")


@dataclasses.dataclass(frozen=True)
class Run:
    """An open RUN folder."""

    path: pathlib.Path
    experiment: Experiment
    class_names: tuple[str, ...]
    facts: dict[str, Any]  # the rest of run.json

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints lie, one folder a step."""
        return self.path / "checkpoints"

    @property
    def digests(self) -> dict[str, str]:
        """Those of the split (train and val) and, in a cross-validation, of all its folds.

        An imported RUN has none; one that is older than the second has the first.
        """
        return {name: self.facts[name] for name in DIGESTS if name in self.facts}

    def check_digests(self, kept: Mapping[str, Any], source: str) -> None:
        """Refuses a checkpoint or metrics of another split than run.json's; older ones say none."""
        for name, wanted in self.digests.items():
            if kept.get(name, wanted) != wanted:
                raise ValueError(
                    f"{source} says {name} {kept[name]}, but {self.path}/run.json says {wanted}: it"
                    " belongs to another RUN, trained on other images"
                )

    def phases(self) -> tuple[tuple[str, ...], int | None]:
        """The CT phases in the order of the channels, and the slices of each; ((), None) if none.

        A RUN of a prepared set made before run.json said so asks the set; ValueError without it.
        """
        order, data = self.facts.get("phase_order"), self.experiment.data
        if order:
            return tuple(order), self.facts.get("neighbours") or data.channels // len(order)
        if data.source != "tfds" or "imported_from" in self.facts:
            return (), None
        try:
            found = phase_facts(data)
        except ValueError as error:
            raise ValueError(
                f"{self.path}/run.json says no phase_order, and its prepared set is not there to "
                f"tell ({error}). Write into it the phases in the order of the channels, such as "
                '"phase_order": ["portal"], and the slices of each, such as "neighbours": 3'
            ) from error
        return tuple(found["phase_order"]), found["neighbours"]

    def detector(self, **fields: Any) -> Detector:
        """The RUN's detector; keywords replace fields of its Config, such as score_threshold."""
        return models.from_config(dataclasses.replace(self.experiment.model, **fields))

    def program(self, **fields: Any) -> Callable[[Any, Array], Detections]:
        """(variables of `all_weights`, raw images) -> Detections; keywords as of `detector`."""
        return models.program(dataclasses.replace(self.experiment.model, **fields))

    def predictor(self, score_threshold: float) -> Callable[[Any, Array], Detections]:
        """`program` as prediction wants it: surer scores, and the family's PREDICT fields."""
        fields = getattr(models.family(self.facts["family"]), "PREDICT", {})
        return self.program(**fields, score_threshold=score_threshold)

    def first_stage(self) -> "Run":
        """The RUN of the Siamese network inside of this one. ValueError if there is none."""
        path = self.path / SIAMESE
        if not (path / "run.json").exists():
            raise ValueError(
                f"{self.path} has no {SIAMESE}/run.json: its first stage was not trained, so that"
                " there are no attention maps. Train it on with --resume"
            )
        return open_run(path)

    def all_weights(self, which: Literal["best", "latest"] = "best") -> dict[str, Any]:
        """What `program` takes: `weights`, with a first stage {"detector", "siamese"}.

        ValueError as in `weights`, and where the first stage is of another split or config.
        """
        weights = self.weights(which)
        if not models.has_stages(self.experiment.model):
            return weights
        stage = self.first_stage()
        refuse_other_siamese(stage, self.experiment.model.siamese)
        self.check_digests(stage.digests, str(stage.path))
        first = stage.weights("best")
        wanted = self.facts.get("siamese_digest")
        if wanted is not None and digest_of(first) != wanted:
            raise ValueError(
                f"{stage.path} is no longer the network whose maps the detector was trained on"
                f" ({digest_of(first)}, not {wanted}): put it back, or train this RUN anew"
            )
        return {"detector": weights, "siamese": first}

    def weights(self, which: Literal["best", "latest"] = "best") -> dict[str, Any]:
        """The moving-average variables as NumPy arrays: the best evaluated ones, or the latest.

        ValueError when there is no checkpoint, or when one does not fit the model or the split of
        run.json.
        """
        with self.manager(read_only=True) as manager:
            step = manager.best_step() if which == "best" else None
            step = manager.latest_step() if step is None else step
            if step is None:
                raise ValueError(f"no complete checkpoint in {self.checkpoints}: {self._listing()}")
            wanted = abstract_variables(self.experiment)
            try:
                parts = {"weights": ocp.args.StandardRestore(), "meta": ocp.args.JsonRestore()}
                kept = manager.restore(step, args=ocp.args.Composite(**parts))
            except Exception as error:
                raise ValueError(
                    f"checkpoint {step} in {self.checkpoints} cannot be read: {error}"
                ) from error
        check_fits(kept["weights"], wanted, f"{self.checkpoints}/{step}")
        self.check_digests(kept["meta"], f"{self.checkpoints}/{step}")
        return kept["weights"]

    def manager(self, *, read_only: bool = False) -> ocp.CheckpointManager:
        """The Orbax manager of this RUN: keeps the two latest and the best checkpoint.

        Policy and best_fn are both needed: without the first the newest step can be dropped,
        without the second best_step() answers with the latest.
        """
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(2),
                preservation_policy.BestN(get_metric_fn=_fitness, n=1, reverse=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_fitness,
            best_mode="max",
            enable_async_checkpointing=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        if read_only and not self.checkpoints.is_dir():
            raise ValueError(f"{self.path} holds no checkpoints: nothing was saved yet")
        return ocp.CheckpointManager(self.checkpoints.resolve(), options=options)

    def save_weights(self, variables: Any) -> None:
        """Makes `variables` the only checkpoint, step 0: what an import from elsewhere does."""
        with self.manager() as manager:
            manager.save(
                0,
                args=ocp.args.Composite(
                    weights=ocp.args.StandardSave(jax.tree.map(np.asarray, variables)),
                    meta=ocp.args.JsonSave({"step": 0, "imported": True}),
                ),
                metrics={"fitness": 0.0},
            )
            manager.wait_until_finished()

    def write_metrics(self, name: str, summary: dict[str, Any]) -> pathlib.Path:
        """Writes RUN/metrics/<name>.json, with the RUN's digests, and gives its path."""
        path = self.path / "metrics" / f"{name}.json"
        write_json(path, {**summary, **self.digests})
        return path

    def _listing(self) -> str:
        names = sorted(p.name for p in self.checkpoints.iterdir())
        return "it holds " + ", ".join(names) if names else "it is empty"


def create(
    path: str | os.PathLike,
    experiment: Experiment,
    class_names: tuple[str, ...],
    **facts: Any,
) -> Run:
    """A new RUN folder; refuses one that exists. `facts` (fold hash, ...) go into run.json."""
    path = pathlib.Path(path)
    if (path / "run.json").exists():
        raise ValueError(f"{path} is a RUN already: add --resume to go on, or choose another --out")
    path.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "family": type(experiment.model).__module__.rsplit(".", 1)[-1],
        "class_names": list(class_names),
        "window_hu": to_json(experiment.data.window_hu),
        "phase_order": None,  # the phases of the channels, where a prepared set or an import says
        "neighbours": None,  # slices of each of these phases
        "versions": versions(),
        **facts,
        "experiment": to_json(experiment),
    }
    write_json(path / "run.json", content)
    return open_run(path)


def rewrite_experiment(run: Run) -> None:
    """Makes `run.experiment` that of run.json: a RUN that is trained on says so with what."""
    _rewrite(run.path, experiment=to_json(run.experiment))


def remember(run: Run, **facts: Any) -> None:
    """Adds facts to run.json that are known only after the RUN was made."""
    _rewrite(run.path, **facts)


def _rewrite(path: pathlib.Path, **told: Any) -> None:
    file = path / "run.json"
    content = json.loads(file.read_text())
    if any(content.get(name) != value for name, value in told.items()):
        write_json(file, {**content, **told})


def refuse_other_siamese(stage: Run, wanted: Any) -> None:
    """ValueError unless `stage` is a Siamese RUN of the Config `wanted`.

    How it is computed (SIAMESE_EXECUTION) may differ: the numbers are the same to rounding.
    """
    if stage.facts["family"] != SIAMESE:
        raise ValueError(f"{stage.path} is a RUN of {stage.facts['family']}, no Siamese network")
    rows = _differences(stage.experiment.model, wanted, SIAMESE_EXECUTION)
    if rows:
        raise ValueError(f"{stage.path} is another Siamese network than model.siamese:\n{rows}")


def digest_of(weights: Any) -> str:
    """16 hexadecimal digits of all variables, names and bytes."""
    told = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        told.update(jax.tree_util.keystr(path).encode())
        told.update(np.ascontiguousarray(leaf).tobytes())
    return told.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Keeps a folder, made if it is not there, from a second process that would write into it.

    ValueError, at once, names the process that has it. The kernel lets go when the holder ends,
    however it ends; the file .lock stays and means nothing by itself. A file system without locks
    is a warning; where the operating system has none, nothing is done.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(path / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{path} is in use by {file.read() or 'another process'}: wait until it ends, or"
                " choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{path}: its file system has no locks ({error.strerror}), so nothing keeps a"
                " second process from writing there too",
                stacklevel=3,
            )
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def phase_facts(data: Data) -> dict[str, Any]:
    """`phase_order` and `neighbours` that a RUN on this data says; nothing if no prepared set."""
    if data.source != "tfds":
        return {}
    from jaxdet.data.builders import store  # here, as a RUN is read without any data

    prepared = store.find(data.path, data.builder)
    order = data.phases or prepared.phases
    return {"phase_order": list(order), "neighbours": prepared.metadata["neighbours"]}


def open_run(path: str | os.PathLike) -> Run:
    """An existing RUN folder. ValueError says what is missing or of another version."""
    path = pathlib.Path(path)
    file = path / "run.json"
    if not file.exists():
        raise ValueError(f"{path} is not a RUN: it has no run.json. Train or import one first")
    content = json.loads(file.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{file} has format {content.get('format')!r}; this jaxdet reads format {FORMAT}"
        )
    experiment = experiment_from_json(content["family"], content["experiment"])
    facts = {k: v for k, v in content.items() if k != "experiment"}
    return Run(path, experiment, tuple(content["class_names"]), facts)


def experiment_from_json(family: str, content: dict[str, Any]) -> Experiment:
    """The experiment that run.json holds, its model read by the family's own Config."""
    rest = {k: v for k, v in content.items() if k != "model"}
    model = from_json(models.family(family).Config, content["model"])
    hints = typing.get_type_hints(Experiment)
    return Experiment(model=model, **{k: from_json(hints[k], v) for k, v in rest.items()})


def check_same(
    run: Run,
    experiment: Experiment,
    free: Collection[str] = ("train.epochs", "train.patience", *MOVABLE),
) -> None:
    """Refuses to go on with another experiment, and names every field that differs.

    `free` fields may be new: by default those that let a finished run be extended, and the MOVABLE
    ones, which change nothing of what is learned. Where runs must have been trained alike, as the
    folds of a cross-validation, give free=MOVABLE. That the data behind a new path are the same is
    for the digests to say.
    """
    if type(run.experiment.model) is not type(experiment.model):
        raise ValueError(
            f"{run.path} is a RUN of {run.facts['family']}, not of "
            f"{type(experiment.model).__module__.rsplit('.', 1)[-1]}"
        )
    rows = _differences(run.experiment, experiment, free)
    if rows:
        raise ValueError(f"{run.path} was made with another config; resume with the same:\n{rows}")


def abstract_variables(experiment: Experiment) -> Any:
    """Shapes and dtypes of the model's variables, without computing any."""
    module, side = models.module(experiment.model), experiment.data.image_size
    example = models.example(experiment.model, side)
    return jax.eval_shape(module.init, jax.random.key(0), *example)


def check_fits(variables: Any, wanted: Any, source: str) -> None:
    """Refuses variables of another model, with a table of the first differences."""
    got, want = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): v.shape for p, v in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (variables, wanted))
    )
    wrong = [n for n in sorted(got.keys() | want.keys()) if got.get(n) != want.get(n)]
    if wrong:
        rows = "\n".join(f"  {n}: wanted {want.get(n)}, got {got.get(n)}" for n in wrong[:12])
        raise ValueError(f"{source} is of another model; {len(wrong)} tensors differ:\n{rows}")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def versions() -> dict[str, str]:
    """Python, platform and the packages that decide numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("jaxdet", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """The accelerator's name, or the CPU's model as the kernel tells it."""
    kind = jax.devices()[0].device_kind
    info = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if kind == "cpu" and found else kind


def _fitness(metrics: dict[str, float]) -> float:
    return metrics["fitness"]


def _differences(before: Any, now: Any, free: Collection[str]) -> str:
    """The fields of two configs that differ, `free` ones apart, a line each; "" if none."""
    old, new = _flat(to_json(before)), _flat(to_json(now))
    changed = [k for k in new if old.get(k) != new[k] and k not in free]
    return "\n".join(f"  {k}: was {old.get(k)!r}, now {new[k]!r}" for k in changed)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v
        for name, value in tree.items()
        for k, v in _flat(value, f"{prefix}.{name}" if prefix else name).items()
    }
