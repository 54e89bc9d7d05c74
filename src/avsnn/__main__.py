"""``python -m avsnn`` is the ``avsnn`` command."""

from avsnn.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
