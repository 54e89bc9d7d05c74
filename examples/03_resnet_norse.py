"""A network that knows nothing of avsnn: plain torch, norse's neurons, a loop over steps. Train, convert, run.

    pip install --no-deps -r requirements/norse.txt
    python examples/03_resnet_norse.py

The conversion rolls the loop up: one step of it is the graph. ``avsnn check`` tells beforehand what would stop it.
"""

from __future__ import annotations

import sys

import torch
from norse.torch import LIFBoxCell, LIFBoxParameters
from torch import Tensor, nn

from avsnn.convert.ir.text import render
from avsnn.convert.pipeline import convert
from avsnn.deploy.run import run
from avsnn.train.data.avdigits import make
from avsnn.train.proportion import Proportion

STEPS, TRAINING, TESTED, EPOCHS, BATCH = 4, 1000, 200, 6, 25
NEURON = LIFBoxParameters(tau_mem_inv=torch.tensor(0.5), v_th=torch.tensor(0.5))  # v = v + 0.5 (x - v), v > 0.5 fires


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution and its batch norm over (B, C, H, W); conversion folds the second into the first."""
    convolved = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolved, nn.BatchNorm2d(channels_out))


class Block(nn.Module):
    """Two layers and a skip around them, all spikes: the sum goes into the next convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)
        self.lif1, self.lif2 = LIFBoxCell(NEURON, dt=1.0), LIFBoxCell(NEURON, dt=1.0)

    def forward(self, x: Tensor, states: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the activity of one step, and what the neurons keep for the next."""
        z, kept = self.lif1(self.first(x), states[0])
        z, last = self.lif2(self.second(z), states[1])
        return x + z, (kept, last)


class ResNet(nn.Module):
    """Spoken digits: log-mel pictures (B, 1, 32, 32) in [0, 1] to (B, 10) scores, averaged over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lif = convolution(1, 8, stride=2), LIFBoxCell(NEURON, dt=1.0)
        self.block1, self.block2 = Block(8), Block(16)
        self.down, self.lif_down = convolution(8, 16, stride=2), LIFBoxCell(NEURON, dt=1.0)
        self.head = nn.Linear(16 * 4 * 4, 10)
        self.pool = nn.AvgPool2d(2)

    def forward(self, audio: Tensor) -> Tensor:
        """Return the scores of ``audio``; a cell that is given no state starts from nothing."""
        current, scores = self.stem(audio), []  # the current is the same in every step
        state = state_down = None
        states1 = states2 = (None, None)
        for _ in range(STEPS):
            x, state = self.lif(current, state)
            x, states1 = self.block1(x, states1)
            x, state_down = self.lif_down(self.down(x), state_down)
            x, states2 = self.block2(x, states2)
            scores.append(self.head(self.pool(x).flatten(1)))
        return torch.stack(scores).mean(0)


def train(net: ResNet, sounds: Tensor, labels: Tensor) -> None:
    """Train for some seconds: enough to see that conversion keeps what was learnt."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    net.train()
    for epoch in range(EPOCHS):
        for index in torch.randperm(len(sounds)).reshape(-1, BATCH):
            loss = nn.functional.cross_entropy(net(sounds[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.2f}", file=sys.stderr)
    net.eval()


def main() -> int:
    """Train, convert, compare."""
    torch.manual_seed(0)
    known, unknown = make(TRAINING, split="train"), make(TESTED, split="test")
    sounds, test = known.inputs()["audio"], {"audio": unknown.inputs()["audio"]}
    net = ResNet()
    train(net, torch.from_numpy(sounds), torch.from_numpy(known.label))

    # Two samples to follow the network with, training data to choose the integers with: values from 0 to 1.
    bundle = convert(net, {"audio": sounds[:2]}, calibration={"audio": sounds[:64]}, target="loihi2")
    print(render(bundle.graph("scheduled")))

    with torch.no_grad():
        real = net(torch.from_numpy(test["audio"])).argmax(dim=1).numpy() == unknown.label
    done = run(bundle, test, backend="cpu", record="all")
    whole = done.raw.argmax(axis=1) == unknown.label
    print(f"\nfloat    {Proportion(correct=int(real.sum()), count=TESTED)}")
    print(f"integers {Proportion(correct=int(whole.sum()), count=TESTED)}")
    for name, spikes in done.spikes.items():
        print(f"{name}: {100 * spikes.mean():.1f} % spikes")
    for delay in bundle.record["delays"]:
        print(f"{delay['synapse']}: waits {delay['delay']} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
