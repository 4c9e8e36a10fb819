"""The part of YAML that a data.yaml uses: words, and lists and dicts of words, in both notations.

PyYAML is no dependency. A wanted key whose value is written in another way is a ValueError with its
line; keys that nobody asks for are passed over, whatever they hold.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence

from jaxdet.data.formats import read_text

Value = str | list[str] | dict[str, str]

_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\""
# A quote after a letter is an apostrophe.
_SIGNS = rf"(?<!\w)(?:{_QUOTED})|(?<=\w)['\"]"
_COMMENT = re.compile(rf"(?:{_SIGNS}|(?<=\S)#|[^#'\"])*")
_KEY = re.compile(rf"({_QUOTED}|[^\s'\"#\-\[{{][^:#]*?)\s*:(?:\s+(.*)|$)")
_ITEM = re.compile(r"-\s+(.*)")
_PIECE = re.compile(rf"\s*((?:{_SIGNS}|[^,'\"])*)\s*(?:,|$)")


def read(path: pathlib.Path, wanted: Sequence[str]) -> dict[str, Value]:
    """The values of those wanted keys that the file has, as words, lists or dicts of words."""
    lines = [_bare(line) for line in read_text(path).split("\n")]
    found: dict[str, Value] = {}
    for i, line in enumerate(lines):
        key = _KEY.fullmatch(line)
        if not key or _word(key[1]) not in wanted:
            continue
        below = i + 1
        while below < len(lines) and (not lines[below] or lines[below][0] in " \t-]}"):
            below += 1
        try:
            found[_word(key[1])] = _value(key[2] or "", [x for x in lines[i + 1 : below] if x])
        except ValueError as error:
            raise ValueError(f"{path}:{i + 1}: {line!r} is not read: {error}") from None
    return found


def write(path: pathlib.Path, values: Mapping[str, str | int], names: Sequence[str]) -> None:
    """Write values and the class names (as a dict by number), for `read` and for YAML at large."""
    # JSON strings are YAML strings, whatever signs they hold.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    lines += ["names:"]
    lines += [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(names)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _bare(line: str) -> str:
    match = _COMMENT.match(line)
    return (match[0] if match else line).rstrip()


def _value(text: str, below: list[str]) -> Value:
    if text[:1] in ("[", "{"):
        return _flow(" ".join([text, *map(str.strip, below)]))
    if text:
        if below and text[0] not in "|>":
            raise ValueError("a word that goes on in the next line")
        return _word(text)
    block = [line.strip() for line in below]
    items = [_ITEM.fullmatch(line) for line in block]
    if all(items):
        return [_word(item[1]) for item in items if item]
    return _pairs(block)


def _flow(text: str) -> Value:
    if text[-1] != {"[": "]", "{": "}"}[text[0]]:
        raise ValueError(f"{text[0]} is not closed")
    pieces, at, inner = [], 0, text[1:-1].strip().rstrip(",")
    while at < len(inner):
        piece = _PIECE.match(inner, at)
        if not piece or piece.end() == at:
            raise ValueError(f"odd quotes in {inner!r}")
        pieces.append(piece[1].strip())
        at = piece.end()
    return [_word(piece) for piece in pieces] if text[0] == "[" else _pairs(pieces)


def _pairs(lines: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in lines:
        key = _KEY.fullmatch(line)
        if not key or _word(key[1]) in pairs:
            raise ValueError(f"{line!r} is no new `key: word`")
        pairs[_word(key[1])] = _word(key[2] or "")
    return pairs


def _word(text: str) -> str:
    text = text.strip()
    if text[:1] == '"':
        try:
            return str(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"{text} is no quoted word: {error.msg}") from None
    if text[:1] == "'":
        if not re.fullmatch(_QUOTED, text):
            raise ValueError(f"{text} is no quoted word")
        return text[1:-1].replace("''", "'")
    if text[:1] in tuple("[{&*!|>") and text:
        raise ValueError(f"{text!r} is nested, or not of the subset")
    return text
