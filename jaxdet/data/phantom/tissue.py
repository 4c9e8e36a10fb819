"""What is each tissue worth in Hounsfield units, in the portal phase at 120 kV?

Means and between-patient deviations are those of the project's fact sheet on abdominal CT, section
2. Where it gives a study it is named; "estimate" marks a value for which the sheet found none.
"""

import numpy as np

ENHANCEMENT_SHARE = 0.6  # of the deviation that a patient's vessels and organs have in common

# tissue: (mean HU, SD between patients, source). The order numbers the tissues in a label map.
PORTAL_HU: dict[str, tuple[float, float, str]] = {
    "air": (-1000.0, 0.0, "definition of HU"),
    "fat": (-102.0, 6.0, "estimate; muscle and fat bands -29..150, -190..-30 (TomoVision)"),
    "skin": (20.0, 5.0, "estimate"),
    "muscle": (55.0, 9.0, "measured 26 in two old patients, 62 +- 7 usual: mean 50-60"),
    "visceral_fat": (-96.0, 7.0, "estimate; VAT band -150..-50"),
    "lung": (-850.0, 40.0, "estimate for the lung base"),
    "heart": (150.0, 20.0, "estimate, as the blood pool"),
    "bone": (420.0, 70.0, "cortical 800 and trabecular 150, mixed in a pixel of 1-2 mm"),
    "marrow": (175.0, 45.0, "trabecular 150 +- 50, with contrast +12 %"),
    "canal": (30.0, 5.0, "estimate"),
    "bowel": (70.0, 15.0, "wall 60-110"),
    "fluid": (12.0, 10.0, "bowel fluid and oral water 10 +- 12"),
    "gas": (-930.0, 25.0, "-950 +- 40"),
    "pancreas": (96.0, 15.0, "PMC, 370 mgI/ml; portal column"),
    "kidney": (185.0, 25.0, "cortex 185 +- 30, estimate"),
    "medulla": (145.0, 22.0, "140 +- 28, estimate"),
    "spleen": (122.0, 14.0, "122 +- 16"),
    "liver": (
        98.0,
        14.0,
        "116 normal, 101 cirrhotic; measured 101 +- 21 in MSD Task03",
    ),
    "portal_vein": (176.0, 20.0, "176 +- 22"),
    "hepatic_vein": (158.0, 22.0, "160 +- 25"),
    "bile": (8.0, 6.0, "8 +- 7; 3 +- 11 measured"),
    "aorta": (165.0, 20.0, "165 +- 22"),
    "cava": (140.0, 20.0, "140 +- 22"),
    "cyst": (8.0, 5.0, "8 +- 7"),
    "tumour": (62.0, 16.0, "liver -36 +- 16 for 85 % of small tumours, the rest nearly iso"),
}
NUMBER = {tissue: number for number, tissue in enumerate(PORTAL_HU)}
ENHANCING = (
    "heart",
    "pancreas",
    "kidney",
    "medulla",
    "spleen",
    "liver",
    "portal_vein",
    "hepatic_vein",
    "aorta",
    "cava",
)
LIVER_RANGE_HU = (70.0, 122.0)


def draw(rng: np.random.Generator) -> dict[str, float]:
    """One patient's HU of each tissue. Enhancing tissues rise and fall together (r = 0.6)."""
    together, found = rng.normal(), {}
    for tissue, (mean, deviation, _) in PORTAL_HU.items():
        share = ENHANCEMENT_SHARE if tissue in ENHANCING else 0.0
        own = float(np.clip(rng.normal(), -2.5, 2.5))
        found[tissue] = mean + deviation * (share**0.5 * together + (1 - share) ** 0.5 * own)
    found["liver"] = float(np.clip(found["liver"], *LIVER_RANGE_HU))
    return found
