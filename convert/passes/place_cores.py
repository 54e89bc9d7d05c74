"""Cores to places on the mesh such that messages pass few links: a quadratic assignment.

With F the messages between cores in a measured run and D the hops between places, a placement p costs
``sum_ij F_ij D_p(i)p(j)``. Chips are filled in the order of the graph. Within each, the best swap of two cores, or of a
core and an empty place, is made until none helps: from tiles filled one after the other, then from the best placement
so far after a kick, which moves a few cores on (the seed is fixed). So it never costs more than filling tiles, and all
sums are of integers, the same on every machine, which relaxations such as `scipy.optimize.quadratic_assignment` are
not (and its FAQ with the same swaps was 13 % worse on PilotNet). Places change no spike: nothing computes with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.core_traffic import distances, messages, place_on
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.errors import CapabilityError
from avsnn.hw_profiles.profile import Profile

KICKS = 4  # for each core; PilotNet, 32 cores: 468,226 hops after none, 325,257 after 100, in 0.1 s


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Messages between cores in the measured run, and the hops that they make.

    Attributes:
        messages: from core to core.
        within_tiles: those that stay in their tile.
        between_chips: those that leave their chip.
        hops: of all messages, in this placement.
        row_major_hops: had core k been put on tile k, row by row, and again from the first when all tiles have one.
        packed_hops: had tiles been filled one after the other, row by row, each with all its cores.
    """

    messages: int
    within_tiles: int
    between_chips: int
    hops: int
    row_major_hops: int
    packed_hops: int


def place_cores(graph: Graph, profile: Profile, counts: Mapping[str, Array]) -> tuple[Graph, Placement]:
    """Place every core of a ``mapped`` graph.

    Args:
        graph: mapped, in any placement.
        profile: of the chip, with its mesh.
        counts: population to the spikes of each neuron in the run that the placement is made for.

    Raises:
        CapabilityError: nothing is known of the chip's mesh.
    """
    mesh, per_chip = profile.mesh, profile.limits.cores_per_chip
    if mesh is None or per_chip is None:
        raise CapabilityError("no mesh is known", where=profile.id, remedy="state it in the profile")
    parts = graph.of(fixed.Slice)
    flow = messages(graph, counts)
    both = (flow + flow.T).astype(np.float64)
    everywhere = tuple(
        place_on(replace(parts[0], core=k), profile, k) for k in range(-(-len(parts) // per_chip) * per_chip)
    )
    hops = distances(everywhere, mesh.tiles_x)
    order = np.arange(len(everywhere))  # core to location; those beyond the last core are empty
    full = np.zeros(hops.shape)
    full[: len(parts), : len(parts)] = both
    np.fill_diagonal(full, 0.0)  # what stays on its core passes no link
    for start in range(0, len(everywhere), per_chip):
        here = slice(start, start + per_chip)
        order[here] = start + _placed(full, hops.astype(np.float64), order, here)
    placed = {part.name: place_on(part, profile, int(order[part.core])) for part in parts}
    result = replace(graph, nodes=tuple(placed.get(node.name, node) for node in graph))
    return result, _measured(flow, hops, order[: len(parts)], per_chip, mesh.cores_per_tile)


def _measured(flow: Array, hops: Array, order: Array, per_chip: int, per_tile: int) -> Placement:
    def spent(places: Array) -> int:
        return int((flow * hops[np.ix_(places, places)]).sum())

    packed = np.arange(len(order))
    chip, place = np.divmod(packed, per_chip)
    pass_, tile = np.divmod(place, per_chip // per_tile)
    away, on = hops[np.ix_(order, order)], order // per_chip
    return Placement(
        messages=int(flow.sum()),
        within_tiles=int(flow[away == 0].sum()),
        between_chips=int(flow[on[:, None] != on].sum()),
        hops=spent(order),
        row_major_hops=spent(chip * per_chip + tile * per_tile + pass_),
        packed_hops=spent(packed),
    )


def _placed(flow: Array, hops: Array, order: Array, here: slice) -> Array:
    """Locations, counted within the chip, of the cores of one chip, while all other cores stay where they are."""
    others = np.ones(len(order), dtype=bool)
    others[here] = False
    pull = flow[here][:, others] @ hops[order[others]][:, here]  # what core i costs at place l for the sake of others
    own, near = flow[here, here], hops[here, here]
    used, rng = int(np.flatnonzero(own.any(axis=1) | pull.any(axis=1)).max(initial=-1)) + 1, np.random.default_rng(0)
    best = _improved(own, near, pull, np.arange(len(own)), used)
    least = _cost(own, near, pull, best)
    for _ in range(KICKS * used if least else 0):
        moved = np.unique([*rng.choice(used, min(2, used), replace=False), *rng.integers(len(own), size=2)])
        start = best.copy()
        start[moved] = best[np.roll(moved, 1)]
        found = _improved(own, near, pull, start, used)
        if (cost := _cost(own, near, pull, found)) < least:
            best, least = found, cost
    return best


def _cost(flow: Array, hops: Array, pull: Array, place: Array) -> float:
    return float((flow * hops[np.ix_(place, place)]).sum() / 2 + pull[np.arange(len(place)), place].sum())


def _improved(flow: Array, hops: Array, pull: Array, place: Array, used: int) -> Array:
    """Swap the two cores that gain most, until none gain; only the first ``used`` cores send or receive anything.

    With ``D`` the hops between places as they are and ``M = F D``, swapping i and j changes the cost by
    ``M_ij + M_ji - M_ii - M_jj + 2 F_ij D_ij``, and that of the pull of other chips likewise.
    """
    place = place.copy()
    own, stays = flow[:used, :used], np.arange(used)
    while used:
        now = hops[np.ix_(place[:used], place)]
        reach = own @ now + pull[:used][:, place]  # what each core costs at each other's place
        stay = reach[stays, stays]
        change = reach - stay[:, None]
        change[:, :used] += reach[:, :used].T - stay + 2 * own * now[:, :used]
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] >= 0:
            break
        place[[i, j]] = place[[j, i]]
    return place
