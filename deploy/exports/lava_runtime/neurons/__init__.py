"""Neurons that stock Lava lacks. A folder of its own because Lava imports every file beside a Process."""
