"""The network in `examples/models` is small, alive, as good as its record says, and carries its own graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avsnn.convert.ir.storage import pack, unpack
from avsnn.convert.tracer import trace
from avsnn.train.checkpoints import Checkpoint, load
from avsnn.train.data import avdigits
from avsnn.train.metrics import evaluate
from avsnn.train.proportion import Proportion

FILE = Path(__file__).parents[2] / "examples" / "models" / "avdigits-tiny.pt"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load(FILE)


def test_accuracy_of_the_frozen_pairs_agrees_with_the_record(checkpoint: Checkpoint) -> None:
    pairs = avdigits.frozen()
    seen = evaluate(checkpoint.build(), pairs)
    low, high = seen.accuracy.interval(z=3.3)  # one in a thousand
    assert low < checkpoint.training["test"]["fused"]["accuracy"] < high
    assert min(seen.rates.values()) > 0.005


def test_record_reaches_what_was_asked(checkpoint: Checkpoint) -> None:
    test = checkpoint.training["test"]
    fused, single = test["fused"], max(test["image"]["accuracy"], test["audio"]["accuracy"])
    assert test["split"] == "test"
    assert fused["count"] >= 2000
    assert fused["accuracy"] >= 0.86
    assert fused["accuracy"] >= single + 0.05
    low, high = Proportion(correct=fused["correct"], count=fused["count"]).interval()
    assert fused["interval95"] == pytest.approx([low, high], abs=1e-6)
    assert FILE.stat().st_size <= 3_000_000


def test_graph_inside_is_the_one_traced_today(checkpoint: Checkpoint) -> None:
    examples = {name: value[:2] for name, value in checkpoint.calibration.items()}
    meta, arrays = pack(trace(checkpoint.build(), examples, input_spec=checkpoint.input_spec))
    stored, _ = pack(unpack(checkpoint.graph_meta, checkpoint.graph_arrays))  # with what nodes did not have then
    assert meta == stored
    assert arrays.keys() == checkpoint.graph_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, checkpoint.graph_arrays[name])


def test_calibration_is_the_beginning_of_the_training_pairs(checkpoint: Checkpoint) -> None:
    pairs = avdigits.make(64, split="train", use_cache=False)
    for name, value in pairs.inputs().items():
        np.testing.assert_array_equal(checkpoint.calibration[name], value)
