"""Train every network that avsnn knows on its embedded data, test all on the same samples, and write README's table.

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py --out build/accuracy --jobs 2
    python benchmarks/accuracy.py --show

Rows of one data set share recipe, seed, training samples and test samples, so that differences can be paired. Stop it
at any time: the same command goes on after the last finished epoch of each row, and finished rows are not trained
again. What comes out is ``benchmarks/accuracy.json``; the table in the README is rendered from it (a test compares).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.archive import replace_file
from avsnn.train import plans, runs
from avsnn.train.loop import Options
from avsnn.train.proportion import PairedDifference, Proportion

RESULTS = Path(__file__).with_name("accuracy.json")
TEST_PAIRS = 2_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: what is trained, and which other row it is compared with."""

    title: str
    model: str
    preset: str = "tiny"
    values: dict[str, Any] = field(default_factory=dict)
    data: str = "avdigits"
    against: str = ""
    needs: dict[str, str] = field(default_factory=dict)
    """Configuration fields that name the checkpoint of another row."""


_PAD: dict[str, Any] = {"image_pad": 2}
ROWS = {
    "image": Row(title="image alone", model="scmrl", values={"modalities": ["image"]}, against="none"),
    "audio": Row(title="sound alone", model="scmrl", values={"modalities": ["audio"]}, against="none"),
    "none": Row(title="S-CMRL `none`", model="scmrl", values=_PAD),
    "spatial": Row(title="S-CMRL `spatial`", model="scmrl", values={**_PAD, "fusion": "spatial"}, against="none"),
    "temporal": Row(title="S-CMRL `temporal`", model="scmrl", values={**_PAD, "fusion": "temporal"}, against="none"),
    "spatiotemporal": Row(
        title="S-CMRL `spatiotemporal`",
        model="scmrl",
        preset="tiny-fused",
        values={"sao": "off"},
        against="none",
    ),
    "sao-class": Row(title="S-CMRL, SAO by class", model="scmrl", preset="tiny-fused", against="none"),
    "sao-instance": Row(
        title="S-CMRL, SAO by instance",
        model="scmrl",
        preset="tiny-fused",
        values={"sao": "instance"},
        against="none",
    ),
    "scale-1": Row(
        title="SAO by class, `attention_scale=1`",
        model="scmrl",
        preset="tiny-fused",
        values={"attention_scale": 1.0},
        against="sao-class",
    ),
    "weight-attention": Row(title="WeightAttention", model="weight-attention", against="none"),
    "sca": Row(title="SCA", model="sca", against="none"),
    "cmci": Row(title="CMCI", model="cmci", against="none"),
    "l2net": Row(title="L2-ActSpikeNet (image)", model="l2net"),
    "l2net-plain": Row(title="the same, plain head", model="l2net", values={"head": "linear"}, against="l2net"),
    "audio-snn": Row(title="audio SNN (sound)", model="audio-snn"),
    "audio-snn-plain": Row(
        title="the same, plain head", model="audio-snn", values={"head": "linear"}, against="audio-snn"
    ),
    "smlp": Row(
        title="SMLP on these two, frozen",
        model="smlp",
        values={"frozen": True},
        against="none",
        needs={"image_checkpoint": "l2net", "audio_checkpoint": "audio-snn"},
    ),
    "events": Row(title="S-CMRL, SAO by class", model="scmrl", preset="events", data="avdigits-events"),
    "spikslc": Row(title="SpikSLC-Net", model="spikslc", data="sloclas-sim"),
    "spikslc-gcc": Row(
        title="GCC-PHAT alone", model="spikslc", data="sloclas-sim", values={"modalities": ["gcc"]}, against="spikslc"
    ),
    "spikslc-mel": Row(
        title="log-mel alone", model="spikslc", data="sloclas-sim", values={"modalities": ["mel"]}, against="spikslc"
    ),
    "slc-net": Row(title="SLC-Net (no spikes)", model="slc-net", data="sloclas-sim", against="spikslc"),
}
"""In the order of the table."""

RECIPES = {
    "avdigits": (6_000, Options(epochs=8, batch=32, lr=1e-2, shift=1)),
    "avdigits-events": (3_000, Options(epochs=6, batch=32, lr=1e-2)),
    "sloclas-sim": (6_000, Options(epochs=20, batch=32, lr=5e-3)),
}
"""Training samples and options of each data set; the seed is 0."""


def plan_of(row: Row, out: Path) -> plans.Plan:
    """Return what to train for ``row``; checkpoints that it needs lie in ``out``."""
    pairs, options = RECIPES[row.data]
    found = {name: str(out / other / runs.MODEL) for name, other in row.needs.items()}
    values = {**row.values, **found}
    return plans.Plan(
        model=row.model, preset=row.preset, values=values, data=row.data, pairs=pairs, val_pairs=500, options=options
    )


def train(name: str, out: Path) -> str:
    """Train a row, or go on with it, and test it; returns a line that says how it did."""
    folder, plan = out / name, plan_of(ROWS[name], out)
    if not (folder / plans.PLAN).exists():
        plans.begin(plan, folder)
    elif plans.recall(folder).command() != plan.command():
        raise SystemExit(f"{folder} holds another run; pass another --out")
    if not (folder / "test.json").exists():
        outcome = runs.execute(plan, folder, on_epoch=lambda row: print(name, row["epoch"], row["loss"], flush=True))
        seen = runs.measure(outcome.checkpoint, pairs=TEST_PAIRS)
        place = {} if seen.localisation is None else seen.localisation.record()
        np.save(folder / "right.npy", seen.right)
        record = {"accuracy": seen.accuracy.record(), "localisation": place, "rates": seen.rates}
        parameters = sum(part.numel() for part in plan.network().parameters())
        record |= {"command": plan.command(), "parameters": parameters}
        replace_file(folder / "test.json", json.dumps(record).encode())
    return f"{name}: {json.loads((folder / 'test.json').read_text())['accuracy']}"


def collect(out: Path) -> dict[str, Any]:
    """Return the results of all finished rows in ``out``, paired differences included."""
    right = {name: np.load(out / name / "right.npy") for name in ROWS if (out / name / "test.json").exists()}
    found: dict[str, Any] = {}
    for name, own in right.items():
        row, record = ROWS[name], json.loads((out / name / "test.json").read_text())
        command = record["command"].replace(f"{out}/", "")
        score = Proportion(correct=int(own.sum()), count=len(own)).record()
        quiet = {key: rate for key, rate in record["rates"].items() if "temporal.attention_lif" in key}
        found[name] = {"command": command, "parameters": record["parameters"], "score": score}
        found[name] |= {key: record[key] for key in ("accuracy", "localisation") if record[key]}
        if quiet:
            found[name]["temporal_attention_rates"] = quiet
        if row.against in right:
            pair = PairedDifference.of(right[row.against], own)
            found[name]["against"] = {"row": row.against, **pair.record()}
    return {"test": {"split": "test", "seed": runs.TEST_SEED, "samples": TEST_PAIRS}, "rows": found}


def render(results: dict[str, Any]) -> str:
    """Return the tables of the README."""
    parts = []
    for data in RECIPES:
        rows = [
            (row, results["rows"][name]) for name, row in ROWS.items() if row.data == data and name in results["rows"]
        ]
        if rows:
            parts.append(_table(data, rows))
    return "\n\n".join(parts)


def _table(data: str, rows: list[tuple[Row, dict[str, Any]]]) -> str:
    places = data == "sloclas-sim"
    head = ["network", "parameters", "class and direction" if places else "accuracy", "95 % interval"]
    head += ["class", "direction", "mean error"] if places else []
    head.append("difference (paired, points)")
    lines = [head, ["---"] * len(head)]
    for row, found in rows:
        low, high = found["score"]["interval95"]
        cells = [row.title, f"{found['parameters']:,}", f"{found['score']['accuracy']:.3f}", f"{low:.3f} to {high:.3f}"]
        if places:
            place = found["localisation"]
            cells += [f"{found['accuracy']['accuracy']:.3f}", f"{place['within']['accuracy']:.3f}"]
            cells.append(f"{place['mae_deg']:.0f}°")
        pair = found.get("against")
        if pair is None:
            cells.append("")
        else:
            edges = ", ".join(f"{100 * edge:+.1f}" for edge in pair["interval95"])
            cells.append(f"{100 * pair['difference']:+.1f} [{edges}] to {ROWS[pair['row']].title}")
        lines.append(cells)
    pairs, options = RECIPES[data]
    recipe = f"`{data}`: {pairs:,} training samples, {options.epochs} epochs, seed {options.seed}"
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{recipe}; {TEST_PAIRS:,} test samples, seed {runs.TEST_SEED}.\n\n{table}{_quiet(rows)}"


def _quiet(rows: list[tuple[Row, dict[str, Any]]]) -> str:
    """A sentence on how often temporal attention fires: it is silent where few spikes meet a high threshold."""
    found = []
    for row, record in rows:
        rates = record.get("temporal_attention_rates")
        if rates:
            ordered = sorted(rates, reverse=True)  # image before audio
            shares = " and ".join(f"{100 * rates[name]:.1f} %" for name in ordered)
            found.append(f"{row.title.removeprefix('S-CMRL, ')} {shares}")
    return f"\n\nTemporal attention fires in (image and sound): {'; '.join(found)}." if found else ""


def main() -> int:
    """Train and test what is asked for, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"which to do (default all): {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=Path("build/accuracy"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, one core each")
    parser.add_argument("--show", action="store_true", help="train nothing, print the tables of the results there are")
    parser.add_argument("--collect", action="store_true", help="train nothing, take over the rows that are finished")
    args = parser.parse_args()
    if not (args.show or args.collect):
        train_all(args.rows or list(ROWS), args.out, args.jobs)
    if not args.show:
        text = json.dumps(collect(args.out), indent=1, sort_keys=True)
        replace_file(RESULTS, text.encode() + b"\n")
    print(render(json.loads(RESULTS.read_text(encoding="utf-8"))))
    return 0


def train_all(wanted: list[str], out: Path, jobs: int) -> None:
    """Train rows side by side; those that need others' checkpoints come last."""
    spawn = multiprocessing.get_context("spawn")
    for group in ([n for n in wanted if not ROWS[n].needs], [n for n in wanted if ROWS[n].needs]):
        with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
            for done in as_completed([pool.submit(train, name, out) for name in group]):
                print(done.result(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
