"""Exports against an integer loop written here, in logical time, from brute-force matrices: it knows no wall clock."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy import lava_env
from avsnn.deploy.backends import lava_worker
from avsnn.deploy.backends.lava import LavaRun, LavaWorker
from avsnn.deploy.exports.lava import write_lava
from avsnn.errors import BackendError, DomainError, InputError

FOUND = lava_env.doctor()
pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}"),
]
T, SAMPLES = 4, 5


def network(*, skip_delay: int = 3, phase_shift: int = 0) -> Graph:
    """A picture held for T steps and a graded sequence; a skip that waits; all three sign modes; biases; an OR."""
    rng = np.random.default_rng(7)

    def population(name: str, inputs: tuple[str, ...], shape: tuple[int, ...], offset: int, **own: object) -> Node:
        options: dict[str, object] = {
            "threshold_mant": 60,
            "decay_v": 2048,
            "bias_mant": rng.integers(-300, 600, shape),
            "reset_interval": T,
            "reset_phase": (offset + phase_shift) % T,
            "offset": offset,
        }
        return fixed.FixedLIF(name=name, inputs=inputs, shape=shape, **(options | own))  # type: ignore[arg-type]

    def mixed(*shape: int) -> Array:
        return 2 * rng.integers(-40, 50, shape)

    pool = np.ones((4, 1, 2, 2), dtype=np.int64)
    nodes = (
        fixed.FixedInput(name="image", shape=(1, 6, 6), coding="direct", low=0, high=15, step=1.0),
        fixed.FixedInput(name="sound", shape=(5,), coding="sequence", low=-3, high=3, step=1.0),
        fixed.HeldCurrent(
            name="first",
            inputs=("image",),
            shape=(4, 6, 6),
            weight=rng.integers(-9, 12, (4, 1, 3, 3)),
            bias=rng.integers(-20, 20, 4),
            padding=(1, 1),
            shift=2,
        ),
        population("a", ("first",), (4, 6, 6), 0),
        fixed.FixedConv2d(
            name="a.pool.wire",
            inputs=("a",),
            shape=(4, 3, 3),
            weight_mant=pool,
            sign_mode="excitatory",
            stride=(2, 2),
            groups=4,
        ),
        population(
            "a.pool", ("a.pool.wire",), (4, 3, 3), 1, threshold_mant=0, decay_v=4096, bias_mant=np.zeros(1, int)
        ),
        fixed.FixedConv2d(
            name="conv", inputs=("a.pool",), shape=(6, 3, 3), weight_mant=mixed(6, 4, 3, 3), padding=(1, 1)
        ),
        population("b", ("conv",), (6, 3, 3), 2, bias_exp=1),
        fixed.FixedLinear(
            name="hear", inputs=("sound",), shape=(6, 3, 3), weight_mant=mixed(54, 5), weight_exp=1, delay=2
        ),
        fixed.FixedConv2d(
            name="down",
            inputs=("b",),
            shape=(6, 3, 3),
            weight_mant=-rng.integers(0, 9, (6, 6, 1, 1)),
            sign_mode="inhibitory",
        ),
        population("c", ("hear", "down"), (6, 3, 3), 3, decay_u=3000),
        fixed.FixedLinear(name="out.c", inputs=("c",), shape=(10,), weight_mant=mixed(10, 54)),
        fixed.FixedLinear(name="out.a", inputs=("a",), shape=(10,), weight_mant=mixed(10, 144), delay=skip_delay),
        fixed.FixedReadout(
            name="head", inputs=("out.c", "out.a"), shape=(10,), bias=np.arange(10), scale=1.0, offset=4
        ),
    )
    return Graph(nodes=nodes, outputs=("head",), timesteps=T, stage="scheduled")


def inputs() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {"image": rng.integers(0, 16, (SAMPLES, 1, 6, 6)), "sound": rng.integers(-3, 4, (T, SAMPLES, 5))}


def matrix(node: fixed.Synapse | fixed.HeldCurrent, source: tuple[int, ...]) -> Array:
    """Weights as (outputs, inputs), one entry at a time."""
    weight = node.weight
    if isinstance(node, fixed.FixedLinear):
        return np.asarray(weight)
    assert isinstance(node, fixed.FixedConv2d | fixed.HeldCurrent)
    full = np.zeros((*node.shape, *source), dtype=np.int64)
    per_group, per_group_out = weight.shape[1], len(weight) // node.groups
    for o, i, ky, kx in np.ndindex(*weight.shape):
        for y, x in np.ndindex(*node.shape[1:]):
            row, column = y * node.stride[0] - node.padding[0] + ky, x * node.stride[1] - node.padding[1] + kx
            if 0 <= row < source[1] and 0 <= column < source[2]:
                full[o, y, x, i + o // per_group_out * per_group, row, column] = weight[o, i, ky, kx]
    return full.reshape(np.prod(node.shape), -1)


def loop(graph: Graph, given: dict[str, Array]) -> dict[str, Array]:
    """Every sample on its own, all layers in the same step: {"name.s" | "name.u" | "name.v" | "head"}."""
    found: dict[str, Array] = {}
    wires = {
        n.name: matrix(n, graph[n.inputs[0]].shape) for n in graph if isinstance(n, fixed.Synapse | fixed.HeldCurrent)
    }
    for lif in graph.of(fixed.FixedLIF):
        for kind in "suv":
            found[f"{lif.name}.{kind}"] = np.zeros((T, SAMPLES, np.prod(lif.shape)), dtype=np.int64)
    found["head"] = np.zeros((SAMPLES, 10), dtype=np.int64) + np.arange(10)
    for k in range(SAMPLES):
        u: dict[str, Array] = {}
        v: dict[str, Array] = {}
        for t in range(T):
            now: dict[str, Array] = {"image": given["image"][k].ravel(), "sound": given["sound"][t, k]}
            for node in graph:
                name = node.name
                if isinstance(node, fixed.HeldCurrent):
                    bias = np.repeat(node.bias, 36)
                    now[name] = (wires[name] @ now["image"] + bias + 2) // 4
                elif isinstance(node, fixed.Synapse):
                    now[name] = wires[name] @ now[node.inputs[0]]
                elif isinstance(node, fixed.FixedLIF):
                    a = sum(now[source] for source in node.inputs)
                    old_u, old_v = u.get(name, np.zeros(1)), v.get(name, np.zeros(1))
                    u[name] = np.trunc(old_u * (4095 - node.decay_u) / 4096).astype(int) + 64 * a
                    bias = np.broadcast_to(node.bias_mant, node.shape).ravel() * 2**node.bias_exp
                    v[name] = np.trunc(old_v * (4096 - node.decay_v) / 4096).astype(int) + u[name] + bias
                    now[name] = (v[name] > 64 * node.threshold_mant).astype(int)
                    v[name] = v[name] * (1 - now[name])
                    for kind, value in (("s", now[name]), ("u", u[name]), ("v", v[name])):
                        found[f"{name}.{kind}"][t, k] = value
                elif isinstance(node, fixed.FixedReadout):
                    found["head"][k] += sum(now[source] for source in node.inputs)
    return found


def flat(run: LavaRun) -> dict[str, Array]:
    """A Lava run as `loop` returns it."""
    found = dict(run.activity.outputs)
    for name, spikes in run.activity.spikes.items():
        states = run.activity.states[name]
        for kind, values in (("s", spikes), ("u", states["u"]), ("v", states["v"])):
            found[f"{name}.{kind}"] = values.reshape(T, SAMPLES, -1).astype(np.int64)
    return found


def differing(one: dict[str, Array], other: dict[str, Array]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if (one[name] != other[name]).any()}


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    with LavaWorker(timeout_s=120) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "lava"
    write_lava(network(), path)
    return path


def in_lava(worker: LavaWorker, graph: Graph, where: Path) -> dict[str, Array]:
    write_lava(graph, where / "lava")
    return flat(worker.run(where / "lava", inputs()))


def test_lava_equals_the_loop(worker: LavaWorker, folder: Path) -> None:
    run = worker.run(folder, inputs())
    expected, found = loop(network(), inputs()), flat(run)
    assert differing(expected, found) == set()
    for name in ("a", "a.pool", "b", "c"):
        rate = expected[f"{name}.s"].mean()
        assert 0.02 < rate < 0.98, f"{name} proves nothing at rate {rate}"
        assert (expected[f"{name}.v"] < 0).any() or name == "a.pool"
    assert run.activity.spikes["b"].dtype == np.bool_
    assert run.activity.spikes["b"].shape == (T, SAMPLES, 6, 3, 3)
    assert run.steps == SAMPLES * T + 4


def test_oracle_equals_the_runtime(worker: LavaWorker, folder: Path) -> None:
    assert differing(loop(network(), inputs()), flat(worker.run(folder, inputs(), oracle=True))) == set()


EXPONENTS: st.SearchStrategy[int | Array] = st.sampled_from(
    [0, 1, 5, 9, *(np.array(each) for each in ([0, 2, 0], [9, 1, 0], [3, 3, 3]))]  # one for all rows, or one each
)


@st.composite
def small_graphs(draw: st.DrawFn) -> tuple[Graph, Array]:
    """Two synapses of any format into one population with any constants, and what they hear."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    window, size = draw(st.integers(1, 5)), 3
    wires: list[Node] = []
    for name in ("w", "late"):
        mode = draw(st.sampled_from(["mixed", "excitatory", "inhibitory"]))
        low, high = {"mixed": (-128, 128), "excitatory": (0, 256), "inhibitory": (-255, 1)}[mode]
        wires.append(
            fixed.FixedLinear(
                name=name,
                inputs=("x",),
                shape=(size,),
                weight_mant=rng.integers(low, high, (size, size)) * (2 if mode == "mixed" else 1),
                weight_exp=draw(EXPONENTS),
                sign_mode=mode,
                delay=draw(st.integers(0, 3)),
                output_delay=rng.integers(0, 3, size) if draw(st.booleans()) else None,
            )
        )
    offset = draw(st.integers(0, 4))
    cell = fixed.FixedLIF(
        name="p",
        inputs=("w", "late"),
        shape=(size,),
        threshold_mant=draw(st.sampled_from([0, 1, 100, 1000, -5, 131071])),
        decay_u=draw(st.sampled_from([4095, 4095, 0, 1, 2047, 4094])),
        decay_v=draw(st.sampled_from([0, 1, 2048, 4095, 4096])),
        bias_mant=rng.integers(1 - 2**15, 2**15, size),
        bias_exp=draw(st.integers(0, 8)),
        reset_interval=window,
        reset_phase=offset % window,
        offset=offset,
        saturates=True,
    )
    graded = draw(st.booleans())
    source = fixed.FixedInput(name="x", shape=(size,), coding="sequence", low=-7 if graded else 0, high=7, step=1.0)
    x = rng.integers(-7 if graded else 0, 8 if graded else 2, (window, 3, size))
    graph = Graph(nodes=(source, *wires, cell), outputs=("p",), timesteps=window, stage="scheduled")
    return graph, x


@settings(max_examples=60, deadline=None)
@given(small_graphs())
def test_interpreter_equals_lavas_models(worker: LavaWorker, case: tuple[Graph, Array]) -> None:
    graph, x = case
    with TemporaryDirectory() as place:
        write_lava(graph, Path(place) / "lava")
        try:
            expected = wall_clock(graph, {"x": x})
        except DomainError:  # both or neither
            with pytest.raises(DomainError):
                worker.run(Path(place) / "lava", {"x": x}, oracle=True)
            return
        found = worker.run(Path(place) / "lava", {"x": x}, oracle=True).activity
    assert (found.states["p"]["u"] == expected.states["p"]["u"]).all()
    assert (found.states["p"]["v"] == expected.states["p"]["v"]).all()
    assert (found.spikes["p"] == expected.spikes["p"]).all()


def test_one_changed_weight_shows(worker: LavaWorker, tmp_path: Path) -> None:
    graph = network()
    conv = graph["conv"]
    assert isinstance(conv, fixed.FixedConv2d)
    changed = conv.weight_mant.copy()
    changed[0, 1, 1, 1] += 2
    altered = graph.with_nodes(replace(conv, weight_mant=changed) if n is conv else n for n in graph)
    assert "b.u" in differing(loop(graph, inputs()), in_lava(worker, altered, tmp_path))


@pytest.mark.parametrize("fault", [{"skip_delay": 2}, {"phase_shift": 1}])
def test_faults_in_the_schedule_are_exported_as_they_are(
    worker: LavaWorker, tmp_path: Path, fault: dict[str, int]
) -> None:
    """An export that repaired a wrong delay or phase would hide it from the proof."""
    graph = network(**fault)
    found = in_lava(worker, graph, tmp_path)
    assert differing(loop(graph, inputs()), found)
    reference = wall_clock(graph, inputs())
    assert (reference.outputs["head"] == found["head"]).all()
    for name, spikes in reference.spikes.items():
        assert (spikes.reshape(T, SAMPLES, -1) == found[f"{name}.s"]).all()


def test_record_only_what_is_asked(worker: LavaWorker, folder: Path) -> None:
    run = worker.run(folder, inputs(), record=["b"])
    assert list(run.activity.spikes) == list(run.activity.states) == ["b"]
    none = worker.run(folder, inputs(), record="none")
    assert not none.activity.spikes
    assert (none.activity.outputs["head"] == run.activity.outputs["head"]).all()


def test_export_runs_alone(folder: Path, tmp_path: Path) -> None:
    """A plain interpreter, another folder, no avsnn; and the export is left as it was."""
    before = sorted(folder.rglob("*"))
    np.savez(tmp_path / "in.npz", **inputs())  # type: ignore[arg-type]  # savez takes names as they come
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [str(FOUND.python), str(folder / "network.py"), str(tmp_path / "in.npz"), "result", "--record", "spikes"]
    done = subprocess.run(command, cwd=elsewhere, env={}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((elsewhere / "result" / "run.json").read_text())
    expected = loop(network(), inputs())
    assert (np.load(elsewhere / "result" / found["outputs"]["head"]) == expected["head"]).all()
    for name in ("a", "a.pool", "b", "c"):
        spikes = np.load(elsewhere / "result" / found["spikes"][name])
        assert (spikes.reshape(T, SAMPLES, -1) == expected[f"{name}.s"]).all()
    assert sorted(folder.rglob("*")) == before


def test_bias_port_takes_one_sample(worker: LavaWorker, tmp_path: Path) -> None:
    graph = network()
    graph = graph.with_nodes(replace(n, port="bias") if isinstance(n, fixed.HeldCurrent) else n for n in graph)
    write_lava(graph, tmp_path / "lava")
    one = {"image": inputs()["image"][:1], "sound": inputs()["sound"][:, :1]}
    run = worker.run(tmp_path / "lava", one)
    reference = wall_clock(graph, one)
    assert run.activity.spikes["a"].any()
    for name, states in reference.states.items():
        assert (states["u"] == run.activity.states[name]["u"]).all()
        assert (states["v"] == run.activity.states[name]["v"]).all()
    with pytest.raises(InputError, match="one sample at a time"):
        worker.run(tmp_path / "lava", inputs())


def test_guard_stops_a_run_that_leaves_24_bits(worker: LavaWorker, tmp_path: Path) -> None:
    """Weights that could overflow u pass while they do not, and stop the run when they do."""
    nodes = (
        fixed.FixedInput(name="x", shape=(600,), coding="sequence", low=0, high=1, step=1.0),
        fixed.FixedLinear(name="w", inputs=("x",), shape=(2,), weight_mant=np.full((2, 600), 254), weight_exp=0),
        fixed.FixedLIF(
            name="p", inputs=("w",), shape=(2,), threshold_mant=9, decay_v=2048, bias_mant=np.zeros(1, int), offset=1
        ),
    )
    write_lava(Graph(nodes=nodes, outputs=("p",), timesteps=1, stage="scheduled"), tmp_path / "lava")
    x = np.zeros((1, 1, 600), dtype=np.int64)
    x[..., :10] = 1
    assert worker.run(tmp_path / "lava", {"x": x}).activity.spikes["p"].all()
    with pytest.raises(DomainError, match="u of p"):
        worker.run(tmp_path / "lava", {"x": np.ones_like(x)})


def test_bad_inputs_are_named(worker: LavaWorker, folder: Path) -> None:
    for wrong, text in (
        ({"image": inputs()["image"]}, "sound is missing"),
        (inputs() | {"image": inputs()["image"][:, :, :5]}, "shape"),
        (inputs() | {"image": inputs()["image"] + 9}, "range"),
        (inputs() | {"image": inputs()["image"][:2]}, "samples"),
        (inputs() | {"image": inputs()["image"] * 0.5}, "not integers"),
    ):
        with pytest.raises(InputError, match=text):
            worker.run(folder, wrong)


def test_exception_inside_a_lava_process_surfaces(worker: LavaWorker, folder: Path, tmp_path: Path) -> None:
    """Lava would log it where nobody looks and wait for ever."""
    shutil.copytree(folder, tmp_path / "lava")
    tables = json.loads((tmp_path / "lava" / "network.json").read_text())
    tables["synapses"][-1]["delay"] = 64
    (tmp_path / "lava" / "network.json").write_text(json.dumps(tables))
    started = time.monotonic()
    with pytest.raises(BackendError, match="between 0 and 63"):
        worker.run(tmp_path / "lava", inputs())
    assert time.monotonic() - started < 30
    assert worker.run(folder, inputs(), record="none").activity.outputs, "the worker must survive"


def test_foreign_code_is_not_run(worker: LavaWorker, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "lava")
    mark = tmp_path / "mark"
    script = tmp_path / "lava" / "recorder" / "more.py"
    script.write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(BackendError, match=r"recorder/more\.py"):
        worker.run(tmp_path / "lava", inputs())
    script.unlink()
    (tmp_path / "lava" / "tables.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(BackendError, match="not the script"):
        worker.run(tmp_path / "lava", inputs())
    assert not mark.exists()


def members(group: int) -> list[int]:
    """Living processes of a group; ended ones that nobody collected do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_until_gone(group: int) -> bool:
    for _ in range(100):
        if not members(group):
            return True
        time.sleep(0.1)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@needs_proc
def test_timeout_ends_everything(folder: Path) -> None:
    with LavaWorker(timeout_s=0.5) as short:
        group = short.pid
        assert group is not None
        many = {"image": np.repeat(inputs()["image"], 400, 0), "sound": np.repeat(inputs()["sound"], 400, 1)}
        with pytest.raises(BackendError, match="no answer within"):
            short.run(folder, many)
        assert wait_until_gone(group)


@needs_proc
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_parent_leaves_nothing(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    np.savez(tmp_path / "in.npz", **inputs())  # type: ignore[arg-type]  # savez takes names as they come
    script = textwrap.dedent(f"""
        import numpy as np
        from pathlib import Path
        from avsnn.deploy.backends.lava import LavaWorker
        given = dict(np.load({str(tmp_path / "in.npz")!r}))
        many = {{"image": np.repeat(given["image"], 2000, 0), "sound": np.repeat(given["sound"], 2000, 1)}}
        with LavaWorker() as worker:
            print(worker.pid, flush=True)
            worker.run(Path({str(folder)!r}), many)
    """)
    long_name = tmp_path / ("n" * 100)  # Lava's sockets would not fit below it
    long_name.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(long_name)},
    )
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    private = Path(f"/proc/{group}/cwd").readlink().parent
    for _ in range(200):
        if list(private.glob("run1/out/population_*")):
            break  # Lava is running
        time.sleep(0.1)
    assert len(members(group)) > 10
    parent.send_signal(how)
    parent.wait(20)
    parent.stdout.close()
    assert wait_until_gone(group)
    assert not private.exists()


@needs_proc
def test_a_killed_worker_is_replaced(folder: Path) -> None:
    with LavaWorker(timeout_s=60) as worker:
        group = worker.pid
        assert group is not None
        os.kill(group, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"died|is gone"):
            worker.run(folder, inputs(), record="none")
        assert wait_until_gone(group)
        assert worker.run(folder, inputs(), record="none").activity.outputs["head"].any()


@needs_proc
def test_a_stuck_runtime_is_noticed_and_run_once_more(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Seen once in some ninety runs: Lava's processes all wait for each other from the start, for ever."""
    stopped: list[int] = []

    def stop_one(pid: int) -> None:
        while len(members(pid)) < 20 and time.monotonic() < limit:  # the network's processes, not only the runtime's
            time.sleep(0.01)
        stopped.append(max(members(pid)))
        os.kill(stopped[0], signal.SIGSTOP)

    with LavaWorker(stall_s=2.0) as worker:
        limit = time.monotonic() + 20
        assert worker.pid is not None
        stopper = threading.Thread(target=stop_one, args=(worker.pid,))
        stopper.start()
        run = worker.run(folder, inputs())
        stopper.join()
    assert stopped
    assert "stuck" in caplog.text
    assert differing(loop(network(), inputs()), flat(run)) == set()


class Ended:
    """A Lava process as far as the watching thread sees it."""

    pid = -1

    def __init__(self) -> None:
        self._pconn, self._cconn = multiprocessing.Pipe()

    @property
    def exception(self) -> Any:
        raise AssertionError("of two readers of a pipe one gets half a message")


@pytest.mark.parametrize("said", [None, (ValueError("no such weight"), "the traceback")])
def test_watching_a_process_took_its_last_words_from_lava(said: Any, capsys: pytest.CaptureFixture[str]) -> None:
    process = Ended()
    assert lava_worker.failure(process) == ""
    process._cconn.send(said)
    for _ in range(2):
        reason = lava_worker.failure(process)
        assert reason == ("" if said is None else "ValueError in a Lava process: no such weight")
    assert capsys.readouterr().err == ("" if said is None else "the traceback\n" * 2)
    left = process._pconn.recv()
    assert str(left) == str(said)
