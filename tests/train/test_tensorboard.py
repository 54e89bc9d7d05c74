"""Rows reach TensorBoard under their names; without it, the error names the extra."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from avsnn.errors import InputError
from avsnn.train.tensorboard import writer

NAME = "torch.utils.tensorboard"


def test_numbers_and_rates_are_written_by_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[tuple[str, int], float] = {}

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written[name, step] = value

        def flush(self) -> None:
            pass

    module = ModuleType(NAME)
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, NAME, module)
    writer(tmp_path)({"epoch": 3, "loss": 0.5, "rates": {"a.lif": 0.25}, "dead": []})
    assert written == {("loss", 3): 0.5, ("rates/a.lif", 3): 0.25}


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NAME, None)
    with pytest.raises(InputError, match=r"pip install 'avsnn\[tensorboard\]'"):
        writer(tmp_path / "events")
    assert not (tmp_path / "events").exists()
