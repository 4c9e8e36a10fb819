"""What is written reads back, and the same tensors give the same bytes."""

import numpy as np
import pytest

from jaxdet.bridge.read import read_state_dict
from jaxdet.bridge.write import STORAGES, write_state_dict

TENSORS = {
    **{name: np.array([[0, 1, 1]]).astype(name) for name in STORAGES},
    "scalar": np.array(5, np.int64),
    "empty": np.zeros((0, 3, 2), np.float32),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "ünicode.weight": np.full((2, 2, 2, 2), np.nan, np.float32),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_write_then_read_then_write_gives_the_same_bytes(tmp_path, suffix):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_state_dict(first, TENSORS)
    read = read_state_dict(first)
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    write_state_dict(second, {name: read[name] for name in TENSORS})
    assert first.read_bytes() == second.read_bytes()


def test_torch_reads_it_as_weights_only(tmp_path):
    torch = pytest.importorskip("torch")
    write_state_dict(tmp_path / "a.pt", TENSORS)
    read = torch.load(tmp_path / "a.pt", weights_only=True)
    assert list(read) == list(TENSORS)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(read[name].numpy(), array)
        assert read[name].is_contiguous()


def test_what_torch_saves_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).half()
    wanted = {name: t.numpy() for name, t in net.state_dict().items()}
    for i, saved in enumerate((net, net.state_dict(), {"ema": net, "model": None})):
        for zipped in (True, False):
            path = tmp_path / f"{i}{zipped}.pt"
            torch.save(saved, path, _use_new_zipfile_serialization=zipped)
            read = read_state_dict(path)
            assert list(read) == list(wanted)
            for name in wanted:
                np.testing.assert_array_equal(read[name], wanted[name])


def test_unknown_suffixes_and_types_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.npz.*safetensors"):
        write_state_dict(tmp_path / "a.npz", TENSORS)
    with pytest.raises(ValueError, match="no PyTorch storage for complex64"):
        write_state_dict(tmp_path / "a.pt", {"x": np.zeros(2, np.complex64)})
