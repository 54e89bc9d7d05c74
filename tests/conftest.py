"""Options and fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

GOLDEN = Path(__file__).resolve().parent / "golden"

# No deadline: what a busy machine does slowly is not wrong. Derandomised: the same commit gives the same result.
settings.register_profile("avsnn", deadline=None, derandomize=True, max_examples=25, print_blob=True)
settings.load_profile("avsnn")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden instead of comparing with it")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden, or rewrite the file with ``--update-golden``."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{name} is missing: run `make golden` and review what it wrote"
        assert path.read_text(encoding="utf-8") == text, f"{name} differs: if that is wanted, run `make golden`"

    return check
