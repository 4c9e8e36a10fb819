"""Oracle: Python's own pickler with stand-ins for torch (fake_torch)."""

import collections
import zipfile

import fake_torch
import numpy as np
import pytest
import safetensors.numpy

from jaxdet.bridge.read import read_state_dict
from jaxdet.bridge.write import write_state_dict

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 3, 2, 2)).astype(np.float32)
BIAS = RNG.standard_normal(4).astype(np.float16)


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    fake_torch.install(monkeypatch)


def same(read, wanted):
    assert list(read) == list(wanted)
    for name, array in wanted.items():
        assert read[name].dtype == array.dtype, name
        np.testing.assert_array_equal(read[name], array)


def state_dict():
    return collections.OrderedDict(
        {"w": fake_torch.tensor(WEIGHT), "b": fake_torch.tensor(BIAS, "HalfStorage")}
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_of_every_protocol_reads_back(tmp_path, protocol):
    fake_torch.save(tmp_path / "a.pt", state_dict(), protocol)
    same(read_state_dict(tmp_path / "a.pt"), {"w": WEIGHT, "b": BIAS})


def test_the_format_before_zip_reads_back(tmp_path):
    fake_torch.save_legacy(tmp_path / "a.pth", state_dict())
    same(read_state_dict(tmp_path / "a.pth"), {"w": WEIGHT, "b": BIAS})


def test_numbers_of_every_type_and_byte_order(tmp_path):
    bf16 = np.array([0x3FC0, 0xC000], np.uint16)  # 1.5 and -2 by definition of the format
    given = {
        "f8": (np.array([[1.5, 2.0]]), "DoubleStorage"),
        "i8": (np.array([2**40, -1]), "LongStorage"),
        "i4": (np.array(7, np.int32), "IntStorage"),
        "u1": (np.array([255], np.uint8), "ByteStorage"),
        "empty": (np.zeros((0, 3), np.float32), "FloatStorage"),
    }
    tensors = {k: fake_torch.tensor(a, kind) for k, (a, kind) in given.items()}
    tensors["bf"] = fake_torch.tensor(bf16, "BFloat16Storage")
    tensors["bool"] = fake_torch.tensor(np.array([1, 0], np.uint8), "BoolStorage")
    wanted = {k: a for k, (a, _) in given.items()}
    wanted |= {"bf": np.array([1.5, -2], np.float32), "bool": np.array([True, False])}
    for order in "<>":
        fake_torch.save(tmp_path / "a.pt", tensors, order=order)
        same(read_state_dict(tmp_path / "a.pt"), wanted)


def test_strides_offsets_and_shared_storages(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    storage = fake_torch.Storage(base)
    views = {
        "transposed": fake_torch.Tensor(storage, (6, 4), 0, (1, 6)),
        "slice": fake_torch.Tensor(storage, (3, 3), 6, (6, 2)),
        "scalar": fake_torch.Tensor(storage, (), 5, ()),
        "expanded": fake_torch.Tensor(storage, (3,), 23, (0,)),
    }
    fake_torch.save(tmp_path / "a.pt", views)
    wanted = {"transposed": base.T, "slice": base[1:, ::2], "scalar": base[0, 5]}
    same(read_state_dict(tmp_path / "a.pt"), wanted | {"expanded": np.full(3, 23, np.float32)})


@pytest.mark.parametrize(
    "view",
    [((25,), 0, (1,)), ((4, 6), 1, (6, 1)), ((2,), 23, (1,)), ((2,), -1, (1,)), ((2,), 0, ())],
)
def test_a_view_outside_its_storage_is_refused(tmp_path, view):
    storage = fake_torch.Storage(np.zeros(24, np.float32))
    fake_torch.save(tmp_path / "a.pt", {"x": fake_torch.Tensor(storage, *view)})
    with pytest.raises(ValueError, match=r"a\.pt.*storage"):
        read_state_dict(tmp_path / "a.pt")


def model(scale=1.0):
    conv = fake_torch.module(
        {
            "weight": fake_torch.Parameter(fake_torch.Storage(WEIGHT * scale), WEIGHT.shape),
            "b": None,
        }
    )
    norm = fake_torch.module(
        buffers={"mean": fake_torch.tensor(BIAS, "HalfStorage"), "tmp": fake_torch.tensor(WEIGHT)},
        silent=["tmp"],
    )
    act = fake_torch.module()
    return fake_torch.module(children={"0": conv, "1": norm, "act": act, "none": None})


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_whole_pickled_model_becomes_its_state_dict(tmp_path, protocol):
    fake_torch.save(tmp_path / "a.pt", model(), protocol)
    same(read_state_dict(tmp_path / "a.pt"), {"0.weight": WEIGHT, "1.mean": BIAS})


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({"model": 1, "ema": 2}, 2),
        ({"ema": None, "model": 3}, 3),
        ({"epoch": None, "state_dict": 4}, 4),
        ({"model_state_dict": 5}, 5),
    ],
)
def test_the_preferred_part_of_a_checkpoint_is_taken(tmp_path, keys, scale):
    saved = {k: v and model(v) for k, v in keys.items()}
    fake_torch.save(tmp_path / "a.pt", saved | {"train_args": {"lr": 0.1}, "date": "now"})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pt")["0.weight"], WEIGHT * scale)


def test_safetensors_with_half_types(tmp_path):
    import ml_dtypes

    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"b": BIAS, "f": np.array([1.5], ml_dtypes.bfloat16)}, path)
    same(dict(sorted(read_state_dict(path).items())), {"b": BIAS, "f": np.array([1.5], np.float32)})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_empty_and_foreign_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights.*empty"):
        read_state_dict(path)
    path.write_bytes(b"\x89PNG and so on")
    with pytest.raises(ValueError, match=r"weights.*cannot be read"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", "legacy.pth"])
def test_a_cut_or_damaged_file_never_gives_other_than_a_value_error(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == "legacy.pth":
        fake_torch.save_legacy(path, state_dict())
    else:
        write_state_dict(path, {"w": WEIGHT, "b": BIAS})
    whole = path.read_bytes()
    for length in range(1, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="weights"):
            read_state_dict(path)
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_state_dict(path)  # a changed number cannot be seen everywhere
        except ValueError as error:
            assert "weights" in str(error)


def test_a_compressed_entry_and_a_bomb_of_views_are_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    zeros = fake_torch.Storage(np.zeros(1 << 20, np.float32))
    data, _ = fake_torch.dumps({"x": fake_torch.Tensor(zeros, (1 << 20,))})
    entries = {"data.pkl": data, "data/0": zeros.array.tobytes()}
    fake_torch.write_entries(path, entries, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"bomb.*compressed"):
        read_state_dict(path)
    one = fake_torch.Storage(np.zeros(1, np.float32))
    fake_torch.save(path, {"x": fake_torch.Tensor(one, (1 << 40,), 0, (0,))})
    with pytest.raises(ValueError, match=r"bomb.*times as large"):
        read_state_dict(path)


def test_a_module_that_contains_itself_ends(tmp_path):
    loop = fake_torch.module()
    loop._modules["again"] = loop
    fake_torch.save(tmp_path / "a.pt", loop)
    with pytest.raises(ValueError, match="names of more than"):
        read_state_dict(tmp_path / "a.pt")


def test_what_is_no_dense_tensor_is_named(tmp_path):
    fake_torch.save(tmp_path / "a.pt", {"w": fake_torch.tensor(WEIGHT), "epoch": 3})
    with pytest.raises(ValueError, match=r"'epoch' is a int"):
        read_state_dict(tmp_path / "a.pt")
    fake_torch.save(tmp_path / "a.pt", {"w": fake_torch.tensor(WEIGHT, "OddStorage")})
    with pytest.raises(ValueError, match=r"torch\.OddStorage"):
        read_state_dict(tmp_path / "a.pt")
    fake_torch.save(tmp_path / "a.pt", {})
    with pytest.raises(ValueError, match="holds no tensors"):
        read_state_dict(tmp_path / "a.pt")


def test_torchscript_and_missing_storages_are_refused(tmp_path):
    data, _ = fake_torch.dumps(state_dict())
    fake_torch.write_entries(tmp_path / "a.pt", {"data.pkl": data, "constants.pkl": b""})
    with pytest.raises(ValueError, match="TorchScript"):
        read_state_dict(tmp_path / "a.pt")
    fake_torch.write_entries(tmp_path / "a.pt", {"data.pkl": data, "../0": b"0" * 192})
    with pytest.raises(ValueError, match="data/0"):
        read_state_dict(tmp_path / "a.pt")
