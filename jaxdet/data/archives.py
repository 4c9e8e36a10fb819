"""How is a data set unpacked that somebody else packed? Everything is checked, nothing is trusted.

A zip or tar may name files outside the folder, hold links that lead there, or grow to any size.
Names and kinds are checked before a member is written, and bytes are counted as they come, whatever
the archive declares.
"""

import contextlib
import gzip
import os
import pathlib
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

MOST_BYTES = 1 << 36  # 64 GiB
MOST_MEMBERS = 50_000
FREE_BYTES, MOST_RATIO = 1 << 26, 200  # unpacked bytes of any archive; beyond, per packed byte
MOST_READ = 1 << 24  # bytes of one tar header: more is a bomb

_BROKEN = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, RuntimeError)
_BROKEN += (NotImplementedError, UnicodeError)


class _Member(NamedTuple):
    name: str
    kind: str  # "file", "folder", or what is refused: "a link", ..
    open: Callable[[], Any]


def unpack(
    archive: str | os.PathLike,
    target: str | os.PathLike,
    most_bytes: int = MOST_BYTES,
    most_members: int = MOST_MEMBERS,
) -> list[pathlib.Path]:
    """Unpacks a .zip, .tar, .tar.gz or .tgz into `target`, and returns the files it wrote.

    Unpacked beside `target` and moved there when whole: a refusal or a fault leaves nothing behind,
    and what lay in `target` before stays. Modes, owners and times of the archive are not taken
    over. ValueError, with the member: a name that is absolute or has "..", a drive or a NUL; links
    and devices; a name twice or already there; too many members or bytes; a ratio that no data
    has; a broken or encrypted archive.
    """
    archive, target = pathlib.Path(archive), pathlib.Path(target).absolute()
    members = _opener(archive)
    most = min(most_bytes, max(FREE_BYTES, MOST_RATIO * archive.stat().st_size))
    ground = next(folder for folder in target.parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=ground) as place:
        try:
            with members(archive, most) as found:
                names = _write(archive, found, pathlib.Path(place), most, most_members)
        except _BROKEN as error:
            raise ValueError(
                f"{archive} is broken or encrypted ({error}): fetch it again"
            ) from None
        _check_free(archive, target, names)
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(pathlib.Path(place) / name, target / name)
    return [target / name for name in names]


def _opener(archive: pathlib.Path) -> Callable[[pathlib.Path, int], Any]:
    name = archive.name.lower()
    if not archive.is_file():
        raise ValueError(f"{archive} does not exist: wanted a .zip, .tar, .tar.gz or .tgz")
    if name.endswith(".zip"):
        return _zip
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return _tar
    raise ValueError(f"{archive} is no archive that is unpacked here: wanted .zip, .tar or .tar.gz")


def _write(
    archive: pathlib.Path,
    members: Iterator[_Member],
    place: pathlib.Path,
    most_bytes: int,
    most_members: int,
) -> list[str]:
    """Writes every file below `place`; their names, folders left out."""
    names: dict[str, None] = {}
    left = most_bytes
    for number, member in enumerate(members, start=1):
        if number > most_members:
            raise ValueError(f"{archive} has more than {most_members} members: refused")
        name = _safe(archive, member.name)
        if member.kind not in ("file", "folder"):
            raise ValueError(f"{archive}: member {member.name!r} is {member.kind}: refused")
        if member.kind == "folder" or not name:
            continue
        if name in names:
            raise ValueError(f"{archive} has {name!r} twice: refused")
        names[name] = None
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, (place / name).open("xb") as file:
            while part := source.read(1 << 20):
                left -= len(part)
                if left < 0:
                    raise ValueError(_too_much(archive, most_bytes))
                file.write(part)
    return list(names)


def _safe(archive: pathlib.Path, name: str) -> str:
    """The name below the target; ValueError if it leads anywhere else."""
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"{archive}: member {name!r} leads out of the folder: refused")
    return "/".join(part for part in parts if part not in ("", "."))


def _check_free(archive: pathlib.Path, target: pathlib.Path, names: list[str]) -> None:
    for name in names:
        if os.path.lexists(target / name):
            raise ValueError(f"{archive} would overwrite {target / name}: give an empty folder")
        if not (target / name).parent.resolve().is_relative_to(target.resolve()):
            raise ValueError(f"{archive}: {target / name} lies behind a link: give an empty folder")


@contextlib.contextmanager
def _zip(archive: pathlib.Path, most: int) -> Iterator[Iterator[_Member]]:
    def members(file: zipfile.ZipFile) -> Iterator[_Member]:
        for info in file.infolist():
            form = stat.S_IFMT(info.external_attr >> 16)
            kind = "folder" if info.is_dir() else "file"
            if form not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link" if form == stat.S_IFLNK else "a device or pipe"
            yield _Member(info.orig_filename, kind, lambda info=info: file.open(info))

    with zipfile.ZipFile(archive) as file:
        yield members(file)


@contextlib.contextmanager
def _tar(archive: pathlib.Path, most: int) -> Iterator[Iterator[_Member]]:
    def members(file: tarfile.TarFile) -> Iterator[_Member]:
        for info in file:
            kind = "file" if info.isreg() and not info.issparse() else "a device, pipe or sparse"
            kind = "folder" if info.isdir() else kind
            kind = "a link" if info.issym() or info.islnk() else kind
            yield _Member(info.name, kind, lambda info=info: file.extractfile(info))

    packed = archive.name.lower().endswith("gz")
    with gzip.open(archive, "rb") if packed else archive.open("rb") as stream:
        bounded = _Bounded(archive, stream, most)
        with tarfile.open(fileobj=bounded, mode="r:") as file:
            yield members(file)


class _Bounded:
    """A file that refuses huge reads, with which tarfile takes in headers, and ends at a limit."""

    def __init__(self, archive: pathlib.Path, stream: Any, most: int) -> None:
        self.archive, self.stream, self.most = archive, stream, most
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_READ:
            raise ValueError(f"{self.archive} has a header of {size} bytes: refused")
        # Headers and filling count 1 KiB a member at the most, beside the content.
        if self.stream.tell() > 2 * self.most + FREE_BYTES:
            raise ValueError(_too_much(self.archive, self.most))
        return self.stream.read(size)

    def seek(self, place: int) -> int:
        # A seek in a gzip unpacks all that it leaps over.
        if place > 2 * self.most + FREE_BYTES:
            raise ValueError(_too_much(self.archive, self.most))
        return self.stream.seek(place)


def _too_much(archive: pathlib.Path, most: int) -> str:
    return (
        f"{archive} unpacks to more than {most} bytes: a bomb, or raise most_bytes (never beyond "
        f"{MOST_RATIO} times the archive)"
    )
