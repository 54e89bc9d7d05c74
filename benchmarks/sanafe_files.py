"""A mapped graph and a profile to the files that SANA-FE reads: a chip, a network, where its neurons are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from avsnn.convert.core_traffic import owners
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.hw_profiles.fixed_point import UNITY
from avsnn.hw_profiles.schema import Mesh, Profile


def pj(profile: Profile, key: str) -> float:
    """The value of a constant."""
    value = profile.energy_pj[key].value
    assert value is not None
    return value


def architecture(profile: Profile, inputs: int) -> str:
    """The chip as SANA-FE reads it: every tile alike, but for a core of inputs, which cost nothing, in the first."""
    assert profile.mesh is not None
    mesh, joule = profile.mesh, 1e-12
    hop_x, hop_y = (pj(profile, key) * joule for key in ("hop_x", "hop_y"))
    idle, active = (pj(profile, f"neuron_{state}") * joule for state in ("inactive", "active"))
    hops = {f"energy_{way}_hop": hop_x for way in ("east", "west")}
    hops |= {f"energy_{way}_hop": hop_y for way in ("north", "south")}
    hops |= {f"latency_{way}_hop": 0.0 for way in ("east", "west", "north", "south")}

    def core(name: str, soma: dict[str, Any], message: float, sop: float) -> dict[str, Any]:
        zero = {"energy_update": 0.0, "latency_update": 0.0}
        return {
            "name": name,
            "attributes": {"buffer_position": "soma", "max_neurons_supported": 1024},
            "axon_in": [{"name": "i", "attributes": {"energy_message_in": 0.0, "latency_message_in": 0.0}}],
            "synapse": [{"name": "s", "attributes": {
                "model": "current_based", "energy_process_spike": sop, "latency_process_spike": 0.0}}],
            "dendrite": [{"name": "d", "attributes": {"model": "accumulator", **zero}}],
            "soma": [soma],
            "axon_out": [{"name": "o", "attributes": {"energy_message_out": message, "latency_message_out": 0.0}}],
        }  # fmt: skip

    def soma(name: str, model: str, access: float, update: float, spike: float) -> dict[str, Any]:
        kinds = {"access_neuron": access, "update_neuron": update, "spike_out": spike}
        energies = {f"energy_{kind}": energy for kind, energy in kinds.items()}
        return {"name": name, "attributes": {"model": model, **energies, **{f"latency_{k}": 0.0 for k in kinds}}}

    lif = soma("lif", "leaky_integrate_fire", idle, active - idle, pj(profile, "spike_out") * joule)
    plain = core(
        f"c[0..{mesh.cores_per_tile - 1}]", lif, pj(profile, "axon_message") * joule, pj(profile, "sop") * joule
    )
    outside = core("outside", soma(f"input[0..{inputs - 1}]", "input", 0.0, 0.0, 0.0), 0.0, 0.0)
    last = mesh.tiles_x * mesh.tiles_y - 2
    size = {"topology": "mesh", "width": mesh.tiles_x, "height": mesh.tiles_y, "link_buffer_size": 16}
    return json.dumps({"architecture": {
        "name": "chip",
        "attributes": {**size, "sync_model": "fixed", "latency_sync": 0.0},
        "tile": [
            {"name": "first", "attributes": hops, "core": [plain, outside]},
            {"name": f"rest[0..{last}]", "attributes": hops, "core": [plain]},
        ],
    }}, indent=1)  # fmt: skip


def network(mapped: Graph, x: Array, mesh: Mesh) -> list[str]:
    """Groups, edges and mapping as SANA-FE reads them; a tile is column by column there."""
    (source,) = mapped.of(fixed.FixedInput)
    train = x.reshape(len(x), -1).T
    text = [
        "network:",
        "  name: net",
        "  groups:",
        f"    - name: {source.name}",
        "      attributes: [log_spikes: true]",
    ]
    text += ["      neurons:", *(f"        - {i}: [spikes: {row.tolist()}]" for i, row in enumerate(train))]
    for node in mapped.of(fixed.FixedLIF):
        keep = (UNITY - node.decay_v) / UNITY
        law = (
            f"threshold: {int(node.threshold_mant)}, reset: 0, reset_mode: hard, leak_decay: {keep!r}, input_decay: 0.0"
        )
        text += [f"    - name: {plain(node.name)}", "      attributes: [log_spikes: true]", "      neurons:"]
        text += [f"        - 0..{int(np.prod(node.shape)) - 1}: [soma: {{{law}}}]"]
    text += ["  edges:"]
    for wire in mapped.of(fixed.Synapse):
        to, *_ = (reader.name for reader in mapped.readers[wire.name] if isinstance(reader, fixed.FixedLIF))
        found = edges(wire, mapped[wire.inputs[0]].shape)
        text += [f"    - {plain(wire.inputs[0])}.{i} -> {plain(to)}.{o}: [weight: {w}]" for i, o, w in found]
    text += ["mappings:"]
    text += [f'  - {source.name}.{i}: [core: 0.{mesh.cores_per_tile}, soma: "input[{i}]"]' for i in range(len(train))]
    taken: dict[int, int] = {}
    place = {}
    for part in mapped.of(fixed.Slice):
        tile = part.x * mesh.tiles_y + part.y
        place[part.core] = f"{tile}.{taken.setdefault(tile, 0)}"
        taken[tile] += 1
    for name, core_of in owners(mapped).items():
        cores = enumerate(core_of.tolist())
        text += [f"  - {plain(name)}.{i}: [core: {place[core]}, soma: lif]" for i, core in cores]
    return text


def plain(name: str) -> str:
    """A dot ends the name of a group there."""
    return name.replace(".", "_")


def edges(wire: fixed.Synapse, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Each connection by itself: source neuron, target neuron, weight."""
    weight = wire.weight
    if isinstance(wire, fixed.FixedLinear):
        return [(i, o, int(weight[o, i])) for o in range(weight.shape[0]) for i in range(weight.shape[1])]
    assert isinstance(wire, fixed.FixedConv2d)
    found, per_group = [], weight.shape[0] // wire.groups
    for o, y, x in np.ndindex(*wire.shape):
        for c, ky, kx in np.ndindex(*weight.shape[1:]):
            at = (
                o // per_group * weight.shape[1] + c,
                y * wire.stride[0] + ky - wire.padding[0],
                x * wire.stride[1] + kx - wire.padding[1],
            )
            if all(0 <= place < size for place, size in zip(at, shape, strict=True)):
                from_, to = np.ravel_multi_index(at, shape), np.ravel_multi_index((o, y, x), wire.shape)
                found.append((int(from_), int(to), int(weight[o, c, ky, kx])))
    return found
