"""Every exception a user can meet. Each says where, what, what was found, the limit, and what to do.

`str(error)` reads ``where: what, found X, limit Y; remedy``. Fields are for programs (and tests), the sentence is
for people.
"""

from __future__ import annotations


class AvsnnError(Exception):
    """Root of all errors that a user can cause or must know about.

    Args:
        what: the sentence without its place, lower case, no full stop.
        where: module path, file, option or node that the error is about.
        found: the offending value, if there is one.
        limit: what would have been allowed, if there is a limit.
        remedy: what to do about it.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, where: str = "", found: object = None, limit: object = None, remedy: str = ""
    ) -> None:
        self.what, self.where, self.found, self.limit, self.remedy = what, where, found, limit, remedy
        sentence = f"{where}: {what}" if where else what
        if found is not None:
            sentence += f", found {found}"
        if limit is not None:
            sentence += f", limit {limit}"
        if remedy:
            sentence += f"; {remedy}"
        super().__init__(sentence)


class InputError(AvsnnError, ValueError):
    """A file, option, array or name that the user gave cannot be used."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, unsafe or of an unknown version."""


class ProfileError(InputError):
    """A hardware profile is unknown, has a typo, or contradicts itself."""


class TraceError(AvsnnError, NotImplementedError):
    """A module holds something that the tracer has no rule for."""


class CapabilityError(AvsnnError, NotImplementedError):
    """The target cannot do what a node asks for."""


class QuantizeError(AvsnnError, ValueError):
    """A value does not fit the integer format of the target."""


class DomainError(AvsnnError, OverflowError):
    """A run left the range in which the integer arithmetic is defined.

    ``where`` names the layer, ``quantity`` what left ("u", "v", "bias"), ``step``, ``sample`` and ``neuron`` where, as
    far as they are known.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        found: object = None,
        limit: object = None,
        remedy: str = "",
        quantity: str = "",
        step: int | None = None,
        sample: int | None = None,
        neuron: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(what, where=where, found=found, limit=limit, remedy=remedy)
        self.quantity, self.step, self.sample, self.neuron = quantity, step, sample, neuron


class BackendError(AvsnnError, RuntimeError):
    """A back end is missing, died, or answered nonsense."""


class VerifyError(AvsnnError):
    """A step changed what it must not change. The conversion stops with exit code 1.

    ``where`` names the layer; ``step``, ``sample``, ``neuron``, ``expected`` and ``found`` the first difference.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        found: object = None,
        expected: object = None,
        sample: int | None = None,
        step: int | None = None,
        neuron: tuple[int, ...] | None = None,
        remedy: str = "",
    ) -> None:
        self.expected, self.sample, self.step, self.neuron = expected, sample, step, neuron
        place = [where] if where else []
        place += [f"sample {sample}"] if sample is not None else []
        place += [f"step {step}"] if step is not None else []
        place += [f"neuron {neuron}"] if neuron is not None else []
        if expected is not None:
            what += f", expected {expected}"
        super().__init__(what, where=" ".join(place), found=found, remedy=remedy)
        self.where = where  # the sentence has the whole place, the field the layer alone


def stop(error: AvsnnError) -> None:
    """Raise ``error``: what a step does with the first one, unless its caller collects all of them."""
    raise error


class CertificateError(VerifyError):
    """Some input overflows the integers of a network; ``example`` holds it (`avsnn.convert.overflow_search`)."""

    def __init__(self, overflow: DomainError, *, source: str, example: object) -> None:
        self.example = example
        super().__init__(
            f"{source} can push {overflow.quantity} out of the state",
            where=overflow.where,
            expected=f"at most {overflow.limit}",
            found=overflow.found,
            step=overflow.step,
            neuron=overflow.neuron,
            remedy="fewer weight bits, or a smaller scale, threshold or bias for this layer",
        )
