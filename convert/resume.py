"""A conversion that starts where another one ended: the stages of a bundle that are kept, and what was proved of them.

A bundle whose files differ from its manifest is not loaded, so what was proved of a stage still holds of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avsnn.convert.bundle import MANIFEST, Bundle, sha256_of
from avsnn.convert.format_check import check_formats
from avsnn.convert.ir.graph import Graph
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import Scale
from avsnn.errors import CapabilityError, InputError, VerifyError

STARTS = ("traced", "folded", "quantised")
REMEMBERED = ("name", "labels", "checkpoint_sha256", "float32_spikes_differing")
PROVED = {
    "traced": ("traced =",),
    "folded": ("traced =", "fold_"),
    "quantised": ("traced =", "fold_", "quantised = what was trained"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """What is not made again.

    Attributes:
        folded: the graph of that stage, or None where it is made again; ``quantised`` likewise.
        scales: those of the quantised graph.
        checks: what the bundle's own conversion proved of these graphs.
        left_out: which populations the bundle's own folds left out.
        tuned: how the quantised graph was fine-tuned, if it was; its integers are then no rounded values.
        meta: what the new bundle remembers: of the source, and which stage of which bundle it started from.
    """

    folded: Graph | None = None
    quantised: Graph | None = None
    scales: tuple[Scale, ...] = ()
    checks: tuple[Mapping[str, Any], ...] = ()
    left_out: tuple[Mapping[str, Any], ...] = ()
    tuned: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(bundle: Bundle, start: str, *, target: Target, weight_bits: int | None) -> Kept:
        """The stages of ``bundle`` up to ``start``.

        Raises:
            InputError: no such stage, or weights that are integers already are to have other bits.
            CapabilityError: the integers do not fit the new target.
        """
        if start not in STARTS:
            raise InputError("no stage to start from", where="convert", found=start, limit=", ".join(STARTS))
        meta = {key: bundle.meta[key] for key in REMEMBERED if key in bundle.meta}
        origin = {"stage": start, "target": bundle.meta.get("target"), "avsnn": bundle.meta.get("avsnn")}
        if bundle.folder is not None:
            origin["manifest_sha256"] = sha256_of(bundle.folder / MANIFEST)
        meta["started_from"] = origin
        checks = tuple(c for c in bundle.record.get("checks", ()) if str(c["name"]).startswith(PROVED[start]))
        folded = None if start == "traced" else bundle.graph("folded")
        left_out = () if start == "traced" else tuple(bundle.record.get("left_out", ()))
        if start != "quantised":
            return Kept(folded=folded, checks=checks, left_out=left_out, meta=meta)
        if weight_bits is not None:
            what, remedy = "weights are integers already", "start from folded, or leave the weight bits out"
            raise InputError(what, where="convert", found=f"{weight_bits} bits asked for", remedy=remedy)
        quantised = bundle.graph("quantised")
        try:
            check_formats(quantised, target)
        except VerifyError as error:
            remedy = "start from folded, so that they are quantised for it"
            raise CapabilityError(
                error.what, where=error.where, found=error.found, limit=error.limit, remedy=remedy
            ) from None
        scales = tuple(Scale(**scale) for scale in bundle.record["scales"])
        meta["weight_bits"] = bundle.meta["weight_bits"]
        tuned = bundle.record.get("finetuned", {})
        known: dict[str, Any] = {"checks": checks, "left_out": left_out, "tuned": tuned, "meta": meta}
        return Kept(folded=folded, quantised=quantised, scales=scales, **known)
