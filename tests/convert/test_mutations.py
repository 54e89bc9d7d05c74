"""Every rule of the compiler broken on purpose: a proof must stop the conversion and name the place."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from avsnn.convert import integer_check, passes, pipeline
from avsnn.errors import CapabilityError, VerifyError
from tests.convert.mutants import NETWORKS, samples
from tests.convert.mutations import MUTATIONS, Breaker, Mutation


def public() -> set[str]:
    """The rules: every public function of every pass, as file.function."""
    rules = set()
    for module in pkgutil.iter_modules(passes.__path__):
        loaded = importlib.import_module(f"{passes.__name__}.{module.name}")
        functions = inspect.getmembers(loaded, inspect.isfunction)
        rules |= {f"{module.name}.{n}" for n, f in functions if f.__module__ == loaded.__name__ and n[0] != "_"}
    return rules


def plant(monkeypatch: pytest.MonkeyPatch, place: str, how: Breaker) -> None:
    """Replace a function wherever it has been imported; one that the file of ``place`` has imported, there alone."""
    file, *path, name = place.split(".")
    module = importlib.import_module(f"{passes.__name__}.{file}")
    owner: Any = module
    for part in path:
        owner = getattr(owner, part)
    rule = getattr(owner, name)
    broken = how(rule)
    monkeypatch.setattr(owner, name, broken)
    if path or rule.__module__ != module.__name__:
        return
    for other in [m for n, m in sys.modules.items() if n.startswith("avsnn.convert")]:
        if vars(other).get(name) is rule:
            monkeypatch.setattr(other, name, broken)
    folds = tuple((key, broken if fold is rule else fold) for key, fold in pipeline.FOLDS)
    monkeypatch.setattr(pipeline, "FOLDS", folds)


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Convert one of the networks, comparing little: what is wrong shows at once."""
    monkeypatch.setattr(integer_check, "SEQUENCES", 256)
    monkeypatch.setattr(integer_check, "TIED", 64)

    def run(name: str) -> None:
        attention, _, name = name.rpartition(" ")
        graph = NETWORKS["skips" if name == "relays" else name]()
        if name == "relays":  # as though synapses could hardly wait
            schedule = vars(pipeline)["schedule"]
            monkeypatch.setattr(pipeline, "schedule", lambda graph, **_o: schedule(graph, delay_steps_max=1))
        pipeline.convert(graph, calibration=samples(graph), proof_samples=4, attention=attention or "own")

    return run


@pytest.mark.parametrize("name", [*NETWORKS, "relays", "stock space", "stock map"])
def test_without_a_mutation_they_convert_or_are_refused(convert: Callable[[str], None], name: str) -> None:
    if name == "apart":
        with pytest.raises(CapabilityError, match="two layers without a neuron between them"):
            convert(name)
    else:
        convert(name)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.rule}: {m.what}")
def test_a_broken_rule_is_noticed(
    convert: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, mutation: Mutation
) -> None:
    plant(monkeypatch, mutation.at or mutation.rule, mutation.how)
    if mutation.besides:
        plant(monkeypatch, *mutation.besides)
    with pytest.raises(VerifyError) as stopped:
        convert(mutation.network)
    assert mutation.found
    line = re.sub(r"( sample \d+)? step \d+ neuron \([\d, ]*\)", "", str(stopped.value), count=1)
    assert line.startswith(mutation.found)


def test_every_rule_has_a_mutation() -> None:
    assert {mutation.rule for mutation in MUTATIONS} == public()
    assert len({(mutation.rule, mutation.what) for mutation in MUTATIONS}) == len(MUTATIONS)
