"""Processes that multiply activity. A folder of its own because Lava imports every file beside a Process."""
