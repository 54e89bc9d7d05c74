"""What to train on what, checked and complete, to a file that says so and back: ``run.json`` of a run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avsnn.archive import replace_file
from avsnn.errors import InputError
from avsnn.train.data import catalogue
from avsnn.train.data.dataset import Data
from avsnn.train.loop import Options
from avsnn.train.losses import Loss, make_loss
from avsnn.train.models.config import build_config, plain, unknown_name
from avsnn.train.models.table import find_model, make_config

PLAN = "run.json"
DEVICES = ("auto", "cpu", "cuda")
_FORMAT = 2

Count = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train on what, complete: the same plan gives the same network on the same machine.

    Attributes:
        model: a name in `avsnn.train.models.table.MODELS`.
        preset: one of its presets.
        values: configuration values in place of the preset's.
        data: a name in `avsnn.train.data.catalogue.CATALOGUE`.
        data_values: its options in place of their defaults, such as its level of difficulty.
        pairs: training samples.
        val_pairs: samples to watch, of the validation split.
        threads: of torch; another number may change the last bits.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU if there is one.
        loss: a name in `avsnn.train.losses.LOSSES`, or ``""`` for the model's own.
        loss_values: its parameters in place of the network's and its own.
        options: of the training loop.
    """

    model: str = "scmrl"
    preset: str = "tiny"
    values: dict[str, Any] = field(default_factory=dict)
    data: str = "avdigits"
    data_values: dict[str, Any] = field(default_factory=dict)
    pairs: int = 16_000
    val_pairs: int = 1_000
    threads: int = 1
    device: str = "auto"
    loss: str = ""
    loss_values: dict[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        build_config(catalogue.find(self.data).config, self.data_values)
        for name in ("pairs", "val_pairs", "threads"):
            if getattr(self, name) < 1:
                raise InputError("is too small", where=name, found=getattr(self, name), limit=1)
        if self.device not in DEVICES:
            raise unknown_name(self.device, dict.fromkeys(DEVICES), where="device")

    def config(self) -> Any:
        """Return the configuration of the network."""
        return make_config(self.model, self.preset, self.values)

    def network(self) -> nn.Module:
        """Return the network with the weights that the seed gives."""
        torch.manual_seed(self.options.seed)
        return find_model(self.model).build(self.config())

    def make_loss(self) -> Loss:
        """Return the loss: what was asked for, else what the network's configuration says, else its own values."""
        config = self.config()
        return make_loss(self.loss or find_model(self.model).loss_of(config), self.loss_values, config)

    def chosen_device(self) -> str:
        """Return ``"cpu"`` or ``"cuda"``.

        Raises:
            InputError: a GPU was asked for and torch sees none.
        """
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise InputError("torch sees no GPU", where="device", found="cuda", remedy="pass --device cpu")
        return "cuda" if there and self.device != "cpu" else "cpu"

    def draw(self, count: int, *, split: str, seed: int | None = None, progress: Count | None = None) -> Data:
        """Return ``count`` samples of the plan's data set; the same arguments give the same samples."""
        return catalogue.make(self.data, count, split=split, seed=seed, values=self.data_values, progress=progress)

    def command(self) -> str:
        """Return the command line that this plan stands for."""
        words = ["avsnn-train", self.model, "--data", self.data, "--preset", self.preset]
        more = {"pairs": self.pairs, "val_pairs": self.val_pairs, "threads": self.threads, "device": self.device}
        for name, value in {**asdict(self.options), **more, "loss": self.loss}.items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            elif value not in ("", ()):
                words += [f"--{option}", _text(value)]
        for prefix, values in (("", self.values), ("data.", self.data_values), ("loss.", self.loss_values)):
            words += [f"{prefix}{name}={_text(value)}" for name, value in values.items()]
        return " ".join(words)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def begin(plan: Plan, out: Path) -> None:
    """Make the folder ``out`` for a run of ``plan``.

    Raises:
        InputError: it already holds a run or cannot be made, or the plan is impossible.
    """
    if (out / PLAN).exists():
        raise InputError("already holds a run", where=str(out), remedy="pass --resume, or another --out")
    plan.make_loss()  # a mistake, here or in the configuration, must show before the folder is made
    plan.chosen_device()
    plan.network()  # reads the checkpoints that the configuration names
    if plan.options.batch > plan.pairs:
        raise InputError("is larger than the training set", where="batch", found=plan.options.batch, limit=plan.pairs)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder ({error.strerror})", where=str(out)) from None
    text = json.dumps({"format": _FORMAT, **plain(plan)}, indent=1, sort_keys=True)
    replace_file(out / PLAN, text.encode() + b"\n")


def recall(out: Path) -> Plan:
    """Return the plan of the run in ``out``.

    Raises:
        InputError: there is no run, or its plan cannot be read.
    """
    path = out / PLAN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != _FORMAT:
            raise ValueError("another format")
        return Plan(**{**values, "options": build_config(Options, values["options"])})
    except FileNotFoundError:
        raise InputError("there is no run to resume", where=str(out)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read the plan ({error})", where=str(path)) from None
