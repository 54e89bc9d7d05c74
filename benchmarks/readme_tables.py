"""Put the tables that benchmarks measured between their markers in README.md.

python benchmarks/readme_tables.py
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
TABLES = ("quantised", "finetuned", "frontier", "placement", "pilotnet_energy", "accuracy")


def tables() -> dict[str, str]:
    """Return name to text, rendered from the results beside this file."""
    found = {}
    for name in TABLES:
        render = runpy.run_path(str(HERE / f"{name}.py"))["render"]
        found[name] = render(json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")))
    return found


def main() -> int:
    """Rewrite the README."""
    text = README.read_text(encoding="utf-8")
    for name, table in tables().items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- table: end -->)"
        text, count = re.subn(pattern, lambda m, table=table: m[1] + table + "\n" + m[2], text, flags=re.DOTALL)
        if count != 1:
            print(f"README.md: {count} places for the table {name}", file=sys.stderr)
            return 1
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
