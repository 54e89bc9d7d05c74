"""Is every neuron of a mapped graph on one core, within all limits, and does each core compute what it should?

Running the network proves it for what fires. Here each connection is also driven by messages from all of its sources
at once, large random integers, each product by numbers in place of spikes, and each population by random states and
currents: a weight, an axon or a parameter at the wrong place changes a sum.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from avsnn.convert.core_demand import Rules, Unit
from avsnn.convert.core_traffic import axons_out, owners
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.cores import Cores, grid, targets
from avsnn.convert.ir.fixed_interpreter import connect, product, product_by_core, step_by_core
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.errors import VerifyError
from avsnn.hw_profiles.profile import Profile

FACTOR = 1 << 8  # of products, which multiply three of them
MESSAGE = 1 << 20  # two sums of different weights times such messages are hardly ever equal


def check_mapping(scheduled: Graph, mapped: Graph, profile: Profile, *, seed: int = 0) -> int:
    """Return how many sums and neurons were compared.

    Raises:
        VerifyError: the network itself was changed, a neuron is on no core or on two, a place is taken twice or is not
            on the mesh, a limit is broken, or cores compute something else than the whole.
    """
    rest = [node for node in mapped if not isinstance(node, fixed.Slice | fixed.Axons)]
    if len(rest) != len(scheduled.nodes) or any(a is not b for a, b in zip(rest, scheduled.nodes, strict=True)):
        raise VerifyError("mapping changed the network itself", where="graph")
    rules = Rules(profile=profile, graph=mapped)
    _check_slices(mapped, rules.units())
    _check_places(mapped, profile)
    _check_limits(mapped, rules)
    rng, cores = np.random.default_rng(seed), Cores(_any_state(mapped))
    checked = sum(_check_connection(mapped, cores, node, rng) for node in mapped.of(fixed.Synapse))
    checked += sum(_check_product(mapped, cores, node, rng) for node in mapped.of(fixed.Product) if rules.made(node))
    return checked + sum(_check_neurons(cores, node, rng) for node in _any_state(mapped).of(fixed.FixedLIF))


def _any_state(mapped: Graph) -> Graph:
    """The same, random states being allowed: no run comes with them."""
    nodes = (replace(node, saturates=True) if isinstance(node, fixed.FixedLIF) else node for node in mapped)
    return replace(mapped, nodes=tuple(nodes))


def _check_slices(mapped: Graph, units: list[Unit]) -> None:
    for unit in units:
        shape = grid(mapped, unit.node, unit.group)
        held = np.zeros(int(np.prod(shape)), dtype=np.int64)
        for part in mapped.readers[unit.node.name]:
            if isinstance(part, fixed.Slice) and part.group == unit.group:
                held[targets(shape, (part.first, part.last))] += 1
        if (held != 1).any():
            i = int(np.argmax(held != 1))
            found = f"neuron {tuple(int(k) for k in np.unravel_index(i, shape))} on {held[i]}"
            raise VerifyError("not on exactly one core", where=unit.name, found=found)


def _check_places(mapped: Graph, profile: Profile) -> None:
    parts, mesh = mapped.of(fixed.Slice), profile.mesh
    if sorted(part.core for part in parts) != list(range(len(parts))):
        raise VerifyError("cores are not numbered one by one", where="slices")
    room = profile.limits.cores_per_chip if mesh is None else mesh.cores_per_tile
    for place, number in Counter((part.chip, part.x, part.y) for part in parts).items():
        if mesh is not None and not (0 <= place[1] < mesh.tiles_x and 0 <= place[2] < mesh.tiles_y):
            raise VerifyError("a tile that is not there", where="slices", found=place)
        if room is not None and number > room:
            raise VerifyError("more cores than are there", where=f"chip, x, y = {place}", expected=room, found=number)


def _check_limits(mapped: Graph, rules: Rules) -> None:
    profile = rules.profile
    for part in mapped.of(fixed.Slice):
        rules.cut_into.setdefault(part.unit, []).append((part.first, part.last))
    sent = axons_out(mapped, "neuron" if profile.storage is None else profile.storage.kernel_axons)
    most = profile.limits.axons_out_per_core
    for part in mapped.of(fixed.Slice):
        name = rules.broken(rules.demand(mapped[part.inputs[0]], (part.first, part.last), part.group))
        if most is not None and sent[part.core] > most:
            name = "axons_out_per_core"
        if name is not None:
            raise VerifyError(f"breaks {name} of {profile.id}", where=part.name, expected=rules.limit(name))


def _check_connection(mapped: Graph, cores: Cores, node: fixed.Synapse, rng: np.random.Generator) -> int:
    """The sums of all cores against those of the connection as a whole."""
    x = rng.integers(1, MESSAGE, size=(1, *mapped[node.inputs[0]].shape))
    expected = connect(node, x).reshape(-1)
    found = cores.connect(node, x).reshape(-1)
    wrong = expected != found
    if wrong.any():
        i, own = (
            int(np.argmax(wrong)),
            {axons.inputs[1] for axons in mapped.of(fixed.Axons) if node.name in axons.inputs},
        )
        at = next((owners(mapped)[p.unit][i] for p in mapped.of(fixed.Slice) if p.name in own), "none")
        raise VerifyError(
            "a core computes another sum than the whole", where=f"{node.name} on core {at}", expected=expected[i],
            found=found[i],
        )  # fmt: skip
    return int(expected.size)


def _check_product(mapped: Graph, cores: Cores, node: fixed.Product, rng: np.random.Generator) -> int:
    """The results of all cores against those of the product as a whole, of numbers, which show what spikes may hide."""
    steps = mapped.timesteps if node.windowed else 1
    sent = {name: rng.integers(1, FACTOR, size=(steps, 1, *mapped[name].shape)) for name in node.inputs}
    x = [sent[name] for name in node.inputs]
    if not cores.shares[node.name]:
        raise VerifyError("no core makes this product", where=node.name)
    if (product(node, *x) != product_by_core(node, cores, *x)).any():
        raise VerifyError("cores make another product than the whole", where=node.name)
    return int(np.prod(node.shape)) * steps


def _check_neurons(cores: Cores, node: fixed.FixedLIF, rng: np.random.Generator) -> int:
    """One step of all cores against one of the population, from random states about the threshold."""
    top = int(np.max(node.threshold_mant)) << fixed.ACTIVATION_SHIFT
    most = min(2 * max(top, 1 << fixed.ACTIVATION_SHIFT), (1 << (node.state_bits - 2)) - 1)

    def some(limit: int) -> Array:
        return rng.integers(-limit, limit + 1, size=(1, *node.shape))

    states = some(most), some(most), some(most >> (fixed.ACTIVATION_SHIFT + 1)), some(most // 2)
    fired = rng.random((1, *node.shape)) < 0.5
    whole, parts = (step_by_core(node, *states, 0, fired, each) for each in (None, cores))
    for what, a, b in zip(("u", "v", "spikes"), whole, parts, strict=True):
        if (a != b).any():
            raise VerifyError(f"cores compute another {what} than the whole", where=node.name)
    return int(np.prod(node.shape))
