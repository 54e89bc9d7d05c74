"""Build and run the network of network.json and weights.npz on Lava: lava-nc 0.10.0, Python 3.10, nothing else.

python network.py INPUTS.npz OUT_DIR [--record all|spikes|none]      (README.txt describes the files)

All synapses, sources and populations are stock Lava Processes in their ``fixed_pt`` models, except populations whose
reset subtracts or whose window ends early; these and products of activity are Processes of this folder. Features are
flattened in (channel, height, width) order. Samples follow each other every ``timesteps`` wall-clock steps.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # running leaves this folder as it was
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # for tables.py and recorder/, whoever imports this file

from tables import NetworkError, StateError, check_inputs, held, in_order, load, matrix, wall_clock  # noqa: E402

RECORD = ("all", "spikes", "none")
STATE_LIMIT = 2**23  # u is 24-bit signed; beyond, Lava wraps it
BIAS_LIMIT = 2**15  # Lava keeps bias mantissas in int16
CURRENT_LIMIT = 2**31  # and messages in int32
CHANNEL_SLOTS = 8  # messages a channel can hold: memory, not meaning


class Network:
    """The Lava Processes of one run.

    Args:
        tables, arrays: from `load`.
        inputs, samples: from `check_inputs`.
        out: folder for the recorders' files.
        record: "all" (spikes, u, v), "spikes", "none" (read-outs alone), or the names of populations to record in full.

    Attributes:
        sources: name of a row to the OutPort that carries its messages.
        biases: name of a current that enters as a bias to its value, in units of v.
        files: kind of record to name to file.
        guards: name of a population to the file with the largest magnitude of its u.
    """

    def __init__(self, tables, arrays, inputs, samples, out, record):
        self.tables, self.arrays, self.samples, self.out, self.record = tables, arrays, samples, out, record
        self.timesteps = tables["timesteps"]
        late = max((row["offset"] for row in (*tables["populations"], *tables["readouts"])), default=0)
        self.steps = samples * self.timesteps + late
        self.processes, self.sources, self.biases, self.guards = [], {}, {}, {}
        self.files = {"spikes": {}, "u": {}, "v": {}, "sums": {}}
        for row in tables["inputs"]:
            if row["played"]:
                self.play(row, inputs[row["name"]])
        for row in tables["currents"]:
            self.add_current(row, inputs[row["input"]])
        add = {"synapses": self.add_synapse, "populations": self.add_population, "readouts": self.add_readout}
        add["products"] = self.add_product
        for table, row in in_order(tables):
            add[table](row)

    def add(self, process):
        """Keep and return a process."""
        self.processes.append(process)
        return process

    def play(self, row, values):
        """Add a ring buffer that sends ``values`` over wall-clock time."""
        from lava.proc.io.source import RingBuffer

        stream = wall_clock(values, row, self.timesteps, self.steps)
        self.sources[row["name"]] = self.add(RingBuffer(data=stream)).s_out

    def add_current(self, row, x):
        """Add a held current, or keep it for the bias of its population."""
        current = held(row, self.arrays, x)
        if row["port"] == "current":
            largest = int(np.abs(current).max())
            if largest >= CURRENT_LIMIT:
                raise StateError(f"current {row['name']} does not fit 32 bits: {largest}")
            self.play(row, current)
            return
        if self.samples != 1:
            raise NetworkError(f"current {row['name']} enters as a bias, constant in Lava: run one sample at a time")
        self.biases[row["name"]] = current[0] << 6

    def add_synapse(self, row):
        """Add a Sparse, or a DelaySparse where the synapse waits."""
        from lava.proc.sparse.process import DelaySparse, Sparse
        from lava.utils.weightutils import SignMode

        weights = matrix(row, self.arrays[row["weight"]])
        options = {
            "weights": weights,
            "num_message_bits": row["message_bits"],
            "weight_exp": row["weight_exp"],
            "sign_mode": SignMode[row["sign_mode"].upper()],
        }
        delays = row["delay"] + (self.arrays[row["output_delay"]] if row["output_delay"] else np.zeros(1, np.int64))
        if delays.any() and weights.nnz:
            waits = np.repeat(np.broadcast_to(delays, weights.shape[:1]), np.diff(weights.indptr)).astype(np.int64)
            waits = scipy.sparse.csr_matrix((waits, weights.indices, weights.indptr), shape=weights.shape)
            synapse = DelaySparse(delays=waits, max_delay=int(delays.max()), **options)
        else:
            synapse = Sparse(**options)
        self.sources[row["source"]].connect(self.add(synapse).s_in)
        self.sources[row["name"]] = synapse.a_out

    def add_product(self, row):
        """Add a product of populations, or what a host makes of synapses: several may add up in one of its ports."""
        from products.process import KINDS

        timing = {name: row[name] for name in ("gain", "delays", "window", "start")}
        arrays = {argument: self.arrays[name] for argument, name in row.get("arrays", {}).items()}
        process = self.add(KINDS[row["kind"]](**row["sizes"], **timing, **arrays))
        joined = row.get("joined", [1] * len(row["inputs"]))
        ports = np.repeat(process.FACTORS, joined).tolist()
        for port, source in zip(ports, row["inputs"], strict=True):
            self.sources[source].connect(getattr(process, port))
        self.sources[row["name"]] = process.out

    def add_population(self, row):
        """Add neurons with their guard and their recorder."""
        size = int(np.prod(row["shape"]))
        neuron = self.add(self.neurons(row, size))
        ports = [self.sources[name] for name in row["inputs"] if name not in self.biases]
        for port in ports:
            port.connect(neuron.a_in)
        self.sources[row["name"]] = neuron.s_out
        if row["guard"]:
            self.watch(row, size, ports)
        if self.kinds(row["name"]):
            self.listen(row, neuron)

    def neurons(self, row, size):
        """Return a LIFReset, a LIF where nothing is ever reset, or a WindowLIF where stock neurons do not suffice."""
        from lava.proc.lif.process import LIF, LIFReset
        from neurons.process import WindowLIF

        mantissa, exponent = self.bias(row, size)
        options = {"shape": (size,), "du": row["decay_u"], "dv": row["decay_v"], "vth": self.constant(row["threshold"])}
        options.update(bias_mant=mantissa, bias_exp=exponent)
        windows = {name: row[name] for name in ("reset_interval", "reset_offset")}
        if row["reset"] != "hard" or row["steps"]:
            options.update(subtract=self.constant(row["subtract"]), reset=row["reset"], steps=row["steps"])
            return WindowLIF(**options, **windows)
        return LIFReset(**options, **windows) if row["reset_interval"] else LIF(**options)

    def constant(self, value):
        """Return an integer for all neurons, or the array with one for each that ``value`` names."""
        return self.arrays[value].astype(np.int32) if isinstance(value, str) else value

    def bias(self, row, size):
        """Return (mantissas, exponent) of a population's bias, bias ports included."""
        total = np.broadcast_to(self.arrays[row["bias"]].astype(np.int64), (size,)) << row["bias_exp"]
        total = total + sum(self.biases[name] for name in row["inputs"] if name in self.biases)
        exponent = row["bias_exp"]
        while exponent and (total & ((1 << exponent) - 1)).any():
            exponent -= 1
        mantissa = total >> exponent
        if mantissa.min() < -BIAS_LIMIT or mantissa.max() >= BIAS_LIMIT:
            found = f"{mantissa.min()} to {mantissa.max()}"
            raise StateError(f"bias of {row['name']} needs mantissas {found}, Lava keeps 16 bits")
        return mantissa, exponent

    def watch(self, row, size, ports):
        """Guard a population whose weights alone do not bound its u."""
        from recorder.process import Guard

        file = self.out / f"population_{row['index']:03d}_guard.npy"
        constants = {name: row[name] for name in ("decay_u", "reset_interval", "reset_offset", "steps")}
        guard = self.add(Guard(shape=(size,), file=str(file), **constants))
        for port in ports:
            port.connect(guard.data)
        self.guards[row["name"]] = file

    def listen(self, row, neuron):
        """Record one population."""
        from recorder.process import Probe, Tap

        kinds = self.kinds(row["name"])
        names = {kind: f"population_{row['index']:03d}_{kind}.npy" for kind in kinds}
        files = {kind: (str(self.out / name), kinds[kind]) for kind, name in names.items()}
        files["data"] = files.pop("spikes")
        recorder = self.add((Probe if "u" in kinds else Tap)(**self.window(row), files=files))
        neuron.s_out.connect(recorder.data)
        if "u" in kinds:
            recorder.u.connect_var(neuron.u)
            recorder.v.connect_var(neuron.v)
        for kind, name in names.items():
            self.files[kind][row["name"]] = name

    def kinds(self, name):
        """Return what to record of a population: kind to dtype of its file."""
        if self.record == "all" or (not isinstance(self.record, str) and name in self.record):
            return {"spikes": "?", "u": "<i4", "v": "<i4"}
        return {"spikes": "?"} if self.record == "spikes" else {}

    def add_readout(self, row):
        """Record what arrives; `collect` sums it."""
        from recorder.process import Tap

        name = f"readout_{row['index']:03d}_sums.npy"
        tap = self.add(Tap(**self.window(row), files={"data": (str(self.out / name), "<i4")}))
        for source in row["inputs"]:
            self.sources[source].connect(tap.data)
        self.files["sums"][row["name"]] = name

    def window(self, row):
        """Return what a recorder must know to cut wall-clock steps into windows."""
        shape, offset = tuple(row["shape"]), row["offset"]
        return {"features": shape, "timesteps": self.timesteps, "samples": self.samples, "offset": offset}

    def run(self):
        """Run all steps on Lava's runtime, one connected part after the other."""
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg

        for process in self.processes:
            if not process.is_compiled:
                process.run(
                    condition=RunSteps(num_steps=self.steps),
                    run_cfg=Loihi2SimCfg(select_tag="fixed_pt"),
                    compile_config={"loglevel": logging.INFO, "pypy_channel_size": CHANNEL_SLOTS},
                )
                process.stop()

    def check_guards(self):
        """Raise if the u of a guarded population left its 24 bits."""
        for name, file in self.guards.items():
            largest = int(np.load(file, allow_pickle=False)[0])
            if largest >= STATE_LIMIT:
                raise StateError(f"u of {name} leaves its 24 bits: {largest}, limit {STATE_LIMIT - 1}")


def collect(network):
    """Sum the read-outs; return name to file for every kind of result."""
    found = {"outputs": {}, "spikes": network.files["spikes"], "u": network.files["u"], "v": network.files["v"]}
    for row in network.tables["readouts"]:
        sums = network.files["sums"][row["name"]]
        steps = np.load(network.out / sums, allow_pickle=False).astype(np.int64)
        counted = network.arrays[row["step_weights"]] if row["step_weights"] else np.ones(len(steps), dtype=np.int64)
        arrived = np.tensordot(counted.astype(np.int64), steps, axes=1)
        found["outputs"][row["name"]] = sums.replace("_sums", "")
        np.save(network.out / sums.replace("_sums", ""), arrived + network.arrays[row["bias"]])
    return found


def run(inputs, out, record="all", drive=None):
    """Run the network on ``inputs`` (name to integers) and write everything to ``out``; return run.json's content.

    ``drive(processes, steps)``, if given, takes the place of Lava's runtime.

    Raises:
        NetworkError: inputs that do not fit; StateError: a value outside the arithmetic that Lava defines.
    """
    if isinstance(record, str) and record not in RECORD:
        raise NetworkError(f"record is {record!r}, not one of {', '.join(RECORD)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # Lava reports its models' exceptions as INFO
    clock = [time.perf_counter()]
    tables, arrays = load(HERE)
    if unknown := set(() if isinstance(record, str) else record) - {row["name"] for row in tables["populations"]}:
        raise NetworkError(f"no population {', '.join(sorted(unknown))} to record")
    checked, samples = check_inputs(tables, inputs)
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    network = Network(tables, arrays, checked, samples, out, record)
    clock.append(time.perf_counter())
    if drive is None:
        network.run()
    else:
        drive(network.processes, network.steps)
    network.check_guards()
    clock.append(time.perf_counter())
    found = collect(network)
    seconds = {"build": clock[1] - clock[0], "run": clock[2] - clock[1]}
    found.update(steps=network.steps, processes=len(network.processes), seconds=seconds)
    (out / "run.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return found


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", metavar="INPUTS.npz", help="one integer array per input")
    parser.add_argument("out", metavar="OUT_DIR", help="folder for the results")
    parser.add_argument("--record", choices=RECORD, default="all", help="default: all")
    args = parser.parse_args()
    try:
        with np.load(args.inputs, allow_pickle=False) as file:
            inputs = {name: file[name] for name in file.files}
        found = run(inputs, args.out, args.record)
    except (OSError, ValueError) as error:
        sys.exit(f"network.py: {error}")
    sys.stdout.write(json.dumps({"steps": found["steps"], "seconds": found["seconds"]}) + "\n")


if __name__ == "__main__":
    main()
