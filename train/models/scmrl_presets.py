"""The named configurations of the S-CMRL network and of the networks it is compared with.

``tiny`` fits the data set avdigits, ``tiny-fused`` is the same with everything the paper adds (the image is padded so
that both modalities have 8 x 8 tokens); ``events`` and ``events-reference`` take event frames. ``reference`` is the
authors' network for UrbanSound8K-AV, ``reference-256`` for CREMA-D.
"""

from __future__ import annotations

Presets = dict[str, dict[str, object]]

_TINY: dict[str, object] = {
    "image_mean": (0.22,),  # of avdigits training pairs
    "image_std": (0.25,),
    "audio_mean": (0.33,),
    "audio_std": (0.18,),
    "heads": 2,  # 16 channels per head, as in reference-256: with fewer, temporal attention can hardly fire
    "bn_gamma_init": 1.5,
    "head_gain": 10.0,
}
_AUTHORS: dict[str, object] = {
    "surrogate": "sigmoid",
    "detach_membrane": True,
    "linear_std": 0.02,
}
_REFERENCE: dict[str, object] = {
    **_AUTHORS,
    "dim": 64,
    "stages": 4,
    "image_channels": 3,
    "image_size": 128,
    "audio_size": 128,
    "image_mean": (0.485, 0.456, 0.406),  # ImageNet's, as in the authors' code
    "image_std": (0.229, 0.224, 0.225),
}
_EVENTS: dict[str, object] = {  # MNISTDVS-NTIDIGITS: counts of two polarities, cochlea channels as an 8 x 8 picture
    "image_channels": 2,
    "image_size": 28,
    "audio_size": 28,
    "image_coding": "sequence",
    "audio_coding": "sequence",
    "image_mean": (0.0, 0.0),
    "image_std": (1.0, 1.0),
}
_MNIST: dict[str, object] = {"image_mean": (0.1307, 0.1307), "image_std": (0.3081, 0.3081)}  # as in the authors' code
_FULL: dict[str, object] = {"fusion": "spatiotemporal", "sao": "class"}
_PADDED: dict[str, object] = {"image_pad": 2}


def _with(*parts: dict[str, object]) -> dict[str, object]:
    return {name: value for part in parts for name, value in part.items()}


SCMRL: Presets = {
    "tiny": _TINY,
    "tiny-fused": _with(_TINY, _PADDED, _FULL),
    "reference": _with(_REFERENCE, _FULL, {"sao_temperature": 0.08}),
    "reference-256": _with(_REFERENCE, _FULL, {"dim": 256, "classes": 6, "sao_temperature": 0.07}),
    "events": _with(_EVENTS, _FULL, {"timesteps": 16, "heads": 2, "bn_gamma_init": 1.5, "head_gain": 10.0}),
    "events-reference": _with(_AUTHORS, _EVENTS, _FULL, _MNIST, {"timesteps": 16, "dim": 64}),
}
SPIKFORMER: Presets = {
    "tiny": _TINY,
    "reference": _REFERENCE,
    "reference-256": _with(_REFERENCE, {"dim": 256, "classes": 6}),
}
RIVAL: Presets = {
    "tiny": _with(_TINY, _PADDED),
    "reference": _REFERENCE,
    "reference-256": _with(_REFERENCE, {"dim": 256, "classes": 6}),
}
