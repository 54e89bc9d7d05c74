"""Rows of metrics to event files for TensorBoard; needs the extra ``tensorboard``, imported in this file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from avsnn.errors import InputError


def writer(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Return what writes a row: each number under its name, spike rates under ``rates/``, by epoch.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "is not installed", where="tensorboard", remedy="pip install 'avsnn[tensorboard]', or leave --tensorboard"
        ) from None
    events = SummaryWriter(str(folder))

    def write(row: dict[str, Any]) -> None:
        numbers = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "epoch"}
        for name, value in {**numbers, **{f"rates/{key}": rate for key, rate in row["rates"].items()}}.items():
            events.add_scalar(name, value, row["epoch"])
        events.flush()

    return write
