"""Turns state and input of integer neurons into the next state: the one definition of Loihi's integer arithmetic.

Every function keeps the dtype of what it is given and is exact in it: int64 always, int32 where `safe_dtype` says so.
The numbers are those of Lava's ``fixed_pt`` models (lava.proc.lif.models, lava-nc 0.10.0, BSD-3-Clause), restricted
to the domain in which they are well defined: a current that leaves the state width is an error here, not a wrap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from avsnn.errors import DomainError

Integers = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

FRACTION_BITS = 12  # decays are multiples of 1/4096
UNITY = 1 << FRACTION_BITS
ACTIVATION_SHIFT = 6  # one unit of synaptic input is 64 units of u, v and threshold
STATE_BITS = 24
RESETS = ("hard", "subtract", "subtract_delayed")


def state_limit(state_bits: int = STATE_BITS) -> int:
    """``2^(state_bits - 1)``: |u|, |v| and |bias| stay below it.

    >>> state_limit()
    8388608
    """
    return 1 << (state_bits - 1)


def truncate12(x: Integers) -> Integers:
    """``sign(x) (|x| >> 12)``: division by 4096, rounded toward zero.

    >>> truncate12(np.array([4095, 4096, -4095, -4096, -8191])).tolist()
    [0, 1, 0, -1, -1]
    """
    result: Integers = np.sign(x) * (np.abs(x) >> FRACTION_BITS)
    return result


def decay(x: Integers, keep: int) -> Integers:
    """``truncate12(x keep)`` for 0 <= keep <= 4096, exact for |x| < 2^50 (int64) and for every int32.

    >>> decay(np.array([-1, -64, 3]), 2048).tolist()
    [0, -32, 1]

    Raises:
        DomainError: keep is no fraction of 4096.
    """
    if not 0 <= keep <= UNITY:
        raise DomainError("a decay keeps between nothing and everything", where="decay", found=keep, limit=UNITY)
    if keep == 0:
        return np.zeros_like(x)
    if keep == UNITY:
        return x
    if x.dtype == np.int64:
        return truncate12(x * keep)
    # |x keep| < 2^44 is exact in float64, and so is its division by a power of two; trunc rounds toward zero.
    return np.trunc(x * (keep / UNITY)).astype(x.dtype)


def clip_state(x: Integers, state_bits: int = STATE_BITS) -> Integers:
    """Saturate symmetrically at ``+-(2^(state_bits - 1) - 1)``.

    >>> clip_state(np.array([1 << 23, -(1 << 23), 5])).tolist()
    [8388607, -8388607, 5]
    """
    top = state_limit(state_bits) - 1
    return np.clip(x, -top, top)


def clip24(x: Integers) -> Integers:
    """`clip_state` of a 24-bit state."""
    return clip_state(x, 24)


def lif_step(
    u: Integers,
    v: Integers,
    a: Integers,
    b: Integers,
    decay_u: int,
    decay_v: int,
    threshold_mant: int | Integers,
    *,
    state_bits: int = STATE_BITS,
    reset: str = "hard",
    subtract: int | Integers = 0,
    fired: Flags | None = None,
) -> tuple[Integers, Integers, Flags]:
    """One step of leaky integrate and fire, the same shape and dtype in and out: ``(u, v, spikes)``.

    With a the synaptic input and b the bias in units of v::

        u = truncate12(u (4096 - (decay_u + 1))) + (a << 6)
        v = clip(truncate12(v (4096 - decay_v)) + u + b, -(2^(state_bits - 1) - 1), 2^(state_bits - 1) - 1)
        s = v > (threshold_mant << 6)
        v = 0 where s                  (reset "hard")
        v = v - subtract where s       (reset "subtract")

    With reset "subtract_delayed", v stays, and ``subtract`` is taken off before the clip where ``fired``, the spikes of
    the step before (None: there are none, a window begins). Thresholds and amounts are integers or arrays that
    broadcast to v. u must stay in its domain; the caller ensures it with `check_state` or `never_leaves`.

    >>> u = v = np.zeros(2, np.int64)
    >>> step = lambda v: lif_step(u, v, np.array([3, 1]), 0 * u, 4095, 0, 2, reset="subtract", subtract=128)
    >>> step(v)[1].tolist(), step(step(v)[1])[1].tolist()
    ([64, 64], [128, 128])

    Raises:
        DomainError: another reset.
    """
    if reset not in RESETS:
        raise DomainError("unknown reset", where="lif", found=reset, limit=", ".join(RESETS))
    u = decay(u, UNITY - (decay_u + 1)) + (a << ACTIVATION_SHIFT)
    v = decay(v, UNITY - decay_v) + u + b
    if reset == "subtract_delayed" and fired is not None:
        np.subtract(v, subtract, out=v, where=fired, dtype=v.dtype)
    v = clip_state(v, state_bits)
    spikes: Flags = v > (threshold_mant << ACTIVATION_SHIFT)
    if reset == "hard":
        np.copyto(v, 0, where=spikes)  # clip made a new array: nothing of the caller's changes
    elif reset == "subtract":
        np.subtract(v, subtract, out=v, where=spikes, dtype=v.dtype)
    return u, v, spikes


def first_outside(x: Integers, *, state_bits: int = STATE_BITS) -> tuple[int, ...] | None:
    """Index of the first element with ``|x| >= 2^(state_bits - 1)``, None if there is none.

    >>> first_outside(np.array([[0, 5], [-(1 << 23), 1 << 23]]))
    (1, 0)
    """
    limit = state_limit(state_bits)
    if x.size == 0 or (int(x.max()) < limit and int(x.min()) > -limit):
        return None
    first = np.unravel_index(int(((x >= limit) | (x <= -limit)).argmax()), x.shape)
    return tuple(int(i) for i in first)


def check_state(x: Integers, *, where: str, what: str = "u", place: str = "", state_bits: int = STATE_BITS) -> None:
    """Check ``|x| < 2^(state_bits - 1)`` for every element; ``place`` says more about where.

    Raises:
        DomainError: with ``where``, ``place`` and the index of the first element that is too large.
    """
    index = first_outside(x, state_bits=state_bits)
    if index is not None:
        raise domain_error(x[index], where=where, what=what, place=place or f"index {index}", state_bits=state_bits)


def kept(v: Integers, spikes: Flags, *, reset: str = "hard", subtract: int | Integers = 0) -> Integers:
    """What `lif_step` returned as v, before a subtraction; a hard reset has forgotten it, and 0 stands there."""
    return v + np.where(spikes, subtract, 0) if reset == "subtract" and spikes.any() else v


def first_saturated(v: Integers, *, state_bits: int = STATE_BITS) -> tuple[int, ...] | None:
    """Index of the first v, as `kept` returns it, that is at ``+-(2^(state_bits - 1) - 1)``; None if there is none.

    There nobody can tell where v would have been. A neuron that fires there and starts again from 0 loses nothing; any
    other is outside the domain of exact arithmetic.

    >>> first_saturated(np.array([5, -8388607]))
    (1,)
    """
    top = state_limit(state_bits) - 1
    if v.size == 0 or (int(v.max()) < top and int(v.min()) > -top):
        return None
    first = np.unravel_index(int(((v >= top) | (v <= -top)).argmax()), v.shape)
    return tuple(int(i) for i in first)


def domain_error(
    value: object,
    *,
    where: str,
    what: str,
    place: str,
    state_bits: int = STATE_BITS,
    step: int | None = None,
    sample: int | None = None,
    neuron: tuple[int, ...] | None = None,
) -> DomainError:
    """The error for a value that the state cannot hold; v may go up to one less, where it saturates."""
    return DomainError(
        f"{what} leaves the {state_bits}-bit state at {place}",
        where=where,
        found=value,
        limit=state_limit(state_bits) - (2 if what == "v" else 1),
        remedy="fewer weight bits, or another scale for this layer",
        quantity=what,
        step=step,
        sample=sample,
        neuron=neuron,
    )


def never_leaves(current_bound: int, decay_u: int, *, state_bits: int = STATE_BITS) -> bool:
    """Whether ``|a| <= current_bound`` in every step proves that u stays in its domain for ever.

    ``|u| <= 64 current_bound (1 + k + k^2 + ...) = 64 current_bound 4096 / (decay_u + 1)``, k the fraction kept.

    >>> never_leaves(131_071, 4095), never_leaves(131_072, 4095), never_leaves(1, -1)
    (True, False, False)
    """
    return current_bound == 0 or (
        decay_u >= 0 and (current_bound << ACTIVATION_SHIFT) * UNITY < state_limit(state_bits) * (decay_u + 1)
    )


def never_saturates(
    current_bound: int,
    bias_bound: int,
    subtract: int,
    decay_u: int,
    decay_v: int,
    steps: int,
    state_bits: int = STATE_BITS,
) -> bool:
    """Whether ``|a| <= current_bound`` and ``|b| <= bias_bound`` prove that v never saturates in ``steps`` steps.

    Each step adds at most ``|u| + |b| + subtract``, of which ``((4096 - decay_v) / 4096)^i`` is left i steps later.

    >>> never_saturates(1000, 0, 0, 4095, 0, 131), never_saturates(1000, 0, 0, 4095, 0, 132)
    (True, False)
    """
    if not (UNITY - 1 >= decay_u >= 0 and 0 <= decay_v <= UNITY):
        return False
    per_step = (current_bound << ACTIVATION_SHIFT) * UNITY / (decay_u + 1) + bias_bound + subtract
    keep = 1 - decay_v / UNITY
    memory = steps if keep == 1 else (1 - keep**steps) / (1 - keep)
    return per_step * memory < (state_limit(state_bits) - 1) * (1 - 1e-9)


def safe_dtype(current_bound: int, *, state_bits: int = STATE_BITS) -> type[np.int32] | type[np.int64]:
    """The narrowest dtype in which `lif_step` cannot overflow while ``|a| <= current_bound`` and |b| is in range.

    int32 needs ``64 |a| < 2^30`` and 24-bit states: the largest sum, decayed v + decayed u + 64 a + b and what a reset
    subtracts, is then below 2^30 + 5 2^23 < 2^31 (v itself, after subtraction from a negative threshold, below 2^24).

    Raises:
        DomainError: even int64 could overflow.
    """
    if current_bound >= 1 << 50 or state_bits > 50:
        raise DomainError("synaptic input too large for 64-bit arithmetic", where="lif", found=current_bound)
    return np.int32 if current_bound < 1 << 24 and state_bits <= 24 else np.int64
