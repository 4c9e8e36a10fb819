"""Which phase of the contrast does a name speak of, and does it speak of a mask?

File names, folders and series descriptions of many hospitals and languages, by tables of words.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

# A word counts where no letter touches it. Of several matches the longest decides, so that "late
# arterial" is arterial and "delayed venous" delayed.
WORDS: dict[str, tuple[str, ...]] = {
    "precontrast": (
        *("nc", "ncct", "nce?ct", "nect", "non ?con(trast)?", "non ?enhanced", "un ?enhanced"),
        *("pre", "pre ?con(trast)?", "plain", "native?", "nativ", "nativo", "nativa", "natif"),
        *("without( iv)?( contrast)?", "w ?o( iv)?( contrast)?", "blank", "basale?", "leer"),
        *("sans (injection|contraste|iv|pc)", "senza (mdc|contrasto)", "s[ie][nm] contraste"),
        *("ohne (km|kontrastmittel)", "平扫", "単純", "비조영", "조영전"),
    ),
    "arterial": (
        *("a", "art", "arteria?l", "arteriell?e?", "arterieel", "arteriale", "arteriosa", "ap"),
        *("(early|late|late hepatic|hepatic) art(eria?l)?( phase)?", "e?hap", "eap", "lap"),
        *("(spät|früh) ?arteriell?e?", "art[eé]riel(le)?", "[2-4][05] ?s(ec)?"),
        *("动脉期?", "動脈相?", "동맥기?"),
    ),
    "portal": (
        *("p", "pv", "pvp", "pvph", "port", "portale?", "porto? ?ven(ous|ös|osa|oso|euse|eux)?"),
        *("portal ?ven(ous)?( phase)?", "portalven(ös|oes|ous|öse)", "ven", "venous", "venös"),
        *("venosa", "venoso", "veineux", "veineuse", "veneus", "hvp", "vp", "[6-8][05] ?s(ec)?"),
        *("门脉期?", "门静脉期?", "静脉期?", "門脈相?", "문맥기?"),
    ),
    "delayed": (
        *("d", "del", "delay", "delayed", "dp", "dl", "eq", "equi", "equilibrium", "late"),
        *("delayed ven(ous)?", "late ven(ous)?", "late phase", "excretory", "gleichgewicht"),
        *("equilibrio", "[eé]quilibre", "spät(e|phase)?", "tardive?", "tardif", "tardi[oa]"),
        *("([2-9]|1[0-5]) ?min(utes?)?", "(1[2-9]|[2-9][0-9])0 ?s(ec)?"),
        *("延迟期?", "平衡期?", "遅延相?", "平衡相?", "지연기?"),
    ),
}
# PLC-CECT counts its phases: P plain, C1 arterial, C2 portal, C3 delayed.
COUNTED = {"precontrast": ("p",), "arterial": ("c1",), "portal": ("c2",), "delayed": ("c3",)}
MASK = r"mask|masks|seg|segs|segmentations?|labels?|annotations?|roi|gt|tumou?rs?|lesions?|hcc"
SCOUT = r"scout|topo|topogram|localizer|localiser|surview|scanogram|monitoring|premonitoring"
_COUNTS = re.compile(r"(?<![^\W\d_])c[123](?![^\W_])")


def phase_of(words: str, table: Mapping[str, Sequence[str]] = WORDS) -> str | None:
    """The phase that a name speaks of; None where it names none, or two with words of one length.

    Case does not count. `_`, `-`, `.`, `/` and the step from a small to a capital letter part
    words.
    """
    text = _plain(words)
    longest = {
        phase: max(
            (len(m.group()) for w in table[phase] for m in _word(w).finditer(text)), default=0
        )
        for phase in table
    }
    best = max(longest.values())
    phases = [phase for phase, length in longest.items() if length == best]
    return phases[0] if best and len(phases) == 1 else None


def table_for(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """WORDS, or COUNTED where one of a patient's names counts: P is portal, but plain beside C1."""
    return COUNTED if any(_COUNTS.search(_plain(name)) for name in names) else WORDS


def is_mask(words: str) -> bool:
    """Whether a name is a mask's. A liver_pvp is the liver's mask, a liver_ct_pvp its CT."""
    liver = _has("livers?", words) and not _has("ct|volume", words)
    return _has(MASK, words) or liver


def is_liver(words: str) -> bool:
    """Whether a mask is the liver's, not that of a tumour in it."""
    return _has("livers?", words) and not _has("tumou?rs?|lesions?|hcc", words)


def is_scout(words: str) -> bool:
    """Whether a series is no volume: a localizer, or the slices that watch the bolus arrive."""
    return _has(SCOUT, words)


def _has(pattern: str, words: str) -> bool:
    return _word(pattern).search(_plain(words)) is not None


def _plain(words: str) -> str:
    parted = re.sub(r"(?<=[a-zà-ÿ])(?=[A-ZÀ-Þ])", " ", words)
    return re.sub(r"[\W_]+", " ", parted).lower()


def _word(pattern: str) -> re.Pattern[str]:
    # Letters, not digits, part words: "art1" and "5min" are read; Chinese has no blanks.
    edge = r"[^\W\d_\u3000-\uffff]"
    before = rf"(?<!{edge})(?<!\d)" if pattern[0] in "([" else rf"(?<!{edge})"
    return re.compile(rf"{before}(?:{pattern})(?!{edge})")
