"""Turns lava-dl's ``.net`` files (HDF5) into scheduled graphs: chains of input, flatten, conv and dense layers of LIF.

The files are written by `lava.lib.dl.slayer` and read by `lava.lib.dl.netx` (lava-dl 0.6.0, BSD-3-Clause,
https://github.com/lava-nc/lava-dl). Meaning is netx's: ``decay_u = iDecay - 1``, ``decay_v = vDecay``,
``threshold_mant = vThMant``, biases times 2^6, dense delays by target neuron. Where netx ignores or clips what would
change the result, this reader refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from avsnn.convert.ir.fixed_nodes import FixedConv2d, FixedInput, FixedLIF, FixedLinear, HeldCurrent, Synapse
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import conv_size
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.deploy.formats.net_file import NetLayer, load
from avsnn.errors import CapabilityError, InputError
from avsnn.hw_profiles.formats import SIGN_MODES

BIAS_EXP = 6  # netx gives every bias this exponent
MAX_DELAY_STEPS = 62
MAX_BIAS = (1 << 15) - 1  # stored as int16 by Lava
NEURONS = ("LOIHI", "CUBA")


def read_net(
    source: str | Path | BinaryIO,
    *,
    timesteps: int | None = None,
    reset_interval: int = 0,
    layers: int | None = None,
) -> Graph:
    """Read a ``.net`` file into a graph of stage ``scheduled``, its answer the spikes of the last layer.

    Populations are named ``layer<i>`` by their group in the file, the input ``input``. An input layer with a neuron
    takes integers that are its bias mantissas (B, C, H, W), quantised by the caller (the file's ``weight`` and ``bias``
    of that layer say how; like netx, nothing here applies them); (N,) is taken as (N, 1, 1). Without a neuron it takes
    spikes (T, B, *shape).

    Args:
        source: path or open binary file.
        timesteps: T; None takes ``simulation/tSample`` from the file.
        reset_interval: steps between resets, phased so that each population resets when step 0 arrives; 0 is never.
        layers: read only so many groups, for instance all before a final ``average``.

    Raises:
        InputError: no such file, not HDF5, damaged, or numbers that no chip stores.
        CapabilityError: a layer, neuron or option that the graph cannot express, named by its index; or h5py missing.
    """
    content = load(source)
    where = str(source) if isinstance(source, str | Path) else "net file"
    groups = sorted(
        {int(key.split("/")[1]) for key in content if key.startswith("layer/") and key.split("/")[1].isdigit()}
    )
    if not groups or groups != list(range(len(groups))):
        raise InputError("layers are not numbered 0, 1, 2, ...", where=where, found=groups)
    if layers is not None and not 1 <= layers <= len(groups):
        raise InputError("cannot read so many layers", where=where, found=layers, limit=f"1 to {len(groups)}")
    steps = timesteps if timesteps is not None else int(content.get("simulation/tSample", np.int64(0)))
    if steps < 1 or reset_interval < 0:
        raise InputError("needs timesteps >= 1 and reset_interval >= 0", where=where, found=(steps, reset_interval))
    chain = _Chain(reset_interval=reset_interval)
    for index in groups[:layers]:
        prefix = f"layer/{index}/"
        rows = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
        chain.add(NetLayer(name=f"layer{index}", where=f"{where} layer {index}", values=rows))
    last = chain.nodes[-1]
    if not isinstance(last, FixedLIF):
        raise InputError("no layer with neurons", where=where)
    return Graph(nodes=tuple(chain.nodes), outputs=(last.name,), timesteps=steps, stage="scheduled")


@dataclass(kw_only=True)
class _Chain:
    """The graph while it grows: the last emitter, its shape (before any flattening) and when its step 0 is there."""

    reset_interval: int
    nodes: list[Node] = field(default_factory=list)
    shape: Shape = ()
    offset: int = 0

    def add(self, layer: NetLayer) -> None:
        if (layer.type == "input") != (not self.nodes):
            raise CapabilityError("the first layer, and no other, is the input", where=layer.where, found=layer.type)
        layer.check_keys()
        match layer.type:
            case "input":
                self._input(layer)
            case "flatten":
                if math.prod(layer.shape) != math.prod(self.shape):
                    raise InputError(
                        "does not flatten its source", where=layer.where, found=layer.shape, limit=self.shape
                    )
                self.shape = (math.prod(self.shape),)
            case "conv":
                self._population(layer, self._conv(layer))
            case "dense":
                self._population(layer, self._dense(layer))
            case _:
                raise CapabilityError("unknown layer type", where=layer.where, found=layer.type)

    def _input(self, layer: NetLayer) -> None:
        self.shape = layer.shape
        if not layer.has_neuron:
            self.nodes.append(FixedInput(name="input", shape=self.shape, coding="sequence", low=0, high=1, step=1.0))
            return
        self.shape = (*self.shape, 1, 1)[:3] if len(self.shape) == 1 else self.shape
        if len(self.shape) != 3:
            raise InputError("input is neither (N,) nor (C, H, W)", where=layer.where, found=self.shape)
        self.nodes += [
            FixedInput(name="input", shape=self.shape, coding="direct", low=-MAX_BIAS - 1, high=MAX_BIAS, step=1.0),
            HeldCurrent(
                name=f"{layer.name}.image",
                inputs=("input",),
                shape=self.shape,
                weight=np.ones((self.shape[0], 1, 1, 1), np.int64),  # the identity: every channel to itself
                bias=np.zeros(1, np.int64),
                groups=self.shape[0],
                port="bias",
                origin=layer.where,
            ),
        ]
        self.nodes.append(self._lif(layer, f"{layer.name}.image", np.zeros(1, np.int64)))

    def _conv(self, layer: NetLayer) -> Synapse:
        weight = layer.integers("weight")
        weight = weight[..., 0] if weight.ndim == 5 and weight.shape[-1] == 1 else weight
        groups = layer.integer("groups", 1, 1 << 20) if "groups" in layer.values else 1
        if "delay" in layer.values:
            layer.neutral("delay", 0)  # netx has no delayed convolution and drops it without a word
        stride, padding, dilation = layer.pair("stride", 1), layer.pair("padding", 0), layer.pair("dilation", 1)
        if weight.ndim != 4 or len(self.shape) != 3 or weight.shape[1] * groups != self.shape[0]:
            raise InputError("weight does not fit its source", where=layer.where, found=weight.shape, limit=self.shape)
        size = conv_size((self.shape[1], self.shape[2]), weight.shape[2:], stride, padding, dilation)
        if layer.shape != (len(weight), *size):
            found, limit = layer.shape, (len(weight), *size)
            raise InputError("shape is not what its weight makes", where=layer.where, found=found, limit=limit)
        return FixedConv2d(
            **self._common(layer, weight),
            shape=layer.shape,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    def _dense(self, layer: NetLayer) -> Synapse:
        out, sources = math.prod(layer.shape), math.prod(self.shape)
        weight = layer.integers("weight")
        if weight.size != out * sources or (weight.ndim > 1 and weight.shape[0] != out):
            raise InputError("weight does not fit", where=layer.where, found=weight.shape, limit=(out, sources))
        delay = layer.integers("delay") if "delay" in layer.values else np.int64(0)
        if np.min(delay) < 0 or np.max(delay) > MAX_DELAY_STEPS:
            found = f"{np.min(delay)} to {np.max(delay)}"
            raise InputError("delay out of range", where=layer.where, found=found, limit=f"0 to {MAX_DELAY_STEPS}")
        if np.size(delay) not in (1, out):
            raise CapabilityError("delays by source neuron", where=layer.where, found=np.shape(delay), limit=(out,))
        per_target = np.size(delay) == out and out > 1
        return FixedLinear(
            **self._common(layer, weight.reshape(out, sources)),
            shape=(out,),
            delay=0 if per_target else int(np.ravel(delay)[0]),
            output_delay=np.ravel(delay) if per_target else None,
        )

    def _common(self, layer: NetLayer, weight: Array) -> dict[str, Any]:
        """What both connections have; the sign mode is the one that netx derives."""
        low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
        mode = SIGN_MODES[1] if low >= 0 else SIGN_MODES[2] if high <= 0 else SIGN_MODES[0]
        bad_mixed = mode == "mixed" and bool((weight % 2).any())
        if low < (-256 if mode == "mixed" else -255) or high > (254 if mode == "mixed" else 255) or bad_mixed:
            raise InputError(
                "weights that the chip does not store",
                where=layer.where,
                found=f"{low} to {high}{', some odd' if bad_mixed else ''}",
                limit="even in -256..254 if signs are mixed, else 0..255 or -255..0",
            )
        source = self.nodes[-1].name
        return {
            "name": f"{layer.name}.{layer.type}",
            "inputs": (source,),
            "weight_mant": weight,
            "sign_mode": mode,
            "origin": layer.where,
        }

    def _population(self, layer: NetLayer, synapse: Synapse) -> None:
        self.offset += 1 + synapse.delay
        self.shape = synapse.shape
        bias: Array = layer.integers("bias").ravel() if "bias" in layer.values else np.zeros(1, np.int64)
        if np.abs(bias).max(initial=0) > MAX_BIAS:
            raise InputError("bias out of range", where=layer.where, found=int(np.abs(bias).max()), limit=MAX_BIAS)
        if bias.size == math.prod(self.shape) and bias.size > 1:
            bias = bias.reshape(self.shape)
        elif bias.size not in (1, self.shape[0]):
            raise InputError("bias does not fit", where=layer.where, found=bias.shape, limit=self.shape)
        self.nodes += [synapse, self._lif(layer, synapse.name, bias)]

    def _lif(self, layer: NetLayer, source: str, bias: Array) -> FixedLIF:
        if not layer.has_neuron:
            raise CapabilityError(
                "a layer without neuron", where=layer.where, remedy="pass layers= to read those before"
            )
        if (kind := layer.text("neuron/type")) not in NEURONS:
            raise CapabilityError("unknown neuron", where=layer.where, found=kind, limit=", ".join(NEURONS))
        return FixedLIF(
            name=layer.name,
            inputs=(source,),
            shape=self.shape,
            origin=layer.where,
            decay_u=layer.integer("neuron/iDecay", 0, 4096) - 1,
            decay_v=layer.integer("neuron/vDecay", 0, 4096),
            threshold_mant=layer.integer("neuron/vThMant", 0, (1 << 17) - 1),
            bias_mant=bias,
            bias_exp=BIAS_EXP,
            reset_interval=self.reset_interval,
            reset_phase=self.offset % self.reset_interval if self.reset_interval else 0,
            offset=self.offset,
            saturates=True,  # as Lava's neurons do, for which the file was made
        )
