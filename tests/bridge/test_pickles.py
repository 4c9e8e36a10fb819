"""A malicious pickle changes nothing: the payloads do harm under Python's own unpickler."""

import copyreg
import io
import os
import pickle
import sys

import fake_torch
import numpy as np
import pytest

from jaxdet.bridge import pickles
from jaxdet.bridge.read import read_state_dict


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Items(dict):
    """Puts its items through a container's own methods."""

    def __reduce__(self):
        return os.mkdir, (self["path"],), None, None, iter(self.items())


def text(value):
    return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()


def raw_payloads(canary):
    path = text(str(canary))
    name = os.mkdir.__module__
    evaluated = text(f"__import__('os').mkdir({str(canary)!r})")
    chain = b"cbuiltins\ngetattr\n(" + b"cbuiltins\n__import__\n(" + text("os") + b"tR"
    return {
        "inst": b"(" + path + f"i{name}\nmkdir\n.".encode(),
        "obj": b"(" + f"c{name}\nmkdir\n".encode() + path + b"o.",
        "eval": b"cbuiltins\neval\n(" + evaluated + b"tR.",
        "getattr chain": chain + text("mkdir") + b"tR(" + path + b"tR.",
        "stack global": b"\x80\x04" + text(name) + text("mkdir") + b"\x93(" + path + b"tR.",
    }


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.mark.parametrize("payload", raw_payloads("x"))
def test_no_instruction_calls_anything(canary, payload):
    data = raw_payloads(canary)[payload]
    pickles.load(io.BytesIO(data))
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # the payload is real


@pytest.mark.parametrize("protocol", range(6))
def test_objects_with_a_reduce_of_their_own_stay_data(canary, protocol):
    for harm in (Harm(canary), [Harm(canary)], {"a": (Harm(canary),)}, Items(path=str(canary))):
        value, _ = pickles.load(io.BytesIO(pickle.dumps(harm, protocol)))
        assert value is not None
        assert not canary.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_with_harm_in_it_gives_its_tensors(tmp_path, canary, monkeypatch, legacy):
    fake_torch.install(monkeypatch)
    weight = np.ones((2, 2), np.float32)
    net = fake_torch.module({"w": fake_torch.tensor(weight)})
    net.harm, path = Harm(canary), tmp_path / "a.pt"
    value = {"model": net, "optimizer": Harm(canary)}
    fake_torch.save_legacy(path, value) if legacy else fake_torch.save(path, value)
    np.testing.assert_array_equal(read_state_dict(path)["w"], weight)
    assert not canary.exists()


def test_state_is_never_set_on_anything_that_exists(monkeypatch):
    known, getcwd = dict(pickles.KNOWN), os.getcwd
    state = b"}(" + text("getcwd") + text("gone") + text("__defaults__") + b")u"
    for name in (
        b"os\ngetcwd\n",
        b"torch._utils\n_rebuild_tensor_v2\n",
        b"collections\nOrderedDict\n",
    ):
        pickles.load(io.BytesIO(b"c" + name + b"N" + state + b"\x86b."))
        pickles.load(io.BytesIO(b"c" + name + state + b"b."))
    assert known == pickles.KNOWN
    assert os.getcwd is getcwd
    assert pickles._tensor.__defaults__ is None


def test_no_module_is_imported():
    assert "antigravity" not in sys.modules
    value, _ = pickles.load(io.BytesIO(b"cantigravity\nfly\n."))
    assert value.name == "antigravity.fly"
    assert "antigravity" not in sys.modules


def test_registered_extensions_are_refused():
    copyreg.add_extension("os", "getcwd", 240)
    try:
        with pytest.raises(ValueError, match="EXT1"):
            pickles.load(io.BytesIO(b"\x80\x02\x82\xf0."))
    finally:
        copyreg.remove_extension("os", "getcwd", 240)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b".", "more than it put down"),
        (b"(1.", "more than it put down"),
        (b"]", "no end|exhausted"),
        (b"h\x05.", "note 5"),
        (b"K\x01](K\x02K\x03u.", "items into a list"),
        (b"}(K\x02e.", "appends to a dict"),
        (b"\x80\x04]]\x93.", "no text"),
        (b"K\x01Q.", "no plain storage"),
    ],
)
def test_malformed_programs_are_refused(data, fault):
    with pytest.raises(ValueError, match=fault):
        pickles.load(io.BytesIO(data))


def test_deep_and_shared_structures_do_not_overflow():
    deep = b"N" + b"\x85" * 50_000 + b"\x85."
    value, _ = pickles.load(io.BytesIO(deep))
    assert isinstance(value, tuple)
    as_key = b"}" + b"N" + b"\x85" * 50_000 + b"Ns."
    assert pickles.load(io.BytesIO(as_key))[0] == {}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_themselves(protocol):
    value = {"a": [1, -2.5, None, True, b"raw", 2**70], "b": ((), (1,), (1, 2, 3, 4)), "c": "ü"}
    value["d"] = value["a"]
    data = pickle.dumps(value, protocol)
    if protocol < 3:  # bytes are a call of a codec there, so not understood
        value["a"].pop(4)
        data = pickle.dumps(value, protocol)
    assert pickles.load(io.BytesIO(data))[0] == value
