"""Reads a pickle as data: nothing is imported, looked up or called, whatever the file asks for.

A pickle is a program for a small stack machine, with instructions that import any function and call
it. This machine knows the same instructions, but a global is only its name, a call only a record of
what was asked (`Stub`), and an object's state only a dict beside it. The few names that dense
tensors are written with are understood (`KNOWN`). Python's own unpickler is not used, so there is
no hook to get around.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

MAX_STEPS = 4_000_000  # instructions; a whole YOLOv8x with its optimizer takes some 200 thousand


class Global(NamedTuple):
    """A name that the file wanted to import, "module.attribute"."""

    name: str


class Storage(NamedTuple):
    """A flat run of numbers kept beside the pickle."""

    kind: str  # "torch.FloatStorage"
    key: str  # its file in the archive
    numel: int


class Tensor(NamedTuple):
    """A view of a storage; offset and stride count elements. Nothing is checked yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Stub:
    """Stands for any object that is not understood: its maker's name and what it was given."""

    name: str
    args: Any = ()
    state: dict[Any, Any] = dataclasses.field(default_factory=dict)
    items: dict[Any, Any] = dataclasses.field(default_factory=dict)
    values: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Machine:
    stack: list[Any] = dataclasses.field(default_factory=list)
    marks: list[int] = dataclasses.field(default_factory=list)
    memo: dict[int, Any] = dataclasses.field(default_factory=dict)
    storages: dict[str, Storage] = dataclasses.field(default_factory=dict)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("the pickle takes more than it put down")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        values, self.stack[start:] = self.stack[start:], []
        return values


def load(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The next pickle of the stream as plain data, and the storages that it names.

    Numbers, strings, lists, tuples and dicts are themselves, sets are lists, tensors are `Tensor`,
    all else is a `Stub`. Dict items whose key is no string, number or None are left out. Malformed
    bytes raise one of `read.FAULTS`.
    """
    machine = _Machine()
    for step, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if step > MAX_STEPS:
            raise ValueError(f"the pickle has more than {MAX_STEPS} instructions")
        if opcode.name == "STOP":
            return machine.pop(), machine.storages
        if opcode.name not in OPCODES:
            raise ValueError(f"the pickle uses {opcode.name}, which no file of tensors needs")
        OPCODES[opcode.name](machine, arg)
    raise ValueError("the pickle has no end")


def _tensor(*args: Any) -> Any:
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage) or (len(args) > 6 and args[6]):
        # The seventh says that the numbers are to be negated or conjugated first.
        return Stub("torch tensor without a plain storage", args)
    return Tensor(storage, offset, size, stride)


def _ordered_dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    return _set_items({}, [part for pair in pairs for part in pair])


KNOWN: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    "torch._tensor._rebuild_from_type_v2": lambda maker, cls, args, state: _reduce(maker, args),
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "builtins.set": lambda values=(): list(values),
    "__builtin__.set": lambda values=(): list(values),  # how protocol 2 spells it
}


def _reduce(maker: Any, args: Any) -> Any:
    """What `maker(*args)` would have been: one of the few known things, or a record of the wish."""
    name = maker.name if isinstance(maker, Global | Stub) else type(maker).__name__
    if isinstance(maker, Global) and name in KNOWN:
        return KNOWN[name](*args)
    return Stub(name, args)


def _build(machine: _Machine, arg: Any) -> None:
    """State is kept beside a Stub and forgotten elsewhere; no attribute of anything is set."""
    state, target = machine.pop(), machine.stack[-1]
    parts = state if isinstance(state, tuple) else (state,)
    if isinstance(target, Stub):
        for part in parts:
            target.state.update(part if isinstance(part, dict) else {})


def _set_items(target: Any, flat: list[Any]) -> Any:
    into = target.items if isinstance(target, Stub) else target
    if not isinstance(into, dict):
        raise ValueError(f"the pickle puts items into a {type(target).__name__}")
    # Only plain keys: hashing a tuple of tuples of tuples ... would overflow the C stack.
    plain = (str, int, float, bytes, type(None))
    pairs = zip(flat[::2], flat[1::2], strict=True)
    into.update({key: value for key, value in pairs if isinstance(key, plain)})
    return target


def _append(target: Any, values: list[Any]) -> None:
    into = target.values if isinstance(target, Stub) else target
    if not isinstance(into, list):
        raise ValueError(f"the pickle appends to a {type(target).__name__}")
    into.extend(values)


def _persistent(machine: _Machine, arg: Any) -> None:
    """A reference to something beside the pickle: a storage, or a class with its source."""
    match machine.pop():
        case ("storage", Global(kind), str(key), _, int(numel), *view) if not any(view):
            machine.storages[key] = Storage(kind, key, numel)
            machine.stack.append(machine.storages[key])
        case ("module", Global() as cls, *_):  # before PyTorch 1.6
            machine.stack.append(cls)
        case _:
            raise ValueError("the pickle refers to something outside that is no plain storage")


def _stack_global(module: Any, name: Any) -> Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("the pickle names a global by something that is no text")
    return Global(f"{module}.{name}")


def _push(machine: _Machine, arg: Any) -> None:
    machine.stack.append(arg)


def _put(machine: _Machine, arg: Any) -> None:
    machine.memo[len(machine.memo) if arg is None else arg] = machine.stack[-1]


def _get(machine: _Machine, arg: Any) -> None:
    if arg not in machine.memo:
        raise ValueError(f"the pickle asks for note {arg}, which it never made")
    machine.stack.append(machine.memo[arg])


def _pop(machine: _Machine, arg: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _take(count: int, then: Callable[..., Any]) -> Callable[[_Machine, Any], None]:
    """Replaces the `count` topmost values by `then` of them."""

    def step(machine: _Machine, arg: Any) -> None:
        values = [machine.pop() for _ in range(count)][::-1]
        machine.stack.append(then(*values))

    return step


def _gather(then: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    """Replaces all values since the mark by `then` of them."""
    return lambda machine, arg: machine.stack.append(then(machine.pop_mark()))


def _onto(
    then: Callable[[Any, list[Any]], Any], count: int | None
) -> Callable[[_Machine, Any], None]:
    """Gives the last `count` values, or all since the mark, to the container below them."""

    def step(machine: _Machine, arg: Any) -> None:
        values = [machine.pop() for _ in range(count)][::-1] if count else machine.pop_mark()
        then(machine.stack[-1], values)

    return step


def _ignore(machine: _Machine, arg: Any) -> None:
    pass


_VALUES = """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING
SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
BYTEARRAY8"""

OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES.split(), _push),
    **dict.fromkeys(("PROTO", "FRAME"), _ignore),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "NONE": lambda machine, arg: _push(machine, None),
    "NEWTRUE": lambda machine, arg: _push(machine, True),
    "NEWFALSE": lambda machine, arg: _push(machine, False),
    "MARK": lambda machine, arg: machine.marks.append(len(machine.stack)),
    "POP": _pop,
    "POP_MARK": lambda machine, arg: machine.pop_mark(),
    "DUP": lambda machine, arg: _push(machine, machine.stack[-1]),
    "EMPTY_TUPLE": lambda machine, arg: _push(machine, ()),
    "EMPTY_LIST": lambda machine, arg: _push(machine, []),
    "EMPTY_DICT": lambda machine, arg: _push(machine, {}),
    "EMPTY_SET": lambda machine, arg: _push(machine, []),
    "TUPLE1": _take(1, lambda *values: values),
    "TUPLE2": _take(2, lambda *values: values),
    "TUPLE3": _take(3, lambda *values: values),
    "TUPLE": _gather(tuple),
    "LIST": _gather(list),
    "FROZENSET": _gather(list),
    "DICT": _gather(lambda flat: _set_items({}, flat)),
    "APPEND": _onto(_append, 1),
    "APPENDS": _onto(_append, None),
    "ADDITEMS": _onto(_append, None),
    "SETITEM": _onto(_set_items, 2),
    "SETITEMS": _onto(_set_items, None),
    "GLOBAL": lambda machine, arg: _push(machine, Global(arg.replace(" ", ".", 1))),
    "STACK_GLOBAL": _take(2, _stack_global),
    "INST": lambda machine, arg: _push(
        machine, _reduce(Global(arg.replace(" ", ".", 1)), machine.pop_mark())
    ),
    "OBJ": _gather(lambda parts: _reduce(parts[0], parts[1:])),
    "REDUCE": _take(2, _reduce),
    "NEWOBJ": _take(2, _reduce),
    "NEWOBJ_EX": _take(3, lambda cls, args, kwargs: _reduce(cls, args)),
    "BUILD": _build,
    "BINPERSID": _persistent,
}
