"""An integer graph and its spikes to counts of operations, one event after the other: the slow twin of `count`.

Plain loops over samples, steps, messages and connections in Python's integers. Nothing of `avsnn.deploy` is used, no
array operation but looking an entry up, and no formula that spares a loop.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import product as pairs_of

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape

Wires = list[list[tuple[int, int]]]
"""For each source neuron: (target, weight) of each of its connections; neurons are flat indices."""
Values = list[list[list[int]]]
"""[step][sample][neuron]"""
Found = dict[str, Counter[str]]


def count_by_events(graph: Graph, activity: Mapping[str, Array], samples: int) -> list[Found]:
    """For each sample: what each node costs, by the names of the fields of `Counts` and its rows."""
    loop = _Loop(graph, activity, samples)
    for node in graph:
        loop.node(node)
    return loop.found


class _Loop:
    def __init__(self, graph: Graph, activity: Mapping[str, Array], samples: int) -> None:
        self.graph, self.T, self.samples = graph, graph.timesteps, samples
        self.found: list[Found] = [{} for _ in range(samples)]
        self.values: dict[str, Values] = {}
        self.sums: dict[str, Values] = {}  # currents that a host reads
        self.hit: dict[str, list[list[set[int]]]] = {}  # targets reached over a weight that is not 0
        for name, array in activity.items():
            self.values[name] = self.recorded(graph[name], array)

    def recorded(self, node: Node, array: Array) -> Values:
        held = isinstance(node, ir.FixedInput) and node.coding == "direct"
        silent = [0] * math.prod(node.shape)
        return [
            [
                silent if not held and t >= len(array) else [int(x) for x in (array if held else array[t])[b].ravel()]
                for b in range(self.samples)
            ]
            for t in range(self.T)
        ]

    def node(self, node: Node) -> None:
        for b in range(self.samples):
            self.found[b][node.name] = Counter()
        match node:
            case ir.HeldCurrent():
                wires = connections(node, self.graph[node.inputs[0]].shape, stored_zeros=True)
                for b in range(self.samples):
                    self.found[b][node.name]["macs"] += sum(1 for targets in wires for _ in targets)
            case ir.Synapse():
                self.synapse(node)
            case ir.FixedLIF():
                self.population(node)
            case ir.Received():
                self.received(node)
            case ir.FixedUnitCurrent():
                self.unit(node)
            case ir.Product():
                self.product(node)

    def synapse(self, node: ir.Synapse) -> None:
        source = self.graph[node.inputs[0]]
        single = getattr(source, "role", "") == "coincidence"
        for reader in self.graph.readers[node.name]:
            single |= getattr(reader, "role", "") in ("coincidence", "relay")
        wires = connections(node, source.shape, stored_zeros=not single)
        shifts = [int(exp) for exp in node.row_exp]
        per_row = math.prod(node.shape) // len(shifts)
        bits = payload(source, self.graph)
        sums = [[[0] * math.prod(node.shape) for _ in range(self.samples)] for _ in range(self.T)]
        hit = [[set[int]() for _ in range(self.samples)] for _ in range(self.T)]
        for t, b in pairs_of(range(self.T), range(self.samples)):
            cost = self.found[b][node.name]
            for neuron, message in enumerate(self.values[source.name][t][b]):
                if message == 0:
                    continue
                graded = isinstance(source, ir.Product) or message not in (1, -1)
                cost["events"] += 1
                cost["events_graded"] += graded
                cost["payload_bits"] += bits if graded else 0
                for target, weight in wires[neuron]:
                    cost["sop_stored"] += 1
                    cost["sop_graded"] += graded
                    if weight != 0:
                        cost["sop_nonzero"] += 1
                        hit[t][b].add(target)
                        sums[t][b][target] += message * (weight << shifts[target // per_row])
        self.hit[node.name], self.sums[node.name] = hit, sums

    def population(self, node: ir.FixedLIF) -> None:
        neurons = range(math.prod(node.shape))
        for t, b in pairs_of(range(self.T), range(self.samples)):
            cost = self.found[b][node.name]
            for neuron in neurons:
                cost["updates"] += 1
                cost["spikes"] += self.values[node.name][t][b][neuron]
                cost["driven"] += any(neuron in self.hit[s][t][b] for s in node.inputs if s in self.hit)

    def sent(self, node: ir.Product, values: Values) -> None:
        """Keep what a product sends, and whom its results reach."""
        self.values[node.name] = values
        self.hit[node.name] = [[{i for i, x in enumerate(xs) if x} for xs in step] for step in values]
        for t, b in pairs_of(range(self.T), range(self.samples)):
            self.found[b][node.name]["nonzero"] += len(self.hit[node.name][t][b])

    def total(self, names: tuple[str, ...], t: int, b: int) -> list[int]:
        return [sum(parts) for parts in zip(*(self.sums[name][t][b] for name in names), strict=True)]

    def received(self, node: ir.Received) -> None:
        """Sums from the chip to the host and integers back, in every step."""
        values: Values = [[[] for _ in range(self.samples)] for _ in range(self.T)]
        channels, size = node.shape[0], math.prod(node.shape)
        for t, b in pairs_of(range(self.T), range(self.samples)):
            cost = self.found[b][node.name]
            cost["answers"] += 1
            cost["messages"] += size
            if isinstance(node, ir.FixedStepGain):
                x, (w,) = self.total(node.inputs[: node.factors], t, b), self.total(node.inputs[node.factors :], t, b)
                gain = (w + int(node.bias.ravel()[0]) + ((1 << node.shift) >> 1)) >> node.shift
                values[t][b] = [node.gain * gain * each for each in x]
                cost["macs"] += len(x)
                continue
            assert isinstance(node, ir.FixedLayerNorm)
            x = self.total(node.inputs, t, b)
            tokens = size // channels
            bias = _broadcast(node.bias, node.shape)
            x = [each + add for each, add in zip(x, bias, strict=True)]
            values[t][b] = [0] * size
            for n in range(tokens):
                token = [x[c * tokens + n] for c in range(channels)]
                squares = sum(each * each for each in token)
                root = math.sqrt(channels * squares - sum(token) ** 2 + node.eps)
                cost["macs"] += len(token)
                cost["roots"] += 1
                for c, each in enumerate(token):
                    z = channels * each - sum(token)
                    cost["macs"] += 1  # its distance from the mean
                    if node.variant:
                        cost["macs"] += 1
                        y = round(z * root * 2.0**-node.shift)
                    else:
                        cost["divisions"] += 1
                        y = round((z << node.shift) / root) if root > 0 else round(float(z << node.shift))
                    values[t][b][c * tokens + n] = y * node.gain
        self.sent(node, values)

    def unit(self, node: ir.FixedUnitCurrent) -> None:
        """Counts of a window to length 1, on the host; nobody but populations and answers reads the result."""
        for b in range(self.samples):
            cost, counters = self.found[b][node.name], 0
            for name, pooled in zip(node.inputs, node.pooled, strict=True):
                shape = self.graph[name].shape
                for t in range(self.T):
                    for bit in self.values[name][t][b]:
                        cost["accs"] += bit
                counters += shape[0] if pooled else math.prod(shape)
                cost["roots"] += 1
            for _ in range(counters):
                cost["macs"] += 1  # squared
                cost["divisions"] += 1
            for _row, _column in pairs_of(range(node.weight.shape[0]), range(counters)):
                cost["macs"] += 1
        weight = node.weight.tolist()
        values: Values = [[[] for _ in range(self.samples)] for _ in range(self.T)]
        for b in range(self.samples):
            entries: list[int] = []
            for name, pooled in zip(node.inputs, node.pooled, strict=True):
                entries += self.unit_vector(name, pooled, b)
            row = [sum(w * e for w, e in zip(ws, entries, strict=True)) for ws in weight]
            half = (1 << node.shift) >> 1
            row = [(x + int(add) + half) >> node.shift for x, add in zip(row, node.bias.ravel(), strict=True)]
            for t in range(self.T):
                values[t][b] = [node.gain * x for x in row]
        self.sent(node, values)

    def unit_vector(self, name: str, pooled: bool, b: int) -> list[int]:
        shape = self.graph[name].shape
        each = math.prod(shape[1:]) if pooled else 1
        counted = [0] * (math.prod(shape) // each)
        for t in range(self.T):
            for i, bit in enumerate(self.values[name][t][b]):
                counted[i // each] += bit
        length = math.sqrt(sum(z * z for z in counted))
        return [round((z << 15) / length) if length else 0 for z in counted]

    def product(self, node: ir.Product) -> None:
        shapes = [self.graph[name].shape for name in node.inputs]
        values: Values = [[[] for _ in range(self.samples)] for _ in range(self.T)]
        for b in range(self.samples):
            window = [[self.values[name][t][b] for t in range(self.T)] for name in node.inputs]
            cost = self.found[b][node.name]
            for t, row in enumerate(results(node, shapes, window)):
                values[t][b] = [node.gain * x for x in row]
            for t in range(self.T):
                operations(node, shapes, [each[t] for each in window], cost)
            if isinstance(node, ir.FixedProductOfSums):
                cost["muls"] += sum(1 for t in range(self.T) for y in values[t][b] if y)
        self.sent(node, values)


def connections(node: Node, source: Shape, *, stored_zeros: bool) -> Wires:
    """Who is connected to whom; a weight of 0 is stored or is no connection at all."""
    assert isinstance(node, ir.FixedConv2d | ir.FixedLinear | ir.HeldCurrent)
    weight = node.weight if isinstance(node, ir.HeldCurrent) else node.weight_mant
    wires: Wires = [[] for _ in range(math.prod(source))]
    if weight.ndim == 2:
        for target, row in enumerate(weight.tolist()):
            for neuron, each in enumerate(row):
                if each or stored_zeros:
                    wires[neuron].append((target, each))
        return wires
    assert not isinstance(node, ir.FixedLinear)
    outs, ins, rows, columns = weight.shape
    (_, height, width), table = source, weight.tolist()
    _, targets_y, targets_x = node.shape
    for o, y, x in pairs_of(range(outs), range(targets_y), range(targets_x)):
        group = o // (outs // node.groups)
        for i, k, m in pairs_of(range(ins), range(rows), range(columns)):
            sy = y * node.stride[0] + k * node.dilation[0] - node.padding[0]
            sx = x * node.stride[1] + m * node.dilation[1] - node.padding[1]
            if not (0 <= sy < height and 0 <= sx < width):
                continue  # padding is nobody
            if table[o][i][k][m] or stored_zeros:
                target = (o * targets_y + y) * targets_x + x
                wires[((group * ins + i) * height + sy) * width + sx].append((target, table[o][i][k][m]))
    return wires


def operations(node: ir.Product, shapes: list[Shape], now: list[list[int]], cost: Counter[str]) -> None:
    """AND and ACC of one step; ``now`` are the spikes of each source."""
    spikes = [[_place(shape, i) for i, bit in enumerate(bits) if bit] for shape, bits in zip(shapes, now, strict=True)]
    match node:
        case ir.FixedAttention(heads=heads):
            d, wide = shapes[1][0] // heads, shapes[2][0] // heads
            for (c, n), (e, m) in pairs_of(spikes[1], spikes[2]):
                if n == m and c // d == e // wide:
                    cost["ands"] += 1
                    cost["accs"] += 1
            for _query in spikes[0]:
                for _counter in range(wide):
                    cost["accs"] += 1
        case ir.FixedAttentionMap():
            for (c, _), (e, _) in pairs_of(spikes[0], spikes[1]):
                if c == e:
                    cost["ands"] += 1
                    cost["accs"] += 1
        case ir.FixedMappedValues():
            heads, _, keys = shapes[0]
            for (head, place), (c, n) in pairs_of(spikes[0], spikes[1]):
                if head == c // (shapes[1][0] // heads) and place % keys == n:
                    cost["ands"] += 1
                    cost["accs"] += 1
        case ir.FixedProductOfSums():
            for _spike in (*spikes[0], *spikes[1]):
                cost["accs"] += 1
        case _:
            raise AssertionError(node.kind)


def results(node: ir.Product, shapes: list[Shape], window: list[list[list[int]]]) -> list[list[int]]:
    """What a product makes of the windows of its sources, [step][neuron], its gain left out."""
    T, size = len(window[0]), math.prod(node.shape)
    found = [[0] * size for _ in range(T)]
    queries = math.prod(node.shape[1:])
    tokens = [math.prod(shape[1:]) for shape in shapes]
    at = [
        [[x[t][c * N : (c + 1) * N] for c in range(s[0])] for t in range(T)]
        for x, s, N in zip(window, shapes, tokens, strict=True)
    ]  # [source][step][channel][token]
    for t in range(T):
        match node:
            case ir.FixedAttention(heads=heads, over=over):
                d, wide = shapes[0][0] // heads, shapes[2][0] // heads
                for e, m in pairs_of(range(shapes[2][0]), range(queries)):
                    rows = range(e // wide * d, (e // wide + 1) * d)
                    others = [(t, n) for n in range(tokens[1])] if over == "space" else [(s, m) for s in range(T)]
                    for s, n in others:
                        if at[2][s][e][n]:
                            found[t][e * queries + m] += sum(at[0][t][c][m] * at[1][s][c][n] for c in rows)
            case ir.FixedAttentionMap(heads=heads):
                d = shapes[0][0] // heads
                for h, m, n in pairs_of(range(heads), range(tokens[0]), range(tokens[1])):
                    same = sum(at[0][t][c][m] * at[1][t][c][n] for c in range(h * d, (h + 1) * d))
                    found[t][(h * tokens[0] + m) * tokens[1] + n] = same
            case ir.FixedMappedValues():
                heads, asking, keys = shapes[0]
                for c, m in pairs_of(range(shapes[1][0]), range(asking)):
                    chosen = at[0][t][c // (shapes[1][0] // heads)][m * keys : (m + 1) * keys]
                    found[t][c * asking + m] = sum(chosen[n] * at[1][t][c][n] for n in range(keys))
            case ir.FixedProductOfSums():
                for c, n in pairs_of(range(shapes[1][0]), range(tokens[1])):
                    found[t][c * tokens[1] + n] = sum(at[0][t][c]) * sum(at[1][s][c][n] for s in range(T))
            case _:
                raise AssertionError(node.kind)
    return found


def payload(source: Node, graph: Graph) -> int:
    """Bits that hold every value a source can send; 0 where all are 0 or 1."""
    match source:
        case ir.FixedLIF():
            return 0
        case ir.FixedInput():
            low, high = source.low, source.high
        case ir.Received():
            low, high = -abs(source.gain) * source.levels, abs(source.gain) * source.levels
        case ir.Product():
            shapes = [graph[name].shape for name in source.inputs]
            full = [[[1] * math.prod(shape)] * graph.timesteps for shape in shapes]
            most = source.gain * max(max(row) for row in results(source, shapes, full))
            low, high = min(0, most), max(0, most)
        case _:
            raise AssertionError(source.kind)
    if (low, high) in ((0, 1), (0, 0)):
        return 0
    bits = 1
    while high >= 1 << (bits - (low < 0)) or (low < 0 and low < -(1 << (bits - 1))):
        bits += 1
    return bits


def _place(shape: Shape, index: int) -> tuple[int, int]:
    """(channel, token) of a flat index."""
    return divmod(index, math.prod(shape[1:]))


def _broadcast(array: Array, shape: Shape) -> list[int]:
    """One integer per neuron: of all, of its channel, or its own."""
    flat, size = [int(x) for x in array.ravel()], math.prod(shape)
    assert len(flat) in (1, shape[0], size), (len(flat), shape)
    return [flat[i * len(flat) // size] for i in range(size)]
