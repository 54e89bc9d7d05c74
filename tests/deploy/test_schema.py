"""Every report keeps the schema that is shipped with the package, and the schema lets nothing else through."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from avsnn.convert.pipeline import convert
from tests.convert.mutants import NETWORKS, samples
from tests.hostile import poisoned
from tests.report_schema import problems, schema

OPEN = ("meta", "finetuned")
"""Objects that may hold more than the schema knows: a user's names, options of training."""


def test_a_report_keeps_the_schema(report: dict[str, Any]) -> None:
    assert problems(report) == []


def test_names_are_free_and_figures_are_not(report: dict[str, Any]) -> None:
    """A schema that forbade names would refuse networks; hashes and words of tables are no names."""
    found = poisoned({"populations": report["populations"], "delays": report["delays"], "warnings": report["warnings"]})
    assert problems(report | found) == []
    assert problems(poisoned(report))


def test_a_report_with_nothing_in_it_keeps_the_schema(report: dict[str, Any]) -> None:
    """No labels, no chip, no price: what a conversion for a plain processor without data writes."""
    bare: dict[str, Any] = {"accuracy": {}, "mapping": {}, "comparators": {}, "core_counts": {}, "energy": {}}
    assert problems(report | bare | {"executions": [], "delays": [], "certificate": []}) == []
    assert problems(report | {"mapping": {"refused": "too large"}}) == []


@pytest.mark.parametrize(("network", "on_cores"), [("space", "products"), ("norms", "hosts"), ("gains", "hosts")])
def test_reports_of_products_and_hosts_on_cores_keep_the_schema(
    report: dict[str, Any], network: str, on_cores: str
) -> None:
    graph = NETWORKS[network]()
    record = convert(graph, calibration=samples(graph, 4), proof_samples=2).record
    assert record["mapping"][on_cores]
    found = {
        key: record[key] for key in ("mapping", "certificate", "delays", "attention", "agreement") if key in record
    }
    assert problems(report | json.loads(json.dumps(found))) == []


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda report: report.update(values)


def lost(report: dict[str, Any]) -> None:
    del report["counts"]["total"]["spikes"]


def negative(report: dict[str, Any]) -> None:
    report["counts"]["synapses"][0]["sop_stored"] = -1


def surplus(report: dict[str, Any]) -> None:
    report["energy"]["loihi2"]["terms"][0]["watts"] = 1.0


def unsaid(report: dict[str, Any]) -> None:
    report["energy"]["loihi2"]["evidence"] = "felt"


def beyond(report: dict[str, Any]) -> None:
    report["populations"][0]["rate"] = 1.5


def not_spikes(report: dict[str, Any]) -> None:
    report["raster"]["populations"][0]["spikes"][0] = "0120"


def half_mapped(report: dict[str, Any]) -> None:
    del report["mapping"]["cores"][0]["neurons"]


@pytest.mark.parametrize(
    "spoil",
    [changed(schema=2), changed(more=1), lost, negative, surplus, unsaid, beyond, not_spikes, half_mapped],
    ids=lambda spoil: spoil.__qualname__.split(".")[0],
)
def test_whatever_else_is_in_a_report_is_refused(
    report: dict[str, Any], spoil: Callable[[dict[str, Any]], None]
) -> None:
    wrong = json.loads(json.dumps(report))
    spoil(wrong)
    assert problems(wrong)


def test_the_schema_closes_every_object() -> None:
    """An object that may hold anything would let a mistyped key pass."""
    found = list(objects(schema(), ""))
    assert len(found) > 40
    for place, each in found:
        assert each.get("additionalProperties") is not None or each.get("maxProperties") == 0 or place.endswith(OPEN), (
            place
        )
        assert set(each.get("required", ())) <= set(each.get("properties", ())), place


def objects(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if "object" in (value["type"] if isinstance(value.get("type"), list) else [value.get("type")]):
            yield place, value
        for key, part in value.items():
            yield from objects(part, f"{place}/{key}")
    elif isinstance(value, list):
        for k, part in enumerate(value):
            yield from objects(part, f"{place}/{k}")
