"""From a config to the images and truth of one split.

    config.Data -> pool of records with their given split -> part by list or by patient -> checks ->
    Dataset

Truth is read at once and checked; pixels are read when an Example is asked for.
"""

import dataclasses
import functools
import hashlib
import operator
import pathlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxdet.config import Data
from jaxdet.data import duplicates, folds, images, layouts, masks
from jaxdet.data.formats import Truth, different
from jaxdet.types import Example

Split = Literal["train", "val", "test"]


@dataclasses.dataclass(frozen=True)
class Record:
    """The truth of one image whose pixels are not read yet. M may be 0."""

    name: str  # the file, below the folder of the data set; or "phantom patient 3 slice 41"
    patient: str
    boxes_xyxy: Float[np.ndarray, "M 4"]  # float32 px of the image as stored
    labels: Int[np.ndarray, "M"]  # index into class_names
    crowd: Bool[np.ndarray, "M"]  # True: neither wanted nor wrong, never taught
    area: Float[np.ndarray, "M"]  # px^2, for the size classes of COCO
    diameters_mm: Float[np.ndarray, "M"] | None = None  # the longest; NaN, None: not known
    misaligned_mm: Float[np.ndarray, "M"] | None = None  # how far the phases lie apart there
    phase: str = ""  # on which the lesions were drawn
    pixel_mm: tuple[float, float] | None = None  # x, y
    # Reads the mask, uint8 [H, W], i + 1 on the lesion of box i (of a set without crowds); gives
    # None where there are only boxes. None: masks are not asked for (data.lesions).
    lesions: Callable[[], np.ndarray | None] | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split: records at hand, pixels on demand. Reading is safe from several threads."""

    class_names: tuple[str, ...]
    records: tuple[Record, ...]
    split: str
    faults: dict[str, int]  # boxes that were dropped or clipped, by kind
    pixels: Callable[[int], np.ndarray] = dataclasses.field(repr=False)  # record -> [H, W, C]
    window: tuple[float | int, float | int] | None = None
    cache: dict[int, np.ndarray] | None = dataclasses.field(default=None, repr=False)  # None: off

    def __len__(self) -> int:
        """The number of images."""
        return len(self.records)

    def __getitem__(self, i: int) -> Example:
        """Image i as uint8 or float32 in [0, 1], with the boxes that are taught: all but crowd."""
        record = self.records[i]
        taught = ~record.crowd
        return Example(
            image=images.to_range(self._stored(i), self.window, record.name),
            boxes_xyxy=record.boxes_xyxy[taught],
            labels=record.labels[taught],
            name=record.name,
            patient=record.patient,
            lesions=None if record.lesions is None else record.lesions(),
        )

    def _stored(self, i: int) -> np.ndarray:
        # Kept as in the file, which is smaller than float32, and locked against changes in place.
        if self.cache is None:
            return self.pixels(i)
        if i not in self.cache:
            image = self.pixels(i)
            image.setflags(write=False)
            self.cache[i] = image
        return self.cache[i]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One record of the pool, with how to read its pixels."""

    record: Record
    faults: tuple[str, ...]
    pixels: Callable[[], np.ndarray]
    same_pixels: str = ""  # duplicates.exact and near, of a prepared set
    near_pixels: str = ""


def load(cfg: Data, split: Split) -> Dataset:
    """The Dataset of a split as the config describes it.

    The phantom has no given lists: it is always split by patient. A split without a lesion,
    pictures of a prepared set that look alike under two patients, and data.phases of a source whose
    channels have no names, are warnings.
    The first image is read, so that wrong channels, a missing window or the lack of a mask that is
    asked for are found here. A ValueError names the file (and the field of the config) for: an
    empty split, a missing image, a faulty box as `faulty_boxes` says, more boxes than `max_boxes`,
    class names other than `classes`, a patient (or, in a prepared set, the same pixels) in two
    splits, a path without a patient.
    """
    if cfg.split == "given" and cfg.source != "phantom":
        names, lists = _given(cfg, split)
        _refuse_shared(cfg, lists)
        entries = _merged(cfg, {split: lists.get(split, [])})
    else:
        names, pool = _pool(cfg)
        entries = _drawn(cfg, pool, split)
    dataset = _dataset(cfg, split, names, entries)
    if not entries:
        raise ValueError(f"{split} split has 0 images (0 patients) in {cfg.path or cfg.source}")
    _warn_without_lesion(dataset)
    _warn_without_names(cfg)
    _refuse_crowded(cfg, dataset)
    first = dataset[0]
    if cfg.lesions:
        check_lesions(first)
    return dataset


def check_lesions(example: Example) -> None:
    """ValueError, with its name, unless an example has the mask that data.lesions asks for.

    Of the image's size, with no number beyond those of its boxes. An empty mask is one, and so is
    one without a pixel of some box.
    """
    mask, count = example.lesions, len(example.labels)
    if mask is None:
        raise ValueError(
            f"{example.name}: data.lesions asks for the mask of its lesions, but it has only boxes:"
            " take a set with masks (`jaxdet data inspect` tells), or set data.lesions=False"
        )
    if mask.shape != example.image.shape[:2]:
        raise ValueError(
            f"{example.name}: its lesion mask is {list(mask.shape)}, its image"
            f" {list(example.image.shape[:2])}: was the image resized without the mask?"
        )
    if mask.max(initial=0) > count or count > masks.MOST:
        raise ValueError(
            f"{example.name}: its lesion mask goes up to {mask.max(initial=0)}, but it has {count}"
            f" boxes: wanted i + 1 on the lesion of box i, of {masks.MOST} boxes at most. Make the"
            " set again, or set data.lesions=False"
        )


def tested_in(cfg: Data) -> tuple[tuple[Record, ...], Int[np.ndarray, "N"]]:
    """The truth of the whole data set, and the fold (0 to cfg.folds - 1) that tests each record.

    All lists are pooled, whatever cfg.split says; folds are drawn by patient (or by image, as
    cfg.split_unit says), in equal shares of the boxes, from cfg.split_seed. A fold without a lesion
    is a warning. ValueError: more folds than patients; the same pixels in two folds of a prepared
    set; no images; and, by patient, no image that says whose it is, or patients whose names differ
    in nothing but capitals and spaces at their ends.
    """
    _, pool = _pool(cfg)
    if not pool:
        raise ValueError(f"there are 0 images (0 patients) in {cfg.path or cfg.source}")
    records = tuple(entry.record for entry in pool)
    if cfg.split_unit == "patient":
        _refuse_nameless(cfg, records)
        _refuse_spellings(cfg, records)
    part = np.zeros(len(pool), np.int64)
    pairs = folds.folds(units(cfg, records), cfg.folds, cfg.split_seed, _boxes(records))
    for fold, (_, tested) in enumerate(pairs):
        part[tested] = fold
    by_fold = [[pool[i] for i in tested] for _, tested in pairs]
    lists = {f"fold {fold}": entries for fold, entries in enumerate(by_fold)}
    _refuse_shared(cfg, lists, by_patient=cfg.split_unit == "patient")
    return records, part


def split_of_fold(cfg: Data, records: Sequence[Record]) -> Int[np.ndarray, "N"]:
    """0 train, 1 val, 2 test of each record when cfg.fold is tested.

    A pure function of the config and the data. selection "nested": val is drawn from the patients
    that are not tested, `val_share` of their boxes. "test_fold": nobody is val, because the test
    fold itself takes that part; that is the likely original of PCA-YOLO's Table 1, and it flatters,
    for the weights are then chosen by the very images that score them.
    """
    share = cfg.val_share if cfg.selection == "nested" else 0.0
    dealt = units(cfg, records)
    return folds.split_of_fold(dealt, cfg.folds, cfg.fold, cfg.split_seed, _boxes(records), share)


def units(cfg: Data, records: Sequence[Record]) -> list[str]:
    """What folds deal, one name a record: its patient; itself, by slice."""
    return [r.name if cfg.split_unit == "slice" else r.patient for r in records]


def plain(patient: str) -> str:
    """The name without capitals and spaces at its ends: those that agree in it are one patient."""
    return patient.strip().casefold()


def _boxes(records: Sequence[Record]) -> list[int]:
    """How many boxes count in each record: all but crowd."""
    return [int((~record.crowd).sum()) for record in records]


def digest(*datasets: Dataset) -> str:
    """16 hexadecimal digits that change when an image moves between these splits, comes or goes.

    And when its truth does: a box, a label or a crowd flag. The pixels of files are not looked at.
    """
    parts = [(told(r), i) for i, dataset in enumerate(datasets) for r in dataset.records]
    return folds.digest(*zip(*parts, strict=True))


def told(record: Record) -> str:
    """Name and truth of an image as a word for digests; the pixels of its file are not looked at.

    Boxes to the last bit, labels and crowd flags, in their order.
    """
    truth = hashlib.sha256()
    for column, dtype in ((record.boxes_xyxy, "<f4"), (record.labels, "<i4"), (record.crowd, "?")):
        truth.update(np.ascontiguousarray(column, dtype).tobytes())
    return f"{record.name}\0{len(record.labels)} {truth.hexdigest()}"


def _dataset(cfg: Data, split: str, names: tuple[str, ...], entries: list[_Entry]) -> Dataset:
    return Dataset(
        class_names=names,
        records=tuple(entry.record for entry in entries),
        split=split,
        faults=dict(Counter(fault for entry in entries for fault in entry.faults)),
        pixels=functools.partial(_pixels, [entry.pixels for entry in entries]),
        window=cfg.window_hu,
        cache={} if cfg.cache == "ram" else None,
    )


def _pixels(readers: list[Callable[[], np.ndarray]], i: int) -> Shaped[np.ndarray, "H W C"]:
    return readers[i]()


def _given(cfg: Data, split: str) -> tuple[tuple[str, ...], dict[str, list[_Entry]]]:
    """The data set's own lists: all of them where a patient could be in two, else the one."""
    if cfg.source == "tfds":
        names, lists = _tfds(cfg)
        if split not in lists:
            raise ValueError(
                f"{cfg.builder} in {cfg.path} has no split {split!r} but {', '.join(lists)}:"
                ' data.split="patient" draws train, val and test'
            )
        return names, lists
    others = layouts.present(cfg) if cfg.patient_pattern else ()
    return _lists(cfg, tuple(dict.fromkeys((split, *others))))


def _pool(cfg: Data) -> tuple[tuple[str, ...], list[_Entry]]:
    """All lists of the data set as one."""
    if cfg.source == "phantom":
        names, lists = _renamed(cfg, *_phantom(cfg))
    elif cfg.source == "tfds":
        names, lists = _tfds(cfg)
    else:
        names, lists = _lists(cfg, layouts.present(cfg))
    return names, _merged(cfg, lists)


def _drawn(cfg: Data, pool: list[_Entry], split: str) -> list[_Entry]:
    """The part of the pool that is drawn by patient, or by the official rule."""
    if not pool:
        return []
    patients = [entry.record.patient for entry in pool]
    if cfg.split == "official":
        part = folds.official(patients)
    elif cfg.split == "fold":
        part = split_of_fold(cfg, [entry.record for entry in pool])
    else:
        part = folds.assign(patients, cfg.fractions, cfg.split_seed)
    lists = {
        name: [entry for entry, p in zip(pool, part, strict=True) if p == i]
        for i, name in enumerate(layouts.SPLITS)
    }
    _refuse_shared(cfg, lists, by_patient=cfg.split != "fold" or cfg.split_unit == "patient")
    chosen_by_test = cfg.split == "fold" and cfg.selection == "test_fold"
    return lists["test" if chosen_by_test and split == "val" else split]


def _warn_without_names(cfg: Data) -> None:
    if cfg.phases and cfg.source != "tfds":
        warnings.warn(
            f"data.phases orders the channels of source='tfds', whose sets name them; those of "
            f"source={cfg.source!r} are taken to be {', '.join(cfg.phases)} already. Are they?",
            stacklevel=3,
        )


def _warn_without_lesion(dataset: Dataset) -> None:
    if not any((~record.crowd).any() for record in dataset.records):
        patients = len({record.patient for record in dataset.records})
        warnings.warn(
            f"the {dataset.split} split has no lesion: {len(dataset)} images of {patients} patients"
            " and 0 boxes",
            stacklevel=3,
        )


def _refuse_crowded(cfg: Data, dataset: Dataset) -> None:
    for record in dataset.records:
        count = int((~record.crowd).sum())
        if count > cfg.max_boxes:
            raise ValueError(
                f"{record.name} has {count} boxes; data.max_boxes is {cfg.max_boxes}: raise it"
            )


def _refuse_nameless(cfg: Data, records: Sequence[Record]) -> None:
    """Folds of patients want patients: not each image its own, for want of a better name."""
    knows = cfg.source in ("phantom", "tfds") or cfg.patient_pattern
    if knows or len(records) < 2 or any(r.patient != r.name for r in records):
        return
    raise ValueError(
        f"{cfg.path}: folds are dealt by patient, and none of its {len(records)} images says whose"
        " it is. Tell by data.patient_pattern, whose group 1 is the patient in the file's path"
        ' ("(.*)" if each image is a patient of its own), or by the column patient of a CSV; or'
        ' say data.split_unit="slice", which deals images and leaks if a patient has several'
    )


def _refuse_spellings(cfg: Data, records: Sequence[Record]) -> None:
    """A patient under two spellings would be dealt twice, perhaps to both sides."""
    first: dict[str, str] = {}
    for record in records:
        before = first.setdefault(plain(record.patient), record.patient)
        if before != record.patient:
            raise ValueError(
                f"{cfg.path}: the patients {before!r} and {record.patient!r} ({record.name}) differ"
                " only in capitals or spaces at their ends: write one name if they are one, and"
                " names that differ more if they are two"
            )


def _refuse_shared(cfg: Data, lists: dict[str, list[_Entry]], *, by_patient: bool = True) -> None:
    """Nobody and nothing may be in two splits, as far as patients and pixels are known.

    Where images are dealt, not patients, only pixels count.
    """
    prepared = cfg.source == "tfds"
    if not ((cfg.patient_pattern and by_patient) or prepared):
        return
    owner = operator.attrgetter("record.patient" if by_patient else "record.name")
    patients = {split: [owner(e) for e in lists[split]] for split in lists}
    pixels = {split: [e.same_pixels for e in lists[split]] for split in lists}
    found = duplicates.in_two_splits(patients, pixels if prepared else None)
    if found:
        drawn = cfg.split in ("patient", "fold")
        hint = "" if drawn else '; data.split="patient" draws new ones'
        raise ValueError(
            f"{cfg.path}: {len(found)} patients or pictures are in two splits:"
            f" {'; '.join(found[:5])}{hint}"
        )
    if prepared:
        entries = [entry for split in lists for entry in lists[split]]
        duplicates.warn_of_alike(
            [entry.near_pixels for entry in entries],
            [entry.record.patient for entry in entries],
            [entry.record.name for entry in entries],
        )


def _merged(cfg: Data, lists: dict[str, list[_Entry]]) -> list[_Entry]:
    """All lists as one, an image that is listed twice taken once."""
    pool: dict[str, _Entry] = {}
    for entry in (entry for entries in lists.values() for entry in entries):
        first = pool.setdefault(entry.record.name, entry)
        same = (
            np.array_equal(getattr(first.record, field), getattr(entry.record, field))
            for field in ("boxes_xyxy", "labels")
        )
        if not all(same):
            raise ValueError(f"{cfg.path}: {entry.record.name} is listed twice with other boxes")
    return list(pool.values())


def _phantom(cfg: Data) -> tuple[tuple[str, ...], dict[str, list[_Entry]]]:
    from jaxdet.data import phantom  # here, because it builds Records and so imports this file

    names, records, read = phantom.records(cfg)
    pool = [_Entry(record, (), functools.partial(read, i)) for i, record in enumerate(records)]
    return tuple(names), {"": pool}


def _tfds(cfg: Data) -> tuple[tuple[str, ...], dict[str, list[_Entry]]]:
    """Class names, and the entries of each split of a prepared set."""
    from jaxdet.data.builders import store

    prepared = store.find(cfg.path, cfg.builder)
    channels = _channels(cfg, prepared.phases, prepared.metadata["neighbours"])

    def mask(truth: store.Truth) -> Callable[[], np.ndarray | None]:
        read = functools.partial(prepared.lesions, truth)
        return functools.cache(read) if cfg.cache == "ram" else read

    def entry(truth: store.Truth) -> _Entry:
        pixel_mm = truth.spacing_mm[:2]
        record = Record(
            name=truth.name,
            patient=truth.patient,
            boxes_xyxy=truth.boxes_xyxy,
            labels=truth.labels,
            crowd=np.zeros(len(truth.labels), bool),
            area=truth.areas_px2,
            diameters_mm=truth.diameters_mm,
            # Over all phases that are stored, so that it is the same for any data.phases.
            misaligned_mm=truth.misaligned_mm,
            phase=truth.annotated,
            pixel_mm=pixel_mm if np.isfinite(pixel_mm).all() else None,
            lesions=mask(truth) if cfg.lesions else None,
        )
        read = functools.partial(_stored_channels, prepared, truth, channels)
        return _Entry(record, (), read, truth.same_pixels, truth.near_pixels)

    lists = {split: list(map(entry, prepared.truths(split))) for split in prepared.splits}
    return _renamed(cfg, prepared.class_names, lists)


def _channels(cfg: Data, stored: tuple[str, ...], neighbours: int) -> list[int]:
    """Which stored channels become the image's. ValueError where the model wants another number."""
    wanted = cfg.phases or stored
    absent = sorted(set(wanted) - set(stored))
    if absent:
        raise ValueError(
            f"data.phases wants {', '.join(absent)}; {cfg.builder} holds {', '.join(stored)}"
        )
    found = [stored.index(phase) * neighbours + i for phase in wanted for i in range(neighbours)]
    if len(found) == 1 and cfg.channels == 3:  # grey to 3, as images.read does
        return found * 3
    if len(found) != cfg.channels:
        raise ValueError(
            f"{cfg.builder}: {len(wanted)} phases ({', '.join(wanted)}) of {neighbours} slices are"
            f" {len(found)} channels, but data.channels is {cfg.channels}: set it to {len(found)},"
            f" or name other data.phases of {', '.join(stored)}"
        )
    return found


def _stored_channels(prepared, truth, channels: list[int]) -> Shaped[np.ndarray, "H W C"]:
    pixels = prepared.pixels(truth)
    if channels == list(range(pixels.shape[2])):
        return pixels
    return np.ascontiguousarray(pixels[..., channels])


def _lists(cfg: Data, splits: Sequence[str]) -> tuple[tuple[str, ...], dict[str, list[_Entry]]]:
    """Class names, and the entries of each list; "" is the heap, where there are no lists."""
    listings = {split: layouts.read(cfg, split) for split in splits or ("",)}
    names = {listing.class_names for listing in listings.values()}
    if len(names) > 1:
        raise ValueError(f"{cfg.path}: the splits differ in their classes: {sorted(names)}")
    lists = {
        split: [_entry(cfg, listing, file, truth) for file, truth in listing.truths]
        for split, listing in listings.items()
    }
    return _renamed(cfg, names.pop(), lists)


def _renamed(
    cfg: Data, names: tuple[str, ...], lists: dict[str, list[_Entry]]
) -> tuple[tuple[str, ...], dict[str, list[_Entry]]]:
    """The labels in the order of cfg.classes, where it is given."""
    if not cfg.classes or cfg.classes == names:
        return names, lists
    if set(different(cfg.classes)) != set(names):
        raise ValueError(f"{cfg.path}: its classes are {names}; data.classes wants {cfg.classes}")
    new = np.array([cfg.classes.index(name) for name in names], np.int32)

    def moved(entry: _Entry) -> _Entry:
        record = dataclasses.replace(entry.record, labels=new[entry.record.labels])
        return dataclasses.replace(entry, record=record)

    return cfg.classes, {split: list(map(moved, entries)) for split, entries in lists.items()}


def name_of(listing: layouts.Listing, file: pathlib.Path) -> str:
    """The file below its folder, so that names and fold digests stay when the data move."""
    inside = file.is_relative_to(listing.root)
    return (file.relative_to(listing.root) if inside else file).as_posix()


def patient_of(cfg: Data, listing: layouts.Listing, name: str, file: str) -> str:
    """Whose image it is: by the pattern on its name, else as the list tells, else its own."""
    if not cfg.patient_pattern:
        return listing.patients.get(file, name)
    match = re.search(cfg.patient_pattern, name)
    if not match or not match.re.groups or match[1] is None:
        raise ValueError(
            f"{name}: data.patient_pattern {cfg.patient_pattern!r} finds no patient (group 1) in"
            " this path"
        )
    return match[1]


def _entry(cfg: Data, listing: layouts.Listing, file: pathlib.Path, truth: Truth) -> _Entry:
    name = name_of(listing, file)
    record = Record(
        name=name,
        patient=patient_of(cfg, listing, name, truth.file),
        boxes_xyxy=truth.boxes_xyxy,
        labels=truth.labels,
        crowd=truth.crowd,
        area=truth.area,
        diameters_mm=truth.diameters_mm,
        phase=truth.phase,
        pixel_mm=truth.pixel_mm,
    )
    read = functools.partial(_read, file, cfg.channels, (truth.height, truth.width))
    return _Entry(record, truth.faults, read)


def _read(file: pathlib.Path, channels: int, told: tuple[int, int]) -> Shaped[np.ndarray, "H W C"]:
    image = images.read(file, channels)
    if image.shape[:2] != told:
        raise ValueError(
            f"{file}: the image is {image.shape[1]} x {image.shape[0]}, its annotation says"
            f" {told[1]} x {told[0]}: the boxes belong to another image"
        )
    return image
