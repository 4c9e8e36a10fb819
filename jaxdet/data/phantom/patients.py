"""One patient: outlines, HU, vessels, scanner, breathing and lesions, from (set, seed, number)."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from jaxdet.data.phantom import (
    anatomy,
    demo,
    distractors,
    motion,
    multiphase,
    scanner,
    sltd,
    tissue,
    vessels,
)
from jaxdet.data.phantom.lesions import Lesion
from jaxdet.data.phantom.sets import Set


@dataclasses.dataclass(frozen=True)
class Patient:
    """All that is drawn once a patient. Lengths are in mm in the frame of the body."""

    set: Set
    seed: int
    number: int
    body: anatomy.Body
    hu: dict[str, dict[str, float]]  # by phase and tissue
    trees: dict[str, Float[np.ndarray, "S 7"]]  # vessels by name
    lesions: tuple[Lesion, ...]
    benign: tuple[tuple[str, Lesion], ...]  # what looks like a tumour and is none, by tissue
    sleeve_mm: float  # of the dark sleeve beside portal branches in the portal phase
    scanner: scanner.Scanner
    shift_mm: Float[np.ndarray, "2"]  # x, y of the body on the table
    motions: dict[str, motion.Motion]  # by phase; the portal phase does not move
    slices: tuple[int, ...]  # the annotated ones, rising
    annotated: str  # the phase on which the lesions are drawn

    @property
    def name(self) -> str:
        """What messages call the patient; tells nothing about a real one."""
        return f"phantom patient {self.number}"


PLANS = {"sltd": sltd.plan, "multiphase": multiphase.plan, "demo": demo.plan}


@functools.lru_cache(maxsize=64)
def patient(which: Set, seed: int, number: int) -> Patient:
    """Patient `number` of the phantom `which` with `seed`: the same one in any process or order."""
    rng = [np.random.default_rng([seed, number, stream]) for stream in range(6)]
    kind = "multiphase" if which.kind == "multiphase" else "sltd"
    cirrhosis = tissue.cirrhosis(rng[0], kind)
    body, hu = anatomy.draw(rng[0], cirrhosis), tissue.draw(rng[1], kind, cirrhosis)
    planned = PLANS[which.kind](rng[2], which, seed, number, body, hu)
    avoid = [(lesion.centre, lesion.radius_mm) for lesion in planned.lesions]
    return Patient(
        set=which,
        seed=seed,
        number=number,
        body=body,
        hu=hu,
        trees=vessels.draw(rng[3], body, cirrhosis),
        lesions=planned.lesions,
        benign=tuple(
            (found.tissue, distractors.as_lesion(found, hu))
            for found in distractors.draw(rng[4], body, kind, avoid)
        ),
        sleeve_mm=distractors.sleeve_mm(rng[4], body),
        # The demo's slices are thick, so their noise is that of thick slices.
        scanner=scanner.draw(
            rng[5], "sltd" if which.kind == "sltd" else "multiphase", body.lr_mm, which
        ),
        shift_mm=rng[5].normal(0, 6.0, 2).clip(-12, 12),
        motions=motion.draw(np.random.default_rng([seed, number, 6]))
        if len(which.phases) > 1
        else {},
        slices=planned.slices,
        annotated=planned.annotated,
    )
