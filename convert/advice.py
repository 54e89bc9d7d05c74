"""The name of a layer or function that has no rule to what a user can do about it."""

from __future__ import annotations

from collections.abc import Callable

_NORM = "BatchNorm2d folds away without a trace; DSLN of avsnn.train.norms does for most networks"
_NEURON = "chips send spikes, not numbers: put LIF of avsnn.train.neurons there and train again"
_FIXED = "leave it out, or fold it into the layer before"
_ATTEND = "SpikeAttention of avsnn.train.attention attends with spikes alone"
_POOL = "nn.AvgPool2d, nn.MaxPool2d of spikes, or a convolution with a stride"
_FOREIGN = "LIF of avsnn.train.neurons covers it with tau or beta, reset and strict"
_NORSE = "LIFBoxCell of norse, or LIF of avsnn.train.neurons"
_WIDER = "a convolution with a larger stride or an nn.Linear does it with fixed weights"

ADVICE: dict[str, str] = {
    **dict.fromkeys(("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "RMSNorm", "LocalResponseNorm"), _NORM),
    "LayerNorm": "its statistics differ per sample; BatchNorm2d or DSLN; or LayerNorm of avsnn.train.norms, by a host",
    **dict.fromkeys(("ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "GELU", "SiLU", "Mish"), _NEURON),
    **dict.fromkeys(("Sigmoid", "Tanh", "Hardtanh", "Softplus", "sigmoid", "tanh", "relu", "gelu", "silu"), _NEURON),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "softmax", "log_softmax"), "the largest answer stays the largest; " + _FIXED
    ),
    **dict.fromkeys(("MultiheadAttention", "TransformerEncoderLayer", "scaled_dot_product_attention"), _ATTEND),
    **dict.fromkeys(("matmul", "bmm", "einsum"), _ATTEND),
    **dict.fromkeys(("AdaptiveMaxPool2d", "FractionalMaxPool2d", "LPPool2d", "MaxPool1d", "MaxPool3d"), _POOL),
    **dict.fromkeys(("ConvTranspose2d", "Upsample", "PixelShuffle", "Conv3d", "interpolate"), _WIDER),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell"), "connections back in time have no node; use LIF"),
    **dict.fromkeys(("RLeaky", "Alpha", "QIFNode", "EIFNode", "KLIFNode", "Lapicque"), _FOREIGN),
    **dict.fromkeys(("LIFRefracCell", "LIFRecurrentCell", "LIFExCell", "LIFAdExCell", "LSNNCell"), _NORSE),
    "Embedding": "send one-hot inputs through an nn.Linear",
    **dict.fromkeys(("clamp", "exp", "log", "sqrt", "pow", "abs"), _NEURON),
}
GENERAL = "write a rule for it: trace(..., rules=MODULE_RULES | {Layer: rule}), or use a layer that has one"


def advice(found: str) -> str:
    """What to do about a class or function name.

    >>> advice("torch.sigmoid") == advice("Tanh")
    True
    """
    return ADVICE.get(found.rpartition(".")[2].removesuffix("()"), GENERAL)


def called(target: str | Callable[..., object]) -> str:
    """The target of a call as a reader knows it, without addresses in memory.

    >>> called("softmax"), called(max)
    ('.softmax()', 'max')
    """
    if isinstance(target, str):
        return f".{target}()"
    module = getattr(target, "__module__", None) or "torch"
    name = getattr(target, "__name__", str(target))
    return name if module in ("builtins", "_operator") else f"{module.partition('.')[0]}.{name}"
