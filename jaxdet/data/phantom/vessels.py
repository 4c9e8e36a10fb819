"""Vessel trees that fill the liver: each branch heads for the middle of the tissue it serves.

A tree is [S, 7]: start and end (x, y, z) and radius of straight pieces, mm in the frame of the
body. Inside the liver r0^g = r1^g + r2^g holds at every fork (Murray, g 2.7 for portal and hepatic
veins); diameters of the roots and Couinaud's planes are those of the project's fact sheet on
abdominal CT, sections 4 and 5.
"""

import itertools

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

from jaxdet.data.phantom import anatomy
from jaxdet.data.phantom.shapes import Field, Points

MURRAY = 2.7
STEP = 0.4  # of the way to the middle of what it serves, until a branch forks
LEAST_MM = 0.5  # radius of the finest branches
SERVED_ML = 1.4  # of liver by the end of a branch
PORTAL_MM = {"main": (6.9, 0.4), "right": (4.25, 0.2), "left": (3.75, 0.2)}  # radius: mean, SD
HEPATIC_MM = {"right": 4.7, "middle": 4.0, "left": 4.4}  # radius where they enter the cava
HEPATIC_SICK_MM, HEPATIC_SPREAD = 2.45, 0.06  # in cirrhosis; relative SD
HEPATIC_SHARES = {"right": 0.56, "middle": 0.28, "left": 0.16}  # of the liver, at these radii
LEFT_VEIN_TURN = -0.35  # rad, from the front: the plane of the left hepatic vein
INLET_MM = 10.0  # of the hepatic veins under the top of the liver
DEEP_MM = 3.5  # under the surface: where branches end
LARGE_MM, APART_MM = 1.0, 3.0  # portal and hepatic branches of this radius keep this gap
HILAR_MM = 2.9  # portal branches of this radius may run in the fat of the hilum and the fissure
ENTRY_MM = 24.0  # from a root: so far a branch may leave the liver
SUNK_MM = 2.5  # under the surface: where forks come to lie
BEND, BEND_MM = 0.07, 2.0  # sideways, as a share of a piece's length and at most

Tree = Float[np.ndarray, "_ 7"]


def draw(rng: np.random.Generator, body: anatomy.Body, cirrhosis: float) -> dict[str, Tree]:
    """A patient's "portal_vein", "hepatic_vein" and "artery".

    Portal vein and artery begin outside of the liver, with the vessels of spleen and gut, and enter
    by the hilum; hepatic veins end in the middle of the cava. No other piece leaves the liver.
    Cirrhosis makes the hepatic veins thin.
    """
    portal, outside = _portal(rng, body)
    hepatic = _hepatic(rng, body, cirrhosis)
    hepatic = _parted(hepatic, portal)
    gates = np.concatenate([portal[:1, :3], portal[portal[:, 6] > HILAR_MM, 3:6]])
    portal, hepatic = (
        _bent(rng, body, _within(body, _sunk(body, tree, roots), roots))
        for tree, roots in ((portal, gates), (hepatic, hepatic[:1, :3]))
    )
    artery = np.concatenate([_beside(portal[portal[:, 6] > 0.8]), _arteries(body)])
    return {
        "portal_vein": np.concatenate([portal, outside]),
        "hepatic_vein": hepatic,
        "artery": artery,
    }


def grow(
    start: Float[np.ndarray, "3"],
    ends: Float[np.ndarray, "N 3"],
    radius: float,
    rng: np.random.Generator | None = None,
    body: anatomy.Body | None = None,
) -> Tree:
    """Pieces from `start` to every point of `ends`, those near the start first.

    The points are parted along their widest axis until one is left, in halves or, with `rng`, in
    shares of 28 to 50 %; a branch goes STEP of the way to the middle of its points. Its radius
    follows the number of its points, which is what makes Murray's rule exact. With `body` a fork
    that would lie outside of its liver moves to the nearest of the points. Without points there is
    no tree: S = 0.
    """
    ends = np.asarray(ends, np.float32)
    order, counts = np.arange(len(ends)), np.array([len(ends)])
    roots, found = np.asarray(start, np.float32)[None], []
    while len(ends) and len(counts):
        first = np.r_[0, np.cumsum(counts)[:-1]]
        fed = ends[order]
        middle = np.add.reduceat(fed, first) / counts[:, None]
        tips = np.where(counts[:, None] == 1, fed[first], roots + STEP * (middle - roots))
        if body is not None:
            tips = _inwards(body, tips, fed, first, counts)
        radii = radius * (counts / len(ends)) ** (1 / MURRAY)
        found.append(np.hstack([roots, tips, radii[:, None]]).astype(np.float32))
        spread = np.add.reduceat(fed * fed, first) / counts[:, None] - middle**2
        group = np.repeat(np.arange(len(counts)), counts)
        along = fed[np.arange(len(fed)), spread.argmax(axis=1)[group]]
        order = order[np.lexsort((along, group))]
        more = counts > 1
        order, counts = order[more[group]], counts[more]
        small = np.maximum(counts * _shares(rng, len(counts)), 1).astype(int)
        roots = np.repeat(found[-1][more, 3:6], 2, axis=0)
        counts = np.stack([small, counts - small], axis=1).ravel()
    return np.concatenate(found) if found else np.zeros((0, 7), np.float32)


def crossing(
    tree: Tree, z_low: float, z_high: float, reach: float = 0.0
) -> Float[np.ndarray, "K 7"]:
    """The pieces that come within `reach` mm of touching heights between z_low and z_high."""
    low = np.minimum(tree[:, 2], tree[:, 5]) - tree[:, 6] - reach
    high = np.maximum(tree[:, 2], tree[:, 5]) + tree[:, 6] + reach
    return tree[(low <= z_high) & (z_low <= high)]


def distances(tree: Tree, points: Points, reach: float = 1.0) -> Field:
    """Signed distance to the tree in mm, true up to `reach` mm from it and 1000 beyond.

    Points are a slice: x [1, W], y [H, 1] and a number z, or three arrays [H, W]. Only the pixels
    around each piece are worked on, those of all pieces of about one size at once.
    """
    x, y, z = (np.asarray(p, np.float32) for p in points)
    shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
    found = np.full(shape, 1e3, np.float32)
    pieces = crossing(tree, float(z.min()), float(z.max()), reach)
    x, y, z = (np.broadcast_to(p, shape) for p in (x, y, z))
    more = pieces[:, 6] + np.float32(reach)
    low = np.minimum(pieces[:, :3], pieces[:, 3:6]) - more[:, None]
    high = np.maximum(pieces[:, :3], pieces[:, 3:6]) + more[:, None]
    left, right = _between(x.min(axis=0), x.max(axis=0), low[:, 0], high[:, 0])
    top, bottom = _between(y.min(axis=1), y.max(axis=1), low[:, 1], high[:, 1])
    side = np.where((right > left) & (bottom > top), np.maximum(right - left, bottom - top), 0)
    size = 4
    while (side > size // 2 * (size > 4)).any():
        for k in np.array_split(
            np.flatnonzero((side <= size) & (side > size // 2 * (size > 4))), 8
        ):
            rows = np.minimum(top[k, None] + np.arange(size), shape[0] - 1)[:, :, None]
            columns = np.minimum(left[k, None] + np.arange(size), shape[1] - 1)[:, None, :]
            at = rows, columns
            np.minimum.at(found, at, _tubes(pieces[k], (x[at], y[at], z[at])))
        size *= 2
    return found


def _between(
    least: Float[np.ndarray, "N"],
    most: Float[np.ndarray, "N"],
    low: Float[np.ndarray, "K"],
    high: Float[np.ndarray, "K"],
) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the lines, each from `least` to `most`, that can meet low to high."""
    rising = np.maximum.accumulate(most)
    falling = np.minimum.accumulate(least[::-1])[::-1]
    return np.searchsorted(rising, low), np.searchsorted(falling, high, side="right")


def _tubes(
    pieces: Float[np.ndarray, "K 7"], points: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Float[np.ndarray, "K S S"]:
    """Distance to one piece for each patch of points: shapes.tube of many at once."""
    start, axis = pieces[:, :3], pieces[:, 3:6] - pieces[:, :3]
    away = [p - start[:, k, None, None] for k, p in enumerate(points)]
    along = sum(d * axis[:, k, None, None] for k, d in enumerate(away))
    along = np.clip(along / np.maximum((axis * axis).sum(axis=1), 1e-9)[:, None, None], 0, 1)
    apart = sum((d - along * axis[:, k, None, None]) ** 2 for k, d in enumerate(away))
    return np.sqrt(apart) - pieces[:, 6, None, None]


def _inwards(
    body: anatomy.Body,
    tips: Float[np.ndarray, "K 3"],
    fed: Float[np.ndarray, "N 3"],
    first: np.ndarray,
    counts: np.ndarray,
) -> Float[np.ndarray, "K 3"]:
    many = np.flatnonzero(counts > 4)  # the last ones are near their points anyway
    if not len(many):
        return tips
    out = anatomy.liver(body, tuple(np.float32(tips[many]).T)) > -2.0
    for k in many[out]:
        own = fed[first[k] : first[k] + counts[k]]
        tips[k] = own[np.linalg.norm(own - tips[k], axis=1).argmin()]
    return tips


def _shares(rng: np.random.Generator | None, count: int) -> np.ndarray | float:
    if rng is None:
        return 0.5
    small = rng.uniform(0.28, 0.5, count)
    return np.where(rng.random(count) < 0.5, small, 1 - small)


def _served(rng: np.random.Generator, body: anatomy.Body) -> Float[np.ndarray, "N 3"]:
    """Points that fill the liver evenly: a jittered grid."""
    step = (SERVED_ML * 1000) ** (1 / 3)
    lines = [np.arange(low, high, step) for low, high in anatomy.LIVER_BOX_MM]
    points = np.stack([p.ravel() for p in np.meshgrid(*lines, indexing="ij")], axis=1)
    points = (points + rng.uniform(0, step, points.shape)).astype(np.float32)
    return points[anatomy.liver(body, tuple(points.T)) < -DEEP_MM]


def _portal(rng: np.random.Generator, body: anatomy.Body) -> tuple[Tree, Tree]:
    """The tree from the fork in the hilum, and what lies before it."""
    radius = {k: float(m + sd * np.clip(rng.normal(), -2, 2)) for k, (m, sd) in PORTAL_MM.items()}
    points = _served(rng, body)
    segment = anatomy.segment(body, tuple(points.T))
    (px, py, pz), _ = body.places["porta"]
    fork = np.array([px - 8.0, py, pz + 1.0], np.float32)
    right = _thinned(rng, points[segment >= 5], radius["right"])
    side = anatomy.segment(body, tuple(right.T))
    knee = fork + 0.3 * (right.mean(axis=0) - fork)
    parts = [_piece(fork, knee, radius["right"])]
    for which in ((5, 8), (6, 7)):
        fed = right[np.isin(side, which)]
        parts.append(grow(knee, fed, _shared(radius["right"], len(fed), len(right)), rng, body))
    parts += _left(rng, body, fork, points[segment < 5], radius["left"])
    trunk = body.paths["mesenteric_vein"][-1, :3]
    outside = [_piece(trunk, fork, radius["main"])]
    outside += [_chain(body, name) for name in ("mesenteric_vein", "splenic_vein")]
    return np.concatenate(parts), np.concatenate(outside)


def _left(
    rng: np.random.Generator,
    body: anatomy.Body,
    fork: Float[np.ndarray, "3"],
    points: Float[np.ndarray, "N 3"],
    radius: float,
) -> list[Tree]:
    """The left branch: across to the umbilical fissure, then forward in it."""
    points = _thinned(rng, points, radius)
    segment = anatomy.segment(body, tuple(points.T))
    (px, py, pz), _ = body.places["porta"]
    x = px + anatomy.FISSURE_MM
    bend = np.array([x - 2.0, py - 5.0, pz + 10.0], np.float32)
    tip = np.array([x - 6.0, py - 26.0, pz + 16.0], np.float32)
    parts, left = [], len(points)
    for start, end, served in ((fork, bend, (1,)), (bend, tip, (2,))):
        parts.append(_piece(start, end, _shared(radius, left, len(points))))
        fed = points[np.isin(segment, served)]
        parts.append(grow(end, fed, _shared(radius, len(fed), len(points)), rng, body))
        left -= len(fed)
    for served in ((3,), (4,)):
        fed = points[np.isin(segment, served)]
        parts.append(grow(tip, fed, _shared(radius, len(fed), len(points)), rng, body))
    return parts


def _hepatic(rng: np.random.Generator, body: anatomy.Body, cirrhosis: float) -> Tree:
    """Three veins in the planes between the sectors, from the cava under the dome."""
    points = _served(rng, body)
    segment = anatomy.segment(body, tuple(points.T))
    points = points[segment != 1]  # the caudate lobe has its own small veins
    (vx, vy, vz), _ = body.places["cava"]
    top = float(points[:, 2].max()) + DEEP_MM - INLET_MM
    slope = anatomy.SLOPES["cava"]
    inlet = np.array([vx + slope[0] * (top - vz), vy + slope[1] * (top - vz), top], np.float32)
    cantlie, veins, _, _ = anatomy.planes(body)
    turns = np.array([veins[2], cantlie[2], LEFT_VEIN_TURN])
    seen = np.arctan2(vx - points[:, 0], vy - points[:, 1])
    # What lies behind the cava belongs to the right vein.
    seen = np.where(seen < -np.pi / 2, np.pi, seen)
    nearest = np.abs(seen[:, None] - turns).argmin(axis=1)
    parts = []
    for k, name in enumerate(HEPATIC_MM):
        radius = HEPATIC_MM[name] + min(1.0, cirrhosis) * (HEPATIC_SICK_MM - HEPATIC_MM[name])
        radius *= 1 + HEPATIC_SPREAD * float(np.clip(rng.normal(), -2, 2))
        served = points[nearest == k]
        share = len(served) / len(points) / HEPATIC_SHARES[name]
        radius *= float(np.clip(share ** (1 / MURRAY), 0.8, 1.1))
        parts.append(grow(inlet, _thinned(rng, served, radius), radius, rng, body))
    return np.concatenate(parts)


def _thinned(
    rng: np.random.Generator, points: Float[np.ndarray, "N 3"], radius: float
) -> Float[np.ndarray, "M 3"]:
    """As many of the points as a vessel can serve with branches of LEAST_MM and more."""
    most = int((radius / LEAST_MM) ** MURRAY)
    return points[np.sort(rng.permutation(len(points))[:most])]


def _shared(radius: float, part: int, whole: int) -> float:
    return float(radius * (part / max(whole, 1)) ** (1 / MURRAY))


def _piece(start: np.ndarray, end: np.ndarray, radius: float) -> Tree:
    return np.array([[*start, *end, radius]], np.float32)


def _chain(body: anatomy.Body, name: str) -> Tree:
    knots = body.paths[name]
    return np.hstack([knots[:-1, :3], knots[1:, :3], knots[1:, 3:]]).astype(np.float32)


def _arteries(body: anatomy.Body) -> Tree:
    (px, py, pz), _ = body.places["porta"]
    end = body.paths["hepatic_artery"][-1]
    last = _piece(end[:3], np.array([px - 6.0, py - 5.0, pz + 4.0]), float(end[3]))
    names = ("coeliac", "hepatic_artery", "splenic_artery", "mesenteric_artery")
    return np.concatenate([last, *(_chain(body, name) for name in names)])


def _beside(tree: Tree) -> Tree:
    """Arteries that go with the larger portal branches, in front of and above them."""
    knots, start, end = _knots(tree)
    radius = np.zeros(len(knots), np.float32)
    radius[start] = tree[:, 6]
    radius[end] = tree[:, 6]  # the branch that ends there is the wider one
    thin = np.clip(0.32 * tree[:, 6:], 0.45, 1.6)
    away = knots + np.array([0.1, -0.75, 0.65], np.float32) * (1.25 * radius[:, None] + 0.5)
    return np.hstack([away[start], away[end], thin]).astype(np.float32)


def _knots(tree: Tree) -> tuple[Float[np.ndarray, "K 3"], np.ndarray, np.ndarray]:
    """The places where pieces meet, and the numbers of each piece's start and end."""
    both = np.concatenate([tree[:, :3], tree[:, 3:6]])
    knots, place = np.unique(both, axis=0, return_inverse=True)
    start, end = np.split(place.ravel(), 2)
    return knots, start, end


def _parted(tree: Tree, other: Tree) -> Tree:
    """The tree moved sideways where a large branch would touch a large one of the other."""
    if not len(tree) or not (other[:, 6] > LARGE_MM).any():
        return tree
    knots, start, end = _knots(tree)
    large, steps = tree[:, 6] > LARGE_MM, np.linspace(0, 1, 6, dtype=np.float32)[:, None, None]
    wide = other[other[:, 6] > LARGE_MM]
    there = (wide[:, :3] + steps * (wide[:, 3:6] - wide[:, :3])).reshape(-1, 3)
    radius = np.tile(wide[:, 6], len(steps))
    index, fixed = cKDTree(there), start[0]
    for _ in range(14):
        here = knots[start[large]] + steps * (knots[end[large]] - knots[start[large]])
        apart, near = index.query(here.reshape(-1, 3), k=3)
        gap = apart - radius[near] - np.tile(tree[large, 6], len(steps))[:, None]
        closest = gap.argmin(axis=1)
        rows = np.arange(len(closest))
        missing = np.maximum(APART_MM - gap[rows, closest], 0)
        way = here.reshape(-1, 3) - there[near[rows, closest]]
        way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-6
        push = (0.7 * missing[:, None] * way).reshape(len(steps), -1, 3)
        move, weight = np.zeros_like(knots), np.full((len(knots), 1), 1e-6, np.float32)
        for ends, share in ((start, 1 - steps), (end, steps)):
            hit = share * (np.abs(push).sum(axis=2, keepdims=True) > 0)
            np.add.at(move, ends[large], (share * push).sum(axis=0))
            np.add.at(weight, ends[large], hit.sum(axis=0))
        move[fixed] = 0
        knots = (knots + move / np.maximum(weight, 1.0)).astype(np.float32)
    return np.hstack([knots[start], knots[end], tree[:, 6:]]).astype(np.float32)


def _sunk(body: anatomy.Body, tree: Tree, roots: Float[np.ndarray, "R 3"]) -> Tree:
    """The tree with its forks at least `SUNK_MM` under the surface, but for those near a root."""
    knots, start, end = _knots(tree)
    far = cKDTree(roots).query(knots)[0] > ENTRY_MM
    for _ in range(4):
        depth = -anatomy.liver(body, tuple(knots.T))
        high = np.flatnonzero(far & (depth < SUNK_MM))
        if not len(high):
            break
        around = knots[high, None] + np.float32(1.5) * np.float32([*np.eye(3), *-np.eye(3)])
        f = anatomy.liver(body, tuple(around.reshape(-1, 3).T)).reshape(-1, 6)
        down = f[:, 3:] - f[:, :3]
        down /= np.linalg.norm(down, axis=1, keepdims=True) + 1e-6
        knots[high] += down * (SUNK_MM + 0.5 - depth[high])[:, None].clip(0, 4)
    return np.hstack([knots[start], knots[end], tree[:, 6:]]).astype(np.float32)


def _within(body: anatomy.Body, tree: Tree, roots: Float[np.ndarray, "R 3"]) -> Tree:
    """The tree without the branches that leave the liver far from where they enter it."""
    steps = np.linspace(0.2, 1, 5, dtype=np.float32)[:, None, None]
    along = tree[:, :3] + steps * (tree[:, 3:6] - tree[:, :3])
    depth = -anatomy.liver(body, tuple(along.reshape(-1, 3).T)).reshape(len(steps), -1)
    away, _ = cKDTree(roots).query(along.reshape(-1, 3))
    far = away.reshape(len(steps), -1) > ENTRY_MM
    # A large vein may touch the surface; clipping there is better than the loss of all it serves.
    free = (depth < np.where(tree[:, 6] < 1.5, tree[:, 6] + 0.5, 0.0)) & far
    return tree[_connected(tree, ~free.any(axis=0), roots)]


def _connected(
    tree: Tree, kept: Bool[np.ndarray, "S"], roots: Float[np.ndarray, "R 3"]
) -> Bool[np.ndarray, "S"]:
    """Which of the kept pieces still hang on a root by kept pieces."""
    both = np.concatenate([tree[:, :3], tree[:, 3:6], roots])
    _, place = np.unique(both, axis=0, return_inverse=True)
    start, end, root = np.split(place.ravel(), [len(tree), 2 * len(tree)])
    reached, found = np.zeros(place.max() + 1, bool), np.zeros(len(tree), bool)
    reached[root] = True
    while (new := kept & ~found & reached[start]).any():
        found |= new
        reached[end[new]] = True
    return found


def _bent(rng: np.random.Generator, body: anatomy.Body, tree: Tree) -> Tree:
    """Pieces of 7 mm and more in three parts each, bowed sideways where that stays in the liver."""
    start, end = tree[:, :3], tree[:, 3:6]
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    side = np.cross(end - start, rng.normal(size=start.shape))
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-6
    size = (BEND * length * rng.normal(size=length.shape)).clip(-BEND_MM, BEND_MM)
    knots = [start] + [start + t * (end - start) + size * side for t in (1 / 3, 2 / 3)] + [end]
    bowed = np.concatenate([np.hstack([a, b, tree[:, 6:]]) for a, b in itertools.pairwise(knots)])
    inside = [anatomy.liver(body, tuple(np.float32(k).T)) < -tree[:, 6] - 0.5 for k in knots[1:3]]
    whole = (length[:, 0] < 7.0) | ~np.logical_and(*inside)
    return np.concatenate([tree[whole], bowed[np.tile(~whole, 3)]]).astype(np.float32)
