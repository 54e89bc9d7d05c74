"""What SpikSLC-Net leaves open or varies, as fields: sizes, norms, attention, neurons.

"L-E" in the tables of its paper (Spiking Hybrid Attentive Mechanism with Decoupled Layer Normalization for Joint Sound
Localization and Classification) is ``blocks-dim``. What it does not print (frames, heads, scale, attention threshold)
has the values of Spikformer, which it cites.
"""

from __future__ import annotations

from dataclasses import dataclass

from avsnn.errors import InputError
from avsnn.train.norms import NORMS, VARIANCES
from avsnn.train.surrogates import find_surrogate

_CHOICES = {
    "norm": tuple(NORMS),
    "dsln_var": VARIANCES,
    "attention": ("spike", "softmax"),
    "neuron": ("lif", "relu"),
}
_MODALITIES = (("gcc", "mel"), ("gcc",), ("mel",))


@dataclass(frozen=True, kw_only=True)
class SpikSLCConfig:
    """Everything that decides shapes and arithmetic of the network.

    ``blocks`` is L, ``dim`` E. A frame of ``gcc`` has ``pairs * lags`` values, one of ``mel`` ``microphones * mels``.
    With one modality there is no cross attention. ``norm`` is a name in `avsnn.train.norms.NORMS`; ``dsln_var``
    ``"shared"`` allows another number of frames than ``frames``; ``norm_momentum`` is the weight of the newest batch in
    running statistics. Only ``attention_threshold / scale`` matters. ``alpha`` 0 means the surrogate's own steepness.
    ``azimuth_bias_init`` is the logit of the mean target of one direction (a Gaussian of width 5 degrees among 360).
    ``neuron`` ``"relu"`` with ``attention`` ``"softmax"`` is the ordinary network, in one step.
    """

    modalities: tuple[str, ...] = ("gcc", "mel")
    blocks: int = 1
    dim: int = 32
    frames: int = 16
    pairs: int = 6
    lags: int = 51
    microphones: int = 4
    mels: int = 51
    classes: int = 10
    azimuths: int = 360
    timesteps: int = 2
    heads: int = 8
    attention: str = "spike"
    scale: float = 0.125
    attention_threshold: float = 0.5
    norm: str = "dsln"
    dsln_var: str = "position"
    norm_momentum: float = 0.1
    bn_gamma_init: float = 1.0
    azimuth_bias_init: float = -3.7
    neuron: str = "lif"
    tau: float = 2.0
    v_threshold: float = 1.0
    surrogate: str = "atan"
    alpha: float = 0.0
    detach_membrane: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _bad(name, getattr(self, name), ", ".join(choices))
        if self.modalities not in _MODALITIES:
            raise _bad("modalities", ",".join(self.modalities), "gcc,mel or gcc or mel")
        sizes = ("blocks", "dim", "frames", "pairs", "lags", "microphones", "mels", "classes", "azimuths", "timesteps")
        for name in (*sizes, "heads"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "1 or more")
        for name in ("scale", "attention_threshold", "norm_momentum", "bn_gamma_init"):
            if not getattr(self, name) > 0:
                raise _bad(name, getattr(self, name), "above 0")
        if self.norm_momentum > 1:
            raise _bad("norm_momentum", self.norm_momentum, "up to 1")
        if self.dim % self.heads:
            raise _bad("heads", self.heads, f"a divisor of dim {self.dim}")
        if self.neuron == "relu" and self.timesteps > 1:
            raise _bad("timesteps", self.timesteps, "1 with neuron=relu, as nothing would change over time")
        find_surrogate(self.surrogate)


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"heads": 4, "scale": 0.5, "bn_gamma_init": 1.5},  # untrained, at 0.125, its attention hardly fires
    "reference": {"blocks": 2, "dim": 128},
}


def _bad(name: str, found: object, limit: str) -> InputError:
    return InputError(f"{name} is not possible", where="SpikSLCConfig", found=found, limit=limit)
