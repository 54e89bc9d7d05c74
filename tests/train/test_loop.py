"""The loop learns, refuses what cannot be, and goes on to the same bits after it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.errors import CheckpointError, InputError
from avsnn.train.data.dataset import Dataset, Format
from avsnn.train.loop import Options, Trainer, shifted
from avsnn.train.losses import CrossEntropy
from avsnn.train.models.table import find_model, make_config
from avsnn.train.neurons import LIF


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(count: int) -> Dataset:
    """Ten patterns with noise."""
    rng = np.random.default_rng(5)
    label = np.arange(count) % 10
    patterns, noise = rng.integers(0, 180, (10, 1, 28, 28)), rng.integers(0, 76, (count, 1, 28, 28))
    return Dataset(
        codes={"image": (patterns[label] + noise).astype(np.uint8)},
        formats={"image": Format(coding="direct", low=0, high=255, step=1 / 256)},
        goals={"label": label.astype(np.int64)},
        labels=tuple("0123456789"),
    )


def trainer(options: Options, **values: Any) -> Trainer:
    torch.manual_seed(options.seed)
    config = make_config("scmrl", "tiny", {"modalities": ("image",), "dim": 8, "mlp_ratio": 1, **values})
    return Trainer(find_model("scmrl").build(config), samples(60), samples(20), options)


OPTIONS = Options(epochs=3, batch=20, shift=1, seed=1)


def finish(run: Trainer) -> dict[str, torch.Tensor]:
    while not run.finished:
        run.run_epoch()
    return run.module.state_dict()


def test_overfits_a_few_samples() -> None:
    run = trainer(replace(OPTIONS, epochs=25, shift=0), dim=16)
    finish(run)
    assert run.rows[-1]["train_accuracy"] >= 0.9
    assert run.rows[-1]["loss"] < 0.5 * run.rows[0]["loss"]
    assert all(rate > 0 for rate in run.rows[-1]["rates"].values())


class Dropped(nn.Module):
    """Something random in training, on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.linear, self.lif = nn.Dropout(0.5), nn.Linear(6, 10), LIF()

    def outputs(self, events: Tensor) -> dict[str, Tensor]:
        counts = self.lif(self.linear(self.drop(events))).sum(0)
        return {"scores": counts, "counts": counts}

    def forward(self, events: Tensor) -> Tensor:
        return self.outputs(events)["scores"]


def sequences(count: int) -> Dataset:
    rng = np.random.default_rng(3)
    return Dataset(
        codes={"events": rng.integers(0, 3, (4, count, 6)).astype(np.uint8), "other": np.zeros((count, 1), np.uint8)},
        formats={
            "events": Format(coding="sequence", low=0, high=2, step=1.0),
            "other": Format(coding="direct", low=0, high=1, step=1.0),
        },
        goals={"label": rng.integers(0, 10, count)},
        labels=tuple("0123456789"),
    )


def test_sequences_with_dropout_resume_to_the_bit(tmp_path: Path) -> None:
    def start() -> Trainer:
        torch.manual_seed(1)
        options = Options(epochs=3, batch=5, schedule="cosine", warmup=1, rate_weight=1.0)
        return Trainer(Dropped(), sequences(20), sequences(7), options)

    expected = finish(start())
    stopped = start()
    stopped.run_epoch()
    stopped.save_state(tmp_path / "last.pt")
    torch.rand(99)  # whatever else draws from torch's own generator must not matter
    resumed = start()
    resumed.load_state(tmp_path / "last.pt")
    state = finish(resumed)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_best_epoch_is_kept_and_survives_a_resume(tmp_path: Path) -> None:
    run = trainer(replace(OPTIONS, epochs=6))
    seen = []
    while not run.finished:
        row = run.run_epoch()
        seen.append((row["val_accuracy"], -row["val_loss"], run.module.get_parameter("head.linear.bias").clone()))
        run.save_state(tmp_path / "last.pt")
    again = trainer(replace(OPTIONS, epochs=6))
    again.load_state(tmp_path / "last.pt")
    place = max(range(6), key=lambda k: seen[k][:2])
    assert again.best["epoch"] == run.best["epoch"] == place + 1
    assert torch.equal(again.best["module"]["head.linear.bias"], seen[place][2])


def test_silent_populations_are_named() -> None:
    run = trainer(OPTIONS)
    with torch.no_grad():
        run.module.get_parameter("image.mlp.norm2.module.bias").fill_(-50.0)
    row = run.run_epoch()
    assert "image.mlp.lif2" in row["dead"]
    assert "image.patches.0.lif" not in row["dead"]


def test_rate_penalty_moves_rates_towards_the_target() -> None:
    def rate(weight: float) -> float:
        torch.manual_seed(1)
        options = Options(epochs=15, batch=5, lr=0.1, rate_target=0.6, rate_weight=weight)
        run = Trainer(Dropped(), sequences(20), sequences(7), options)
        finish(run)
        return float(run.rows[-1]["rates"]["lif"])

    assert abs(rate(1000.0) - 0.6) < 0.15 < abs(rate(0.0) - 0.6)


def test_loss_and_outputs_are_used() -> None:
    class Counting(CrossEntropy):
        names: tuple[str, ...] = ()

        def __call__(self, outputs: Any, targets: Any) -> Tensor:
            Counting.names = (*outputs, *targets)
            return super().__call__(outputs, targets)

    Trainer(Dropped(), sequences(20), sequences(5), Options(epochs=1, batch=5), loss=Counting()).run_epoch()
    assert Counting.names == ("scores", "counts", "label")


def test_resume_gives_the_bits_of_a_run_that_was_not_stopped(tmp_path: Path) -> None:
    whole = trainer(OPTIONS)
    expected = finish(whole)
    stopped = trainer(OPTIONS)
    stopped.run_epoch()
    stopped.save_state(tmp_path / "last.pt")
    stopped.run_epoch()  # lost
    resumed = trainer(replace(OPTIONS))
    with torch.no_grad():
        for parameter in resumed.module.parameters():
            parameter.zero_()  # nothing may come from the fresh start
    resumed.load_state(tmp_path / "last.pt")
    state = finish(resumed)
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    for row, other in zip(whole.rows, resumed.rows, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_seed_changes_the_outcome() -> None:
    one, other = finish(trainer(OPTIONS)), finish(trainer(replace(OPTIONS, seed=2)))
    assert not torch.equal(one["head.linear.weight"], other["head.linear.weight"])


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    trainer(OPTIONS).save_state(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cannot resume.*start a new run"):
        trainer(OPTIONS).load_state(path)
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="cannot resume"):
        trainer(OPTIONS, dim=16).load_state(path)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"epochs": 0}, "epochs"), ({"batch": 1}, "batch"), ({"lr": 0.0}, "lr"), ({"rate_target": 2}, "rate")],
)
def test_impossible_options(values: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Options(**values)


def test_batch_larger_than_the_set() -> None:
    with pytest.raises(InputError, match="larger than the training set"):
        trainer(replace(OPTIONS, batch=61))


def test_loss_that_is_no_number_stops_the_run() -> None:
    run = trainer(OPTIONS)
    nn.init.constant_(run.module.get_parameter("head.linear.bias"), float("nan"))
    with pytest.raises(InputError, match="no longer finite"):
        run.run_epoch()


def test_shift_moves_each_sample_and_repeats_the_edge() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4).repeat(50, 1, 1, 1)
    moved = shifted(x, 1, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(x[:1], (1, 1, 1, 1), mode="replicate")[0]
    windows = {tuple(padded[:, r : r + 3, c : c + 4].flatten().tolist()) for r in range(3) for c in range(3)}
    assert {tuple(sample.flatten().tolist()) for sample in moved} == windows


def test_shift_moves_all_steps_of_a_sample_together() -> None:
    x = torch.rand(4, 9, 2, 5, 6, generator=torch.Generator().manual_seed(1))
    moved = shifted(x, 2, torch.Generator().manual_seed(0))
    alone = [shifted(x[t], 2, torch.Generator().manual_seed(0)) for t in range(4)]
    assert torch.equal(moved, torch.stack(alone))
    assert not torch.equal(moved, x)
    with pytest.raises(InputError, match="moves pictures"):
        shifted(x[0, 0], 1, torch.Generator())


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"optimiser": "sgd"}, "adamw, adam"),
        ({"warmup": 2.0}, "its own warm-up"),
    ],
)
def test_impossible_schedules(values: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Options(**values)
