"""Put the tables that benchmarks measured between their markers in README.md and ARCHITECTURE.md.

python benchmarks/readme_tables.py
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
TABLES = ("quantised", "finetuned", "frontier", "placement", "counters", "pilotnet_energy", "accuracy")
PLACES = {"published_tables": "ARCHITECTURE.md"}
"""Documents of tables that are not in the README; these follow from published numbers alone."""


def tables() -> dict[str, str]:
    """Return name to text, rendered from the results beside this file."""
    found = {}
    for name in TABLES:
        render = runpy.run_path(str(HERE / f"{name}.py"))["render"]
        found[name] = render(json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")))
    return found | {name: runpy.run_path(str(HERE / f"{name}.py"))["render"]() for name in PLACES}


def main() -> int:
    """Rewrite the documents."""
    for name, table in tables().items():
        document = HERE.parent / PLACES.get(name, "README.md")
        text = document.read_text(encoding="utf-8")
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- table: end -->)"
        text, count = re.subn(pattern, lambda m, table=table: m[1] + table + "\n" + m[2], text, flags=re.DOTALL)
        if count != 1:
            print(f"{document.name}: {count} places for the table {name}", file=sys.stderr)
            return 1
        document.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
