"""Is a picture there twice? The same pixels, the same patient, or pictures that look alike.

A patient in two splits makes a score worthless, and patients come twice under two names. Each
picture gets two short texts: one that is equal only for equal pixels, and one of 256 bits of which
few differ where two pictures look alike.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Shaped

# Measured on 614 real liver slices of 59 patients: of 256 bits, noise, JPEG, halved size or a tenth
# more brightness change at most 5 (95th percentile), a shift by one pixel 12; two patients differ
# in at least 30. (With the usual 64 bits, slices of different patients are often equal.)
NEAR_BITS = 12
_SIDE = 16
_SHOWN_HU = (-160.0, 240.0)  # what is compared: liver against fat, not bone against air
_STEP_HU = 6.0  # less is noise


def exact(pixels: Shaped[np.ndarray, "H W C"]) -> str:
    """32 hexadecimal digits that are equal where shape, type and every pixel are."""
    digest = hashlib.blake2b(f"{pixels.dtype.str}{pixels.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()


def near(pixels: Shaped[np.ndarray, "H W C"]) -> str:
    """64 hexadecimal digits (256 bits) of which few differ where two pictures look alike.

    The middle channel, made 16 x 17 by area; a bit says whether a cell is brighter than the next
    one to the right (difference hash). HU are cut to soft tissue first. A flat picture is all
    zeros.
    """
    import cv2

    middle = pixels[..., pixels.shape[2] // 2].astype(np.float32).clip(*_SHOWN_HU)
    small = cv2.resize(middle, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, :-1] - small[:, 1:] > _STEP_HU).tobytes().hex()


def in_two_splits(
    patients: dict[str, Sequence[str]], same_pixels: dict[str, Sequence[str]] | None = None
) -> list[str]:
    """What lies in two splits, a sentence each: patients by name, then pictures by `exact`.

    Both arguments list, by split, one text a picture. Names that differ in capitals or in spaces
    at their ends are one patient. Nothing is found in fewer than two splits.
    """
    found = [
        f"patient {names[0]} ({' and '.join(splits)})"
        for names, splits in _shared(patients, lambda name: name.strip().casefold())
    ]
    for digests, splits in _shared(same_pixels or {}, str):
        owners = {
            patient
            for split in splits
            for patient, digest in zip(patients[split], same_pixels[split], strict=True)
            if digest == digests[0]
        }
        found.append(
            f"the same pixels under {' and '.join(sorted(owners))} ({' and '.join(splits)})"
        )
    return found


def warn_of_alike(
    near_pixels: Sequence[str], patients: Sequence[str], names: Sequence[str]
) -> list[tuple[int, int]]:
    """The pairs of pictures of different patients that look alike, and a warning that names some.

    At most NEAR_BITS of `near` differ. Flat pictures, which all look alike, are left out.
    """
    pairs = [
        (i, j)
        for i, j in _alike(near_pixels)
        if patients[i].strip().casefold() != patients[j].strip().casefold()
    ]
    if pairs:
        some = "; ".join(f"{names[i]} and {names[j]}" for i, j in pairs[:5])
        warnings.warn(
            f"{len(pairs)} pairs of pictures look alike and belong to different patients: {some}:"
            " is it one patient under two names?",
            stacklevel=2,
        )
    return pairs


def _alike(near_pixels: Sequence[str]) -> list[tuple[int, int]]:
    words = [np.frombuffer(bytes.fromhex(text), np.uint64) for text in near_pixels]
    bits = np.array(words, np.uint64).reshape(-1, _SIDE * _SIDE // 64)
    shown = bits.any(axis=1)
    pairs = []
    for i in np.flatnonzero(shown):
        apart = np.bitwise_count(bits[i + 1 :] ^ bits[i]).sum(axis=1)
        alike = np.flatnonzero((apart <= NEAR_BITS) & shown[i + 1 :])
        pairs += [(int(i), int(i + 1 + k)) for k in alike]
    return pairs


def _shared(
    lists: dict[str, Sequence[str]], key: Callable[[str], str]
) -> list[tuple[list[str], list[str]]]:
    """Texts that are equal by `key` in two lists: as they are spelt, and the lists' names."""
    seen: dict[str, dict[str, str]] = {}
    for split, texts in lists.items():
        for text in texts:
            seen.setdefault(key(text), {}).setdefault(split, text)
    return [
        (sorted(set(there.values())), sorted(there))
        for _, there in sorted(seen.items())
        if len(there) > 1
    ]
