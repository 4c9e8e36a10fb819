"""Where does a data set keep its images, annotations and lists? COCO, YOLO, VOC folders, a CSV."""

import dataclasses
import pathlib
from collections.abc import Sequence

from jaxdet.config import Data
from jaxdet.data import formats_coco, formats_csv, formats_voc, formats_yolo, images
from jaxdet.data.formats import Truth, different, read_text

SPLITS = ("train", "val", "test")
SUFFIXES = (*images.SUFFIXES, ".dcm", ".ima")  # DICOM slices only for the builder of slices


@dataclasses.dataclass(frozen=True)
class Listing:
    """One list of images with their truth."""

    root: pathlib.Path  # the folder of the data set
    class_names: tuple[str, ...]
    truths: tuple[tuple[pathlib.Path, Truth], ...]  # the image file, which exists, and its truth
    patients: dict[str, str] = dataclasses.field(default_factory=dict)  # by Truth.file, where told


def present(cfg: Data) -> tuple[str, ...]:
    """The splits that the data set has lists for; none where it is one heap of images."""
    if cfg.source == "yolo":
        content = formats_yolo.read_config(cfg.path)[1]
        return tuple(split for split in SPLITS if content.get(split))
    if cfg.source == "csv":
        return ()
    find = _coco_file if cfg.source == "coco" else _voc_list
    return tuple(split for split in SPLITS if find(_folder(cfg), split))


def read(cfg: Data, split: str) -> Listing:
    """The images of a split; of the heap, without splits, when it is "".

    A missing folder, list, annotation or image is a ValueError that names it. Faulty boxes are
    treated as `cfg.faulty_boxes` says.
    """
    readers = {"coco": _coco, "voc": _voc, "yolo": _yolo, "csv": _csv}
    return readers[cfg.source](cfg, split)


def _folder(cfg: Data) -> pathlib.Path:
    folder = pathlib.Path(cfg.path)
    if not cfg.path or not folder.is_dir():
        raise ValueError(f"data.path {cfg.path!r} is no folder; source {cfg.source!r} wants one")
    return folder


def _first(places: Sequence[pathlib.Path]) -> pathlib.Path | None:
    return next((place for place in places if place.is_file()), None)


def _coco_file(folder: pathlib.Path, split: str) -> pathlib.Path | None:
    if not split:
        names = ["annotations.json", "instances.json"]
    else:
        names = [f"{split}.json", f"instances_{split}.json", f"instances_{split}2017.json"]
    return _first([base / name for base in (folder / "annotations", folder) for name in names])


def _coco(cfg: Data, split: str) -> Listing:
    folder = _folder(cfg)
    file = _coco_file(folder, split)
    if file is None:
        wanted = f"annotations/{split}.json" if split else "annotations.json"
        raise ValueError(f'{folder}: there is no {wanted}; data.split="patient" takes one file')
    names, truths = formats_coco.read(file, cfg.faulty_boxes)
    # The folder of the split comes first: another split may hold a file of the same name.
    own = [folder / "images" / split, folder / split, folder / f"{split}2017"]
    bases = [*own, folder / "images", folder]
    found = []
    for truth in truths:
        image = _first([base / truth.file for base in bases])
        if image is None:
            raise ValueError(
                f"{file}: there is no image {truth.file} in {folder / 'images'} or {folder}"
            )
        found.append((image, truth))
    return Listing(folder, names, tuple(found))


def _yolo(cfg: Data, split: str) -> Listing:
    names, truths = formats_yolo.read(cfg.path, split, cfg.faulty_boxes)
    found = tuple((pathlib.Path(truth.file), truth) for truth in truths)
    return Listing(formats_yolo.root(cfg.path), names, found)


def _csv(cfg: Data, split: str) -> Listing:
    file = pathlib.Path(cfg.path)
    if split:
        raise ValueError(f'{file}: a CSV has no list {split}; data.split="patient" draws one')
    folder = file.parent

    def place(name: str) -> pathlib.Path:
        found = _first([folder / name, folder / "images" / name])
        if found is None:
            raise ValueError(f"there is no image {name} in {folder} or {folder / 'images'}")
        return found

    names, truths = formats_csv.read(
        file, cfg.faulty_boxes, classes=cfg.classes, size_of=lambda name: size(place(name))
    )
    try:
        found = tuple((place(truth.file), truth) for truth in truths)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return Listing(folder, names, found, formats_csv.patients(file))


def size(file: pathlib.Path) -> tuple[int, int]:
    """(height, width) of an image or a DICOM slice, whose pixels are not decoded."""
    if file.suffix.lower() in images.SUFFIXES:
        return images.size(file)
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise ValueError(f"{file}: is no image and no DICOM slice that can be read") from None
    width, height = reader.GetSize()[:2]
    return height, width


def _voc_list(folder: pathlib.Path, split: str) -> pathlib.Path | None:
    return _first([folder / base / f"{split}.txt" for base in ("splits", "ImageSets/Main")])


def _voc(cfg: Data, split: str) -> Listing:
    folder = _folder(cfg)
    annotations = _one_of(folder, "annotations", "Annotations")
    pictures = _by_stem(_one_of(folder, "images", "JPEGImages"))
    files = sorted(annotations.glob("*.xml"))
    # All of them, so that every split counts the classes alike.
    names = different(cfg.classes or formats_voc.class_names(files))
    listed = []
    for stem in _voc_stems(folder, split) if split else [file.stem for file in files]:
        found = pictures.get(stem, [])
        if len(found) != 1:
            raise ValueError(
                f"{folder}: wanted one image {stem} with .jpg or the like; got {found}"
            )
        truth = formats_voc.read(annotations / f"{stem}.xml", names, cfg.faulty_boxes)
        listed.append((found[0], truth))
    return Listing(folder, names, tuple(listed))


def _voc_stems(folder: pathlib.Path, split: str) -> list[str]:
    file = _voc_list(folder, split)
    if file is None:
        raise ValueError(f"{folder}: there is no splits/{split}.txt or ImageSets/Main/{split}.txt")
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]


def _one_of(folder: pathlib.Path, *names: str) -> pathlib.Path:
    found = [folder / name for name in names if (folder / name).is_dir()]
    if not found:
        raise ValueError(f"{folder}: wanted a folder {' or '.join(names)} in it")
    return found[0]


def _by_stem(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    found: dict[str, list[pathlib.Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES:
            found.setdefault(file.stem, []).append(file)
    return found
