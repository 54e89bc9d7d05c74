"""Training samples per second of S-CMRL, ours beside SpikingJelly's multi-step neurons, on the CPU, in one run.

    pip install spikingjelly
    OMP_NUM_THREADS=1 python benchmarks/train_speed.py

Both networks hold the same weights and are checked to give the same scores and the same gradients before anything is
timed: SpikingJelly's is ours with each neuron as its ``LIFNode`` in multi-step mode, each per-step layer in its
``SeqToANNContainer``, and ``reset_net`` after each update, as its documentation says. The first convolution, whose
input is the same in every step, is computed once in both; with ``--repeat-input`` SpikingJelly's network computes it
in every step, as the S-CMRL authors' code does. Ours has its weights laid out as the trainer does it, channels last;
``--lay-out-both`` does the same to SpikingJelly's network. Updates alternate, so that whatever else the machine does
hits both. SpikingJelly is used by this file alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.models.table import find_model, make_config
from avsnn.train.neurons import LIF
from avsnn.train.samples import answers, lay_out

Inputs = dict[str, Tensor]


def build(args: argparse.Namespace) -> nn.Module:
    """Return S-CMRL of the reference preset with the sizes of ``args``, its gradient kept through time."""
    values: dict[str, Any] = {"dim": args.dim, "timesteps": args.timesteps, "detach_membrane": False}
    values |= {"image_size": args.size, "audio_size": args.size, "fusion": args.fusion}
    if args.fusion == "none":
        values["sao"] = "off"
    torch.manual_seed(0)
    module = find_model("scmrl").build(make_config("scmrl", "reference", values))
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.constant_(child.weight, 2.0)  # deep layers must fire for the check to mean anything
    return module


def spiking_jelly(ours: nn.Module, *, repeat_input: bool) -> nn.Module:
    """Return ``ours`` with SpikingJelly's neurons and containers in place of our own."""
    from spikingjelly.activation_based import layer, neuron, surrogate

    class Repeated(nn.Module):
        """A first stage that computes everything in every step."""

        def __init__(self, stage: nn.Module, timesteps: int) -> None:
            super().__init__()
            self.timesteps = timesteps
            self.current = layer.SeqToANNContainer(stage.normalise, stage.conv, stage.norm)
            self.lif, self.pool = stage.lif, stage.pool

        def forward(self, x: Tensor) -> Tensor:
            pooled: Tensor = self.pool(self.lif(self.current(x.expand(self.timesteps, *x.shape))))
            return pooled

    def replaced(child: nn.Module) -> nn.Module:
        if isinstance(child, TimeBatched):
            return layer.SeqToANNContainer(child.module)
        if not isinstance(child, LIF):
            return child
        return neuron.LIFNode(
            tau=child.tau,
            v_threshold=child.v_threshold,
            surrogate_function=surrogate.Sigmoid(alpha=child.alpha),
            detach_reset=True,
            step_mode="m",
        )

    theirs = copy.deepcopy(ours)
    for parent in list(theirs.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, replaced(child))
    if repeat_input:
        for parent in list(theirs.modules()):
            for name, child in list(parent.named_children()):
                if any(isinstance(part, DirectCoding) for part in child.children()):
                    setattr(parent, name, Repeated(child, child.repeat.timesteps))
    return theirs


def update(module: nn.Module, optimiser: torch.optim.Optimizer, inputs: Inputs, labels: Tensor) -> Tensor:
    """Do one step of the optimiser; returns the scores."""
    scores = answers(module, inputs)["scores"]
    optimiser.zero_grad(set_to_none=True)
    functional.cross_entropy(scores, labels).backward()
    optimiser.step()
    return scores.detach()


def check_equal(ours: nn.Module, theirs: nn.Module, reset: Callable[[nn.Module], None], inputs: Inputs) -> None:
    """Stop unless both give the same scores and the gradients differ by rounding alone.

    In float64: in float32 a spike within rounding of its threshold may fall on either side.
    """
    found = []
    for module in (ours, theirs):
        twin = copy.deepcopy(module).double()
        scores = answers(twin, {name: x.double() for name, x in inputs.items()})["scores"]
        functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1]).backward()
        found.append([scores.detach(), *(p.grad for p in twin.parameters() if p.grad is not None)])
        if module is theirs:
            reset(twin)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    if not float(found[0][0].std(0).max()) > 0:
        raise SystemExit("all samples get the same scores: nothing is compared")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("dim", 64), ("timesteps", 4), ("size", 64), ("batch", 32), ("updates", 7), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default or 'as torch finds'}")
    parser.add_argument("--fusion", default="spatiotemporal", help="default spatiotemporal, with semantic alignment")
    parser.add_argument("--repeat-input", action="store_true", help="SpikingJelly's first convolution in every step")
    parser.add_argument("--lay-out-both", action="store_true", help="SpikingJelly's weights channels last too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        from importlib.metadata import version

        from spikingjelly.activation_based.functional import reset_net
    except ImportError as error:
        print(f"spikingjelly cannot be imported ({error}); pip install spikingjelly", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    ours = build(args)
    theirs = spiking_jelly(ours, repeat_input=args.repeat_input)
    rng = torch.Generator().manual_seed(1)
    shapes = {"image": (args.batch, 3, args.size, args.size), "audio": (args.batch, 1, args.size, args.size)}
    lay_out(ours)
    if args.lay_out_both:
        lay_out(theirs)
    inputs = {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}
    labels = torch.arange(args.batch) % 10
    check_equal(ours, theirs, reset_net, {name: x[:4] for name, x in inputs.items()})
    seconds: dict[str, list[float]] = {"ours": [], "spikingjelly": []}
    modules = {"ours": ours, "spikingjelly": theirs}
    optimisers = {name: torch.optim.AdamW(module.parameters(), lr=1e-4) for name, module in modules.items()}
    for repetition in range(args.updates + 1):  # the first warms up
        for name in sorted(modules, reverse=bool(repetition % 2)):
            began = time.perf_counter()
            update(modules[name], optimisers[name], inputs, labels)
            if name == "spikingjelly":
                reset_net(modules[name])
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    rates = {name: args.batch / statistics.median(times) for name, times in seconds.items()}
    best = {name: args.batch / min(times) for name, times in seconds.items()}
    result = {
        "samples_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["spikingjelly"], 3),
        "ratio_of_best": round(best["ours"] / best["spikingjelly"], 3),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "spikingjelly": version("spikingjelly"),
        "torch": torch.__version__,
        "settings": vars(args),
    }
    if args.json:
        print(json.dumps(result))
    else:
        for name, rate in rates.items():
            print(f"{name:>13}: {rate:7.2f} samples/s")
        print(f"ratio {result['ratio']} (of the medians), {result['ratio_of_best']} (of the fastest updates)")
        print(f"threads {result['threads']}, torch {result['torch']}, spikingjelly {result['spikingjelly']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
