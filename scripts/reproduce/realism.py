"""Does the phantom measure as abdominal CT does? Fifteen items with bands, and two pictures.

    python scripts/reproduce/realism.py [--quick] [--seed 0] [--items 3 4] [--no-pictures]

Prints the table; writes results/realism.json and results/realism.md beside this file, and
docs/phantom.png and docs/phantom_real.png. Real slices are measured by the same functions where the
environment variable JAXDET_SHARED names the folder that has them. --quick takes few patients and
writes nothing but where --out says.
"""

import argparse
import datetime
import importlib.metadata
import math
import os
import pathlib

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
PATIENTS = {  # full, quick
    "sltd": (208, 24),
    "multiphase": (280, 16),
    "pixels": (48, 8),
    "phases": (16, 4),
    "noise": (48, 8),
    "bodies": (60, 8),
    "probe": (64, 12),
    "motion": (48, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--items", type=int, nargs="*", default=list(range(1, 16)))
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, help="folder for realism.json and realism.md")
    chosen = parser.parse_args()
    import realism_items as items

    shared = os.environ.get("JAXDET_SHARED")
    shared = pathlib.Path(shared) if shared else None
    if shared is None:
        print("JAXDET_SHARED is not set: no real slices are measured, and no pictures drawn")
    rows, spectra = measure(chosen, items, real_values(shared, items) if shared else {})
    print(table(rows))
    out = chosen.out or (None if chosen.quick else HERE / "results")
    if out is not None:
        write(out, chosen, rows)
    if shared and not chosen.no_pictures and 15 in chosen.items:
        import realism_pictures as pictures

        folder = ROOT / "docs" if not chosen.quick else (out or pathlib.Path("."))
        pictures.sheet(folder / "phantom.png", chosen.seed, shared, spectra)
        pictures.beside(folder / "phantom_real.png", chosen.seed, shared)


def measure(chosen: argparse.Namespace, items, real: dict) -> tuple[list, dict]:
    """The rows of the items that are asked for; each group of patients is measured once."""
    import realism_samples as samples

    wanted = set(chosen.items)
    quick = int(chosen.quick)

    def group(function, kind: str, *users: int) -> list:
        if not wanted & set(users):
            return []
        numbers = range(PATIENTS[kind][quick])
        return samples.over(function, numbers, chosen.seed, function.__name__, chosen.workers)

    one = group(samples.sltd_geometry, "sltd", 6, 7, 8, 9, 10)
    four = group(samples.multiphase_geometry, "multiphase", 2, 6, 8, 9, 10)
    pixels = group(samples.sltd_pixels, "pixels", 1, 3, 4, 5, 8, 15)
    organs = group(samples.multiphase_organs, "phases", 2)
    four_noise = group(samples.multiphase_noise, "noise", 3, 4, 5, 15)
    bodies = group(samples.body_geometry, "bodies", 11, 12)
    trees = group(samples.vessel_facts, "bodies", 11)
    probe = group(samples.slice_statistics, "probe", 14)
    ladder = HERE / "results" / "table2.json"
    make = {
        1: lambda: items.item_1(pixels, real),
        2: lambda: items.item_2(four, organs),
        3: lambda: items.item_3(pixels, four_noise, real),
        4: lambda: items.item_4(pixels, four_noise, real),
        5: lambda: items.item_5(pixels, four_noise, real),
        6: lambda: items.item_6(one, four),
        7: lambda: items.item_7(one),
        8: lambda: items.item_8(one, pixels, four),
        9: lambda: items.item_9(one, four),
        10: lambda: items.item_10(one, four),
        11: lambda: items.item_11(trees, bodies),
        12: lambda: items.item_12(bodies, real),
        13: lambda: items.item_13(chosen.seed, PATIENTS["motion"][quick], ladder),
        14: lambda: items.item_14([row for rows in probe for row in rows]),
    }
    rows = [row for item in sorted(wanted & set(make)) for row in make[item]()]
    spectra = {}
    if pixels and four_noise:
        spectra["set 1"] = items.noise([row["noise"] for row in pixels]).nps
        spectra["set 2"] = items.noise([row["noise"] for row in four_noise]).nps
    if "noise" in real:
        spectra["real (C20)"] = real["noise"].nps
    return rows, spectra


def real_values(shared: pathlib.Path, items) -> dict:
    """The same measures of the real slices."""
    import numpy as np
    import realism_measures as measures
    import realism_real as real
    import realism_samples as samples

    c20 = real.series(shared)
    pixel, found = c20.pixel_mm, []
    for z in range(len(c20.hu) - 3):
        mask = measures.eroded(c20.labels[z] == real.LIVER, 4, pixel)
        found.append(samples.noise_of(c20.hu[z], list(c20.hu[z + 1 : z + 4]), mask, pixel))
    every = range(0, len(c20.hu), 3)
    livers: dict[str, list] = {}
    for patient, hu, liver in real.portal_slices(shared):
        livers.setdefault(patient, []).append(hu[measures.eroded(liver, 2, 1.0)])
    pooled = [np.concatenate(values) for values in livers.values()]
    pooled = [values for values in pooled if len(values) > 500]
    inside = [measures.body(c20.hu[z]) for z in every]
    return {
        "noise": items.noise(found),
        "rim": float(np.nanmedian([measures.rim_over_middle(c20.hu[z], pixel) for z in every])),
        "liver_fat": [
            sigma
            for z in every
            for sigma in measures.liver_fat(c20.hu[z], c20.labels[z] == real.LIVER, pixel)
        ],
        "skin_air": [s for z in every for s in measures.skin_air(c20.hu[z], pixel)],
        "t03_medians": [float(np.median(values)) for values in pooled],
        "t03_white": float(np.mean([(values >= samples.WHITE_HU).mean() for values in pooled])),
        "liver_cm2": float(
            np.median([(c20.labels[z] == real.LIVER).sum() * pixel**2 / 100 for z in every])
        ),
        "aorta_mm": measures.equivalent_mm(
            float(np.median([(c20.labels[z] == real.AORTA).sum() for z in every])), pixel
        ),
        "ap_over_lr": float(np.median([b.any(1).sum() / b.any(0).sum() for b in inside])),
        "lr_mm": float(np.median([b.any(0).sum() * pixel for b in inside])),
    }


def table(rows: list) -> str:
    """The rows as Markdown."""
    lines = ["| item | what | phantom | band | inside | real |", "|---|---|---|---|---|---|"]
    for row in rows:
        verdict = {True: "yes", False: "**no**", None: ""}[row.inside]
        lines.append(
            f"| {row.item} | {row.what} | {_number(row.value) or 'not measured'} | {_band(row)} | "
            f"{verdict} | {_number(row.real)} |"
        )
    judged = [row for row in rows if row.inside is not None]
    inside = sum(row.inside for row in judged)
    return "\n".join([*lines, "", f"{inside} of {len(judged)} rows lie inside of their band."])


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _band(row) -> str:
    if math.isinf(row.low) and math.isinf(row.high):
        return ""
    if math.isinf(row.high):
        return f"at least {row.low:g}"
    return f"{row.low:g} to {row.high:g}"


def write(out: pathlib.Path, chosen: argparse.Namespace, rows: list) -> None:
    from jaxdet import run as runs

    def plain(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    content = {
        "date": datetime.date.today().isoformat(),
        "device": runs.device_name(),
        "versions": runs.versions() | {"scipy": importlib.metadata.version("scipy")},
        "seed": chosen.seed,
        "patients": {name: sizes[int(chosen.quick)] for name, sizes in PATIENTS.items()},
        "rows": [
            {
                "item": row.item,
                "what": row.what,
                "value": plain(row.value),
                "band": [plain(row.low), plain(row.high)],
                "inside": row.inside,
                "real": plain(row.real),
            }
            for row in rows
        ],
    }
    runs.write_json(out / "realism.json", content)
    note = HERE / "results" / "realism_look.md"
    look = note.read_text() if note.exists() else ""
    told = ", ".join(f"{name} {count}" for name, count in content["patients"].items())
    head = f"# Realism of the phantom\n\nSeed {chosen.seed}; {__doc__.splitlines()[0]}\n"
    head += f"\nPatients measured{' (--quick)' if chosen.quick else ''}: {told}.\n"
    if chosen.quick:
        head += (
            "\nSo few miss bands on numbers, shares and extremes (items 6 and 7) by their number.\n"
        )
    (out / "realism.md").write_text(f"{head}\n{table(rows)}\n\n{look}")


if __name__ == "__main__":
    main()
