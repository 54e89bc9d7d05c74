"""Published operation counts and energies against what follows from the inputs that were published with them.

    python benchmarks/published_tables.py

Arithmetic only: no network runs and no data set is read. Counts come from the functions that count bundles, prices and
operating points from the shipped profiles. Figures of spiking transformers stand in `published_tables.csv`, as printed,
where `avsnn audit` reads them. What needs more than was published is in `OPEN`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsnn.convert.ir.fixed_nodes import FixedConv2d, FixedLinear
from avsnn.deploy.audit import audit
from avsnn.deploy.reports.fanout import fanout
from avsnn.hw_profiles.profile import load_profile

CSV = Path(__file__).with_suffix(".csv")
OPEN = {
    "Spike-driven Transformer (3.56 to 6.09 mJ)": "needs rates per layer, or the checkpoint and ImageNet",
    "Keyword spotter on Loihi 1, energy by branches": "needs the rail logs, and its spikes were never published",
    "TrueNorth and Loihi networks, by operations": "spikes were not published: only power times time can be checked",
}
Layer = tuple[tuple[int, ...], tuple[int, ...], int, int]  # source shape, weight shape, stride and padding along x


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A figure as published, and as computed from other published numbers by ``how``."""

    name: str
    unit: str
    published: float
    computed: float
    how: str

    @property
    def deviation(self) -> float:
        """Relative, of what was computed from what was published."""
        return self.computed / self.published - 1


def main() -> int:
    """Print every pair, what is open, and what `avsnn audit` says of the tables."""
    print(render())
    print()
    print("\n".join(f"not reproducible: {name}: {why}" for name, why in OPEN.items()))
    checked, found = audit(CSV)
    print(f"\navsnn audit {CSV.name}: {checked} relations checked")
    print("\n".join(f"{each.kind} {each.row}: {each.check}: {each.text}" for each in found))
    return 0


def render() -> str:
    """The pairs as a table for ARCHITECTURE.md."""
    lines = ["| figure | published | computed | deviation | from |", "| --- | --- | --- | --- | --- |"]
    for pair in pairs():
        sign = "exact" if pair.deviation == 0 else f"{100 * pair.deviation:+.2g} %"
        if pair.name in BOUNDS:
            sign = BOUNDS[pair.name]
        published, computed = (f"{x:,.0f}" if pair.unit == "" else f"{x:.4g} {pair.unit}" for x in
                               (pair.published, pair.computed))  # fmt: skip
        lines.append(f"| {pair.name} | {published} | {computed} | {sign} | {pair.how} |")
    return "\n".join(lines)


MOBILENET = "NxTF MobileNet on Loihi 1"
BOUNDS = {MOBILENET: "static power alone is more: the figure is dynamic only"}


def pairs() -> Iterator[Pair]:
    """Everything that can be checked without a data set."""
    yield from _neurobench()
    yield from _transformers()
    yield from _chips()
    yield from _challenge()


def _neurobench() -> Iterator[Pair]:
    """NeuroBench's "Dense" counts connections that exist: none to the padding around an image."""
    snn = [_dense(20, 256), _dense(256, 256), _dense(256, 256), _dense(256, 35)]
    name = "NeuroBench, keywords, SNN"
    yield Pair(name=name, unit="", published=29_030_400, computed=200 * _connections(snn), how="200 steps")
    m5 = [((1, 1, 8000), (32, 1, 1, 80), 16, 0), ((32, 1, 124), (32, 32, 1, 3), 1, 0),
          ((32, 1, 30), (64, 32, 1, 3), 1, 0), ((64, 1, 7), (64, 64, 1, 3), 1, 0), _dense(64, 35)]  # fmt: skip
    yield Pair(name="NeuroBench, keywords, M5", unit="", published=1_880_256, computed=_connections(m5), how="8 kHz")
    dvs = [((2, 32, 32), (16, 2, 5, 5), 1, 2), ((16, 16, 16), (32, 16, 5, 5), 1, 2),
           ((32, 8, 8), (64, 32, 5, 5), 1, 2), _dense(1024, 11)]  # fmt: skip
    yield Pair(name="NeuroBench, DVS gestures, SNN", unit="", published=891_206_400,
               computed=150 * _connections(dvs), how="150 steps")  # fmt: skip


def _dense(inputs: int, outputs: int) -> Layer:
    return (inputs,), (outputs, inputs), 1, 0


def _connections(layers: list[Layer]) -> int:
    """Connections of a chain of layers, as bundles count them."""
    total = 0
    for source, weights, stride, padding in layers:
        ones = np.ones(weights, np.int64)
        if len(weights) == 2:
            stored, _ = fanout(FixedLinear(name="l", inputs=("x",), shape=weights[:1], weight_mant=ones), source)
        else:
            flat = source[1] == 1
            pads, steps = ((0 if flat else padding), padding), ((1 if flat else stride), stride)
            size = [
                (n + 2 * p - k) // s + 1 for n, k, s, p in zip(source[1:], weights[2:], steps, pads, strict=True)
            ]  # fmt: skip
            wire = FixedConv2d(
                name="c", inputs=("x",), shape=(weights[0], *size), weight_mant=ones, stride=steps, padding=pads
            )
            stored, _ = fanout(wire, source)
        total += int(stored.sum())
    return total


def _transformers() -> Iterator[Pair]:
    """``0.9 pJ OPs + 4.6 pJ T FL``: the first layer is priced in every step, Spikformer's with 64 channels always."""
    prices = load_profile("cmos45").literature
    ac, mac = (_known(prices[key].value) for key in ("ac", "mac"))
    with CSV.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["timesteps"]]
    for row in rows:
        steps, first = int(row["timesteps"]), float(row["first_macs [M]"])
        energy = (ac * 1e9 * float(row["sops [G]"]) + mac * 1e6 * steps * first) / 1e9
        how = f"{row['sops [G]']} G operations, first layer x {steps}"
        yield Pair(name=row["network"], unit="mJ", published=float(row["energy [mJ]"]), computed=energy, how=how)


def _chips() -> Iterator[Pair]:
    """Power times time, power over rate."""
    loihi2, truenorth, ecg = (load_profile(name) for name in ("loihi2", "truenorth", "brainscales2"))
    sdnn = next(record for record in loihi2.measurements if record.name == "PilotNet SDNN")
    static, seconds = _known(loihi2.power_mw["static_chip"].hi), _known(sdnn.latency_ms) / 1e3
    yield Pair(name="PilotNet SDNN on Loihi 2", unit="mJ", published=_known(sdnn.total_mj), computed=static * seconds,
               how="static power x time")  # fmt: skip
    yield Pair(name="Keyword spotter on Loihi 1", unit="mJ", published=0.27, computed=(110.3 - 29.55) / 297,
               how="power above idle after boot / 297 per second")  # fmt: skip
    point = truenorth.operating_point
    assert point is not None
    per_second = 4096 * 256 * _known(point.rate_hz) * _known(point.fan_out)
    yield Pair(name="TrueNorth, energy of an operation", unit="pJ", published=_known(truenorth.energy_pj["sop"].value),
               computed=72e-3 / per_second * 1e12, how="72 mW / operations per second")  # fmt: skip
    chip = _known(load_profile("loihi1").power_mw["static_chip"].value)
    yield Pair(name="Loihi 1, static power, 32 chips", unit="mW", published=chip, computed=3340 / 32, how="3.34 W / 32")
    yield Pair(name="Loihi 1, static power, 512 chips", unit="mW", published=chip, computed=53400 / 512,
               how="53.4 W / 512")  # fmt: skip
    yield Pair(name=MOBILENET, unit="mJ", published=102.0, computed=14 * chip * 0.34, how="14 chips x static x 0.34 s")
    record = ecg.measurements[0]
    watts = _known(record.total_mj) / _known(record.latency_ms)
    yield Pair(name="BrainScaleS-2, ECG, power", unit="W", published=0.7, computed=watts, how="192 uJ / 276 us")
    yield Pair(
        name="TrueNorth, CIFAR-10", unit="uJ", published=164.0, computed=204.4e3 / 1249, how="204.4 mW / 1249 fps"
    )


def _known(value: float | None) -> float:
    """What is not published is not zero."""
    assert value is not None
    return value


def _challenge() -> Iterator[Pair]:
    """Intel N-DNS, SDNN baseline 257-512-512-257: a neuron operation counts as 10 synaptic ones, a step takes 8 ms."""
    power, step, latency = 14.52e6, 8e-3, 0.032015
    neurons, dense = 257 + 512 + 512, 257 * 512 + 512 * 512 + 512 * 257
    sops = power * step - 10 * neurons
    yield Pair(name="N-DNS baseline, active synapses", unit="%", published=19.7, computed=100 * sops / dense,
               how="14.52 M-ops/s x 8 ms less 10 per neuron")  # fmt: skip
    yield Pair(name="N-DNS baseline, power-delay product", unit="M-ops", published=0.46,
               computed=power * latency / 1e6, how="14.52 M-ops/s x 32.015 ms")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
