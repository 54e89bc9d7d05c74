"""A module of the user's own code, with weights that are read without running anything in them."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import torch
from torch import nn

from avsnn.errors import CheckpointError, InputError


def load_module(factory: str, weights: str | Path) -> nn.Module:
    """Call ``pkg.mod:factory`` and load a state dict into what it returns, strictly.

    The state dict is read with ``torch.load(weights_only=True)``, which refuses pickles that would run code. The
    factory itself is the user's code and does run; the current folder is importable, as for ``python -m``.

    Raises:
        InputError: the factory cannot be imported or returns no module.
        CheckpointError: the weights cannot be read safely or do not fit.
    """
    module = make_module(factory)
    _load_state(module, str(weights))
    return module


def make_module(factory: str, *, where: str = "--module") -> nn.Module:
    """Call ``pkg.mod:factory``, the user's own code; the current folder is importable, as for ``python -m``.

    Raises:
        InputError: the factory cannot be imported or returns no module.
    """
    place, _, name = factory.partition(":")
    if not place or not name:
        raise InputError("not of the form pkg.mod:factory", where=where, found=factory)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = getattr(importlib.import_module(place), name)()
    except Exception as error:  # the user's code can fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"the factory cannot be called ({reason})", where=where, found=factory) from error
    if not isinstance(module, nn.Module):
        raise InputError("factory returns no nn.Module", where=where, found=type(module).__name__)
    return module


def _load_state(module: nn.Module, weights: str) -> None:
    """Fill the module; nothing in the file runs."""
    remedy = "write it with torch.save(module.state_dict(), ...)"
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError("no such file", where=weights) from None
    except Exception as error:  # whatever a damaged file provokes in the reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"not a state dict that can be read safely ({reason})", where=weights, remedy=remedy
        ) from None
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"not a state dict for this module ({error})", where=weights, remedy=remedy) from None
    for name, tensor in module.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError("weights hold NaN or infinity", where=f"{weights}: {name}", remedy="train again")
