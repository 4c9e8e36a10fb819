"""The built-in CT: portal-phase slices of made-up patients with liver tumours, no download needed.

slices     which slices are shown, their truth, and the function that makes their pixels
render     one slice of one patient: HU, tissue map, tumour masks
patients   what is drawn once a patient, from anatomy, vessels, lesions and tissue
scanner    blur and noise
"""

from jaxdet.data.phantom.slices import records

__all__ = ["records"]
