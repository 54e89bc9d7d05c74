"""What is said of products in stock neurons against the graph: which were replaced, and by how many neurons each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.passes.lower_attention import STOCK, Lowered
from avsnn.errors import VerifyError


def check_lowered(lowered: Graph, products: Sequence[Lowered]) -> int:
    """Return how many products were looked up.

    Raises:
        VerifyError: one said to be replaced is there, or takes another number of neurons; or the other way round.
    """
    left = {node.name for node in lowered.of(fixed.Product)}
    for row in products:
        stands = lowered.by_name.get(f"{row.product}.coincidences")
        found = None if stands is None else math.prod(stands.shape)
        expected = row.neurons if row.runs_on == STOCK else None
        if found != expected:
            raise VerifyError(
                "another number of neurons in its place", where=row.product, expected=expected, found=found
            )
        if (row.product in left) == (row.runs_on == STOCK):
            raise VerifyError("said to run on something else", where=row.product, found=row.runs_on)
    unsaid = sorted(left - {row.product for row in products})
    if unsaid:
        raise VerifyError("nothing is said of a product", where=unsaid[0])
    return len(products)
