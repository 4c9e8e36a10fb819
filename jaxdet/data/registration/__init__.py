"""Aligning the phases of a CT slice by slice, in the plane, to the portal phase.

transform  where each point of the portal slice lies on another phase; warps images and masks
pair       `register(fixed, moving, method)`: two slices -> Transform
sitk, elastix   the two backends of it
portal     `to_portal(case, method)`: a CtSlice -> the CtSlice with its phases aligned
sets       `register_all`: a whole set over processes, which can be interrupted
dice       how well do the livers of two phases cover each other?
"""

from jaxdet.data.registration.pair import BACKENDS, METHODS, register
from jaxdet.data.registration.transform import Transform

__all__ = ["BACKENDS", "METHODS", "Transform", "register"]
