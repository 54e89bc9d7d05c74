"""The loop learns, refuses what cannot be, and goes on to the same bits after it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from avsnn.errors import CheckpointError, InputError
from avsnn.train.loop import Options, Samples, Trainer, _shifted
from avsnn.train.models.table import find_model, make_config


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(count: int) -> Samples:
    """Ten patterns with noise."""
    rng = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % 10
    patterns = torch.rand(10, 1, 28, 28, generator=rng)
    noise = torch.rand(count, 1, 28, 28, generator=rng)
    return Samples(inputs={"image": 0.7 * patterns[labels] + 0.3 * noise}, labels=labels)


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
    [({"epochs": 0}, "epochs"), ({"batch": 1}, "batch"), ({"lr": 0.0}, "lr"), ({"label_smoothing": 1.0}, "share")],
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
    moved = _shifted(x, 1, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(x[:1], (1, 1, 1, 1), mode="replicate")[0]
    windows = {tuple(padded[:, r : r + 3, c : c + 4].flatten().tolist()) for r in range(3) for c in range(3)}
    assert {tuple(sample.flatten().tolist()) for sample in moved} == windows
