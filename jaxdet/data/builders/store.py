"""Prepared sets on disk: written once from a stream of slices, read lazily and in any order.

    (split, CtSlice), ... -> write -> DIR/NAME/CONFIG/1.1.0 -> find -> Prepared -> truths, pixels

The folder is a TFDS data set in array_record files: tfds.builder_from_directory(folder) and
tfds.builder("NAME/CONFIG", data_dir=DIR) read it, without TensorFlow. It is written here and not by
TFDS's own writer, which keeps up to a GiB, or all of an unshuffled split, in memory and compresses.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from jaxdet.data.builders import features, records
from jaxdet.types import CtSlice

VERSION = "1.1.0"  # 1.1: misaligned_mm
WHOLE = "whole"  # the split of a set that has no others; TFDS keeps the name "all" for itself
SHARD_BYTES = 1 << 29  # about so large is a file


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is known of a stored slice, and where its pixels lie. M may be 0."""

    name: str
    patient: str
    z: int
    boxes_xyxy: Float[np.ndarray, "M 4"]  # float32 px
    labels: Int[np.ndarray, "M"]
    diameters_mm: Float[np.ndarray, "M"]
    misaligned_mm: Float[np.ndarray, "M"]  # as data/misalignment.py: NaN is not known
    areas_px2: Float[np.ndarray, "M"]
    spacing_mm: tuple[float, float, float]
    annotated: str
    touching: int
    same_pixels: str
    near_pixels: str
    shape: tuple[int, int, int]  # H, W, C
    place: records.Place = dataclasses.field(repr=False)
    example: records.Place = dataclasses.field(repr=False)  # all that is stored of the slice


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A set that lies ready in a folder."""

    folder: pathlib.Path
    name: str  # "phantom_sltd/tiny"
    metadata: dict[str, Any]
    splits: dict[str, int]  # examples of each

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases in the order of the channels."""
        return tuple(self.metadata["phases"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels mean."""
        return tuple(self.metadata["class_names"])

    def truths(self, split: str) -> list[Truth]:
        """Everything but pixels and masks of a split, which are not read."""
        known = features.truth_features()
        return [
            _truth(known, place, *records.parts(place, tuple(known), f"{features.PIXELS}/value"))
            for place in self._places(split)
        ]

    def pixels(self, truth: Truth) -> Shaped[np.ndarray, "H W C"]:
        """The Hounsfield units of a slice, int16 or float32. Safe from several threads."""
        return records.array(truth.place, truth.shape, np.dtype(self.metadata["dtype"]))

    def lesions(self, truth: Truth) -> UInt8[np.ndarray, "H W"] | None:
        """i + 1 on the lesion of box i, read-only; None where only boxes are known.

        Nothing else is read. Safe from several threads. ValueError, with the slice and the file,
        where the set is damaged.
        """
        _, place = records.parts(truth.example, (), f"{features.LESIONS}/value")
        stored = records.array(place, (place.size,), np.dtype(np.uint8))
        try:
            return features.unpacked(stored, *truth.shape[:2])
        except ValueError as error:
            raise ValueError(
                f"{truth.name}: {error} in {place.file}: the set is damaged; make it again"
            ) from None

    def slices(self, split: str) -> "Slices":
        """Every slice of a split with its masks, each read when it is asked for."""
        return Slices(self, split)

    def _places(self, split: str) -> Iterator[records.Place]:
        for file, count in zip(*self._shards(split), strict=True):
            yield from records.places(file, count)

    def _shards(self, split: str) -> tuple[list[pathlib.Path], list[int]]:
        told = {s["name"]: s for s in _json(self.folder / "dataset_info.json")["splits"]}
        if split not in told:
            raise ValueError(f"{self.folder} has no split {split!r}; it has {', '.join(told)}")
        lengths = [int(n) for n in told[split]["shardLengths"]]
        count = len(lengths)
        files = [self.folder / _file(self.name, split, i, count) for i in range(count)]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is missing: make the set again")
        return files, lengths


@dataclasses.dataclass(frozen=True)
class Slices:
    """The slices of a split with all that is known of them, read by TFDS; can be pickled."""

    prepared: Prepared
    split: str

    def __len__(self) -> int:
        """The number of slices."""
        return self.prepared.splits[self.split]

    def __getitem__(self, i: int) -> CtSlice:
        """Slice i; IndexError behind the last, so that a loop ends."""
        if not 0 <= i < len(self):
            raise IndexError(f"{self.prepared.name} {self.split} has {len(self)} slices, no {i}")
        stored = _source(self.prepared.folder, self.split)[i]
        return features.from_features(stored, self.prepared.metadata)


@functools.lru_cache(maxsize=16)
def _source(folder: pathlib.Path, split: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder).as_data_source(split=split)


def find(folder: str | pathlib.Path, name: str) -> Prepared:
    """The set "NAME/CONFIG" below a folder. ValueError that lists what is there instead.

    A set of another version, which lacks features or has others, is a ValueError that names it.
    """
    place = pathlib.Path(folder) / name / VERSION
    if not (place / "dataset_info.json").is_file():
        others = sorted(file.parent for file in place.parent.glob("*.*.*/dataset_info.json"))
        if others:
            raise ValueError(
                f"{others[-1]} was made by another jaxdet, and this one reads version {VERSION}:"
                " make it again with `jaxdet data make` (or register); the old one may be deleted"
            )
        there = ", ".join(prepared.name for prepared in found(folder)) or "none"
        raise ValueError(
            f"there is no prepared set {name!r} in {folder}; there are: {there}."
            " `jaxdet data make` makes one"
        )
    return _open(place)


def found(folder: str | pathlib.Path) -> list[Prepared]:
    """All sets of ours that lie ready below a folder, sorted by name; those of others are not."""
    ready = []
    for file in sorted(pathlib.Path(folder).glob(f"*/*/{VERSION}/metadata.json")):
        with contextlib.suppress(ValueError):
            ready.append(_open(file.parent))
    return ready


def _open(place: pathlib.Path) -> Prepared:
    """The set in DIR/NAME/CONFIG/VERSION; ValueError if it cannot be read or is not one of ours."""
    metadata = _json(place / "metadata.json")
    if not isinstance(metadata, dict) or not {"phases", "dtype", "class_names"} <= set(metadata):
        raise ValueError(f"{place} was not made by `jaxdet data make`: its metadata lack phases")
    told = _json(place / "dataset_info.json")
    try:
        splits = {s["name"]: sum(int(n) for n in s["shardLengths"]) for s in told["splits"]}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{place / 'dataset_info.json'} tells no splits: make it again") from None
    return Prepared(place, "/".join(place.parts[-3:-1]), metadata, splits)


def write(
    folder: str | pathlib.Path,
    name: str,
    examples: Iterable[tuple[str, CtSlice]],
    metadata: dict[str, Any],
) -> Prepared:
    """Writes the set "NAME/CONFIG" from (split, slice) in the order given, and returns it.

    Nothing is kept in memory, and splits may come in turn. `metadata` is anything that JSON holds,
    written last, and names at least class_names; phases, neighbours and dtype are those of the
    slices. The same slices give the same files, byte for byte. A set that is there already, no
    slice at all, or slices that differ in phases, channels or type are a ValueError; nothing is
    left then.
    """
    final = pathlib.Path(folder) / name / VERSION
    if final.exists():
        raise ValueError(f"{final} is there already: delete it, or choose another --out")
    final.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="incomplete-", dir=final.parent))
    try:
        with contextlib.closing(_Writer(work, name, metadata)) as writer:
            for split, one in examples:
                writer.add(split, one)
            writer.finish()
        work.chmod(0o755)  # mkdtemp makes it private
        work.rename(final)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return find(folder, name)


class _Writer:
    """The open files of a set that is being written, one a split."""

    def __init__(self, folder: pathlib.Path, name: str, metadata: dict[str, Any]):
        self.folder, self.name, self.metadata = folder, name, dict(metadata)
        self.lengths: dict[str, list[int]] = {}  # of each split, the examples in its files
        self.bytes: dict[str, list[int]] = {}
        self.open: dict[str, Any] = {}
        self.features: Any = None

    def add(self, split: str, one: CtSlice) -> None:
        from tensorflow_datasets.core import example_serializer

        self._check(one)
        encoded = self.features.encode_example(features.to_features(one))
        serializer = example_serializer.ExampleSerializer(self.features.get_serialized_info())
        # Deterministic: else the order of the features is that of a hash table.
        data = serializer.get_tf_example(encoded).SerializeToString(deterministic=True)
        self._file_of(split).write(data)
        self.lengths[split][-1] += 1
        self.bytes[split][-1] += len(data)

    def _file_of(self, split: str) -> Any:
        from array_record.python import array_record_module

        lengths, sizes = self.lengths.setdefault(split, []), self.bytes.setdefault(split, [])
        if not sizes or sizes[-1] > SHARD_BYTES:
            if split in self.open:
                self.open.pop(split).close()
            part = self.folder / f"{split}-{len(lengths)}"
            # One record a group, as grain wants it; not compressed, so that records.py reads it.
            options = "group_size:1,uncompressed"
            self.open[split] = array_record_module.ArrayRecordWriter(str(part), options)
            lengths.append(0)
            sizes.append(0)
        return self.open[split]

    def _check(self, one: CtSlice) -> None:
        neighbours, odd = divmod(one.hu.shape[2], max(len(one.phases), 1))
        told = {
            "phases": list(one.phases),
            "neighbours": neighbours,
            "dtype": one.hu.dtype.name,
        }
        if odd or not neighbours:
            raise ValueError(
                f"{one.name}: {one.hu.shape[2]} channels for {len(one.phases)} phases"
                f" {one.phases}: wanted the same number of neighbours in each"
            )
        if self.features is None:
            self.metadata.update(told)
            self.features = features.features(one.hu.dtype)
        kept = {key: self.metadata[key] for key in told}
        if kept != told:
            raise ValueError(f"{one.name}: {told}, but the slices before it have {kept}")
        classes = len(self.metadata["class_names"])
        if len(one.labels) and not 0 <= one.labels.min() <= one.labels.max() < classes:
            raise ValueError(f"{one.name}: label {one.labels.max()} for {classes} class names")

    def finish(self) -> None:
        import tensorflow_datasets as tfds

        self.close()
        if not self.lengths:
            raise ValueError(f"{self.name}: 0 slices (0 patients) were found, so there is no set")
        for split, lengths in self.lengths.items():
            for i in range(len(lengths)):
                part = self.folder / f"{split}-{i}"
                part.rename(self.folder / _file(self.name, split, i, len(lengths)))
        dataset, config = self.name.split("/")
        identity = tfds.core.DatasetIdentity(
            name=dataset,
            version=tfds.core.Version(VERSION),
            data_dir=str(self.folder),
            module_name="",
            config_name=config,
        )
        metadata = tfds.core.MetadataDict(self.metadata)
        info = tfds.core.DatasetInfo(
            builder=identity, features=self.features, metadata=metadata, disable_shuffling=True
        )
        info.set_file_format("array_record")
        info.set_splits(tfds.core.splits.SplitDict([self._split(s) for s in self.lengths]))
        info.write_to_directory(self.folder)

    def _split(self, split: str) -> Any:
        import tensorflow_datasets as tfds

        template = tfds.core.ShardedFileTemplate(
            data_dir=self.folder,
            dataset_name=self.name.split("/")[0],
            split=split,
            filetype_suffix="array_record",
        )
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=self.lengths[split],
            num_bytes=sum(self.bytes[split]),
            filename_template=template,
        )

    def close(self) -> None:
        while self.open:
            self.open.popitem()[1].close()


def _truth(known: Any, example: records.Place, small: bytes, place: records.Place) -> Truth:
    stored = known.deserialize_example_np(small)
    x, y, z = (float(v) for v in stored["spacing_mm"])
    height, width, channels = (int(v) for v in stored["shape"])
    texts = ("name", "patient", "annotated", "same_pixels", "near_pixels")
    numbers = ("diameters_mm", "misaligned_mm", "areas_px2")
    return Truth(
        **{key: stored[key].decode() for key in texts},
        **{key: stored[key] for key in ("boxes_xyxy", *numbers)},
        labels=stored["labels"].astype(np.int32),
        z=int(stored["z"]),
        touching=int(stored["touching"]),
        spacing_mm=(x, y, z),
        shape=(height, width, channels),
        place=place,
        example=example,
    )


def _file(name: str, split: str, i: int, count: int) -> str:
    return f"{name.split('/')[0]}-{split}.array_record-{i:05d}-of-{count:05d}"


def _json(file: pathlib.Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}): make the set again") from None
