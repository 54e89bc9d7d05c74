"""A report to what of it the shipped schema does not allow."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest


def schema() -> dict[str, Any]:
    """``report.schema.json`` of the package."""
    text = resources.files("avsnn.deploy.reports").joinpath("report.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def problems(report: Any) -> list[str]:
    """Place and message of whatever breaks the schema, innermost first; skips where jsonschema is not installed."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema belongs to the test environment")
    jsonschema.Draft202012Validator.check_schema(schema())
    found = []
    for error in jsonschema.Draft202012Validator(schema()).iter_errors(json.loads(json.dumps(report))):
        inner = sorted(error.context, key=lambda each: -len(each.absolute_path))[:3]
        for each in (*inner, error):
            found.append(f"{'/'.join(map(str, each.absolute_path))}: {each.message[:200]}")
    return found
