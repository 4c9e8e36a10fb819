"""Archives: what is sound arrives whole; what is not leaves no trace (row 36)."""

import contextlib
import io
import pathlib
import stat
import tarfile
import time
import zipfile

import pytest

from jaxdet.data import archives

FILES = {"a/ct.nii": b"volume", "a/b/mask.nii": b"", "läsion 1.txt": b"x" * 3_000_000}


def make_zip(path: pathlib.Path, files: dict[str, bytes], mode: int = 0) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, data)
    return path


def make_tar(path: pathlib.Path, files: dict[str, bytes], **fields) -> pathlib.Path:
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            file.addfile(info, io.BytesIO(data))
    return path


def make(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    return (make_zip if path.suffix == ".zip" else make_tar)(path, files)


def refused(archive: pathlib.Path, match: str, **limits) -> None:
    """Row 36: the error, and nothing written: not in the target, not beside, not above."""
    room = archive.parent
    (room / "canary.txt").write_text("alive")
    before = {p: p.read_bytes() for p in room.parent.rglob("*") if p.is_file()}
    folders = {p for p in room.parent.rglob("*") if p.is_dir()}
    with pytest.raises(ValueError, match=match):
        archives.unpack(archive, room / "deep" / "target", **limits)
    assert {p: p.read_bytes() for p in room.parent.rglob("*") if p.is_file()} == before
    assert {p for p in room.parent.rglob("*") if p.is_dir()} == folders


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz"])
def test_what_is_sound_arrives_whole(tmp_path, suffix):
    archive = make(tmp_path / f"set{suffix}", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    found = archives.unpack(archive, tmp_path / "out")
    assert sorted(found) == sorted(tmp_path / "out" / name for name in FILES)
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in FILES.items())
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {archive.name, "out"}
    with pytest.raises(ValueError, match="would overwrite"):
        archives.unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize(
    "name",
    ["../canary.txt", "a/../../canary.txt", "/tmp/jaxdet-canary", "a\\..\\..\\c", "C:\\x", "\\x"],
)
def test_row_36_names_that_lead_out(tmp_path, suffix, name):
    archive = make(tmp_path / f"set{suffix}", {"good.txt": b"good", name: b"bad"})
    refused(archive, "leads out of the folder")
    assert not pathlib.Path("/tmp/jaxdet-canary").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_row_36_links(tmp_path, kind):
    archive = make_tar(tmp_path / "set.tar", {"link": b""}, type=kind, linkname="../canary.txt")
    refused(archive, "'link' is a link")


def test_row_36_link_in_a_zip(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    refused(archive, "'link' is a link")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_row_36_devices(tmp_path, kind):
    refused(make_tar(tmp_path / "set.tar", {"d": b""}, type=kind), "is a device, pipe or sparse")


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_row_36_too_many_members(tmp_path, suffix):
    archive = make(tmp_path / f"set{suffix}", {f"{i}.txt": b"" for i in range(11)})
    refused(archive, "more than 10 members", most_members=10)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_row_36_bombs(tmp_path, suffix):
    # 1000 : 1, and more than an archive of any size may take.
    archive = make(tmp_path / f"set{suffix}", {"zeros": bytes(archives.FREE_BYTES + 1)})
    start = time.monotonic()
    refused(archive, "unpacks to more than")
    assert time.monotonic() - start < 5


def test_row_36_bytes_are_counted_not_believed(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"a": bytes(1000)})
    raw = bytearray(archive.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (10).to_bytes(4, "little")  # declares 10 bytes
    archive.write_bytes(raw)
    refused(archive, "broken or encrypted")
    refused(make(tmp_path / "b.tar", {"a": bytes(1000)}), "more than 999 bytes", most_bytes=999)


def test_row_36_a_huge_tar_header(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "set.tar").write_bytes(info.tobuf() + bytes(10240))
    refused(tmp_path / "set.tar", "header of 1073741824 bytes")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_truncated_archives(tmp_path, suffix):
    archive = make(tmp_path / f"set{suffix}", FILES)
    archive.write_bytes(archive.read_bytes()[:700])
    refused(archive, "broken or encrypted")


def test_names_twice_and_other_files(tmp_path):
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("a", b"1")
        file.writestr("a", b"2")
    refused(tmp_path / "set.zip", "has 'a' twice")
    (tmp_path / "set.rar").write_bytes(b"x")
    refused(tmp_path / "set.rar", r"wanted \.zip, \.tar or \.tar\.gz")
    refused(tmp_path / "nowhere.zip", "does not exist")


def test_row_36_links_that_lie_in_the_target(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "else")
    with pytest.raises(ValueError, match="lies behind a link"):
        archives.unpack(make(tmp_path / "set.zip", {"a/x": b"1"}), tmp_path / "out")
    assert not list((tmp_path / "else").iterdir())


def test_an_empty_archive(tmp_path):
    assert archives.unpack(make(tmp_path / "set.zip", {}), tmp_path / "out") == []


def test_row_36_the_default_refuses_100_000_empty_members(tmp_path, monkeypatch):
    count = 100_000
    assert count > archives.MOST_MEMBERS
    one = archives._Member("folder", "folder", lambda: None)
    many = contextlib.contextmanager(lambda archive, most: (yield iter([one] * count)))
    monkeypatch.setattr(archives, "_zip", many)
    refused(make_zip(tmp_path / "many.zip", {}), f"more than {archives.MOST_MEMBERS} members")
