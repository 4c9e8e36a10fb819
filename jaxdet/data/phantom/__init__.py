"""The built-in CT: made-up patients with liver tumours in one or four phases, no download needed.

sets        which phantoms there are;  cases  all annotated slices of a patient
on_demand   the demo's slices, made when they are read;  implant  the lesions in a real CT
render      one slice of one patient in one phase: HU, tissue map, liver and tumour masks
patients    what is drawn once a patient: anatomy, vessels, distractors, tissue and contrast,
            scanner, motion, and by kind of set (sltd, multiphase, demo) lesions, place
"""

from jaxdet.data.phantom.cases import cases
from jaxdet.data.phantom.on_demand import records
from jaxdet.data.phantom.sets import SETS, Set

__all__ = ["SETS", "Set", "cases", "records"]
