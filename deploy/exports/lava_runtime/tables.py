"""Plain tables to plain numbers: inputs over wall-clock time, held currents, weight matrices. numpy and scipy only."""

import json
from pathlib import Path

import numpy as np
import scipy.sparse

HERE = Path(__file__).resolve().parent


class NetworkError(ValueError):
    """The inputs do not fit the network."""


class StateError(NetworkError):
    """A run left the arithmetic that Lava defines."""


def load(folder=HERE):
    """Return (tables, arrays) of the network in ``folder``."""
    tables = json.loads((Path(folder) / "network.json").read_text(encoding="utf-8"))
    with np.load(Path(folder) / "weights.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "meta.json"}
    return tables, arrays


def check_inputs(tables, inputs):
    """Return the inputs as int64 and the number of samples.

    Raises:
        NetworkError: missing, misshapen, not integers, or out of range.
    """
    checked, samples = {}, set()
    for row in tables["inputs"]:
        name, shape = row["name"], tuple(row["shape"])
        if name not in inputs:
            raise NetworkError(f"input {name} is missing; there are: {', '.join(inputs) or 'none'}")
        x = np.asarray(inputs[name])
        lead = x.shape[: x.ndim - len(shape)]
        right = len(lead) == 1 if row["coding"] == "direct" else len(lead) == 2 and lead[0] == row["steps"]
        if not right or x.shape[len(lead) :] != shape:
            wanted = "samples" if row["coding"] == "direct" else f"{row['steps']}, samples"
            raise NetworkError(f"input {name} has shape {x.shape}, not ({wanted}, {', '.join(map(str, shape))})")
        if not np.issubdtype(x.dtype, np.integer):
            raise NetworkError(f"input {name} is {x.dtype}; give integers, round(value / {row['step']})")
        if x.size and not row["low"] <= x.min() <= x.max() <= row["high"]:
            raise NetworkError(f"input {name} has {x.min()} to {x.max()}, range {row['low']} to {row['high']}")
        checked[name] = x.astype(np.int64)
        samples.add(lead[-1])
    if len(samples) != 1 or 0 in samples:
        raise NetworkError(f"inputs have {sorted(samples)} samples; all need the same number, at least one")
    return checked, samples.pop()


def wall_clock(x, row, timesteps, steps):
    """Return an input or held current as (n, steps): samples back to back, then zeros.

    A sequence that is shorter than ``timesteps`` is followed by zeros before the next sample begins.
    """
    direct = row.get("coding", "direct") == "direct"
    samples = len(x) if direct else x.shape[1]
    whole = np.zeros((samples, timesteps, x.size // (len(x) if direct else samples * len(x))), dtype=np.int32)
    if direct:
        whole[:] = x.reshape(samples, 1, -1)
    else:
        whole[:, : len(x)] = x.swapaxes(0, 1).reshape(samples, len(x), -1)
    padded = np.zeros((whole.shape[2], steps), dtype=np.int32)
    padded[:, : samples * timesteps] = whole.reshape(samples * timesteps, -1).T
    return padded


def held(row, arrays, x):
    """Return the current that each sample holds: ``(w x + bias + half) >> shift``, int64, (B, n)."""
    weight = matrix(row, arrays[row["weight"]], np.int64)
    total = (weight @ x.reshape(len(x), -1).T).T + arrays[row["bias"]].astype(np.int64)
    half = (1 << row["shift"]) >> 1
    return (total + half) >> row["shift"]


def matrix(row, weight, dtype=np.int32):
    """Return a synapse's weights as a sparse matrix (outputs, inputs) without zeros."""
    if row["kind"] == "linear":
        return scipy.sparse.csr_matrix(weight.astype(dtype))
    channels, height, width = row["source_shape"]
    outputs, rows_out, columns_out = row["shape"]
    group_out, group_in = outputs // row["groups"], channels // row["groups"]
    parts = []
    for ky in range(weight.shape[2]):
        for kx in range(weight.shape[3]):
            out_y, in_y = taps(rows_out, height, ky, row["stride"][0], row["padding"][0], row["dilation"][0])
            out_x, in_x = taps(columns_out, width, kx, row["stride"][1], row["padding"][1], row["dilation"][1])
            to = (out_y[:, None] * columns_out + out_x).ravel()
            of = (in_y[:, None] * width + in_x).ravel()
            channel_out, channel_in = np.nonzero(weight[:, :, ky, kx])
            values = weight[channel_out, channel_in, ky, kx]
            channel_in = channel_in + channel_out // group_out * group_in
            parts.append(
                (
                    (channel_out[:, None] * rows_out * columns_out + to).ravel(),
                    (channel_in[:, None] * height * width + of).ravel(),
                    np.repeat(values, to.size),
                )
            )
    to, of, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    shape = (outputs * rows_out * columns_out, channels * height * width)
    return scipy.sparse.csr_matrix((values.astype(dtype), (to, of)), shape=shape)


def taps(size_out, size_in, tap, stride, padding, dilation):
    """Return (output positions, input positions) that one kernel tap connects along one axis."""
    out = np.arange(size_out)
    position = out * stride - padding + tap * dilation
    inside = (position >= 0) & (position < size_in)
    return out[inside], position[inside]


def in_order(tables):
    """Return (table, row) of all but inputs and currents, each after what it reads; rows get their index."""
    rows = [
        (table, {**row, "index": index})
        for table in ("synapses", "products", "populations", "readouts")
        for index, row in enumerate(tables[table])
    ]
    return sorted(rows, key=lambda pair: pair[1]["order"])
