"""A network of your own: write it in PyTorch, train it a little, convert it, see what the integers cost in accuracy.

    python examples/02_your_own_network.py [FILE.pt]

With a file name the network is also written as a checkpoint, which ``avsnn-convert FILE.pt --target loihi2`` takes.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from avsnn.convert.ir.text import render
from avsnn.convert.pipeline import convert
from avsnn.deploy.run import run
from avsnn.train.checkpoints import save
from avsnn.train.data.avdigits import make
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.neurons import LIF
from avsnn.train.proportion import Proportion

STEPS, TRAINING, TESTED, EPOCHS, BATCH = 4, 1000, 200, 4, 25


def convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return a convolution and its batch norm over (T, B, C, H, W); conversion folds the second into the first."""
    convolved = TimeBatched(nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False))
    return nn.Sequential(convolved, TimeBatched(nn.BatchNorm2d(channels_out)))


class Net(nn.Module):
    """Digits from images: (B, 1, 28, 28) in [0, 1] to (B, 10) scores.

    Neurons see (T, B, C, H, W); each layer that knows no time stands in its own `TimeBatched`. The
    first convolution runs once per image, because a directly coded image is the same in every step. The sum with the
    skip becomes two paths of unequal length, which the conversion balances with a delay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.repeat = DirectCoding(STEPS)
        self.lif1, self.lif2, self.lif3 = LIF(tau=2.0), LIF(tau=2.0), LIF(tau=2.0)
        self.pool = TimeBatched(nn.MaxPool2d(2))
        self.second, self.third = convolution(8, 16), convolution(16, 16)
        self.head = nn.Linear(16 * 7 * 7, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores of ``image``; the parameter's name is the name of the input everywhere else."""
        x = self.pool(self.lif1(self.repeat(self.first(image))))
        x = self.pool(self.lif2(self.second(x)))
        x = x + self.lif3(self.third(x))
        scores: Tensor = self.head(x.flatten(2).mean(0))
        return scores


def train(net: Net, images: Tensor, labels: Tensor) -> None:
    """Train for a few seconds: enough to see that conversion keeps what was learnt."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    net.train()
    for epoch in range(EPOCHS):
        for index in torch.randperm(len(images)).reshape(-1, BATCH):
            loss = nn.functional.cross_entropy(net(images[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.2f}", file=sys.stderr)
    net.eval()


def main() -> int:
    """Train, convert, compare."""
    torch.manual_seed(0)
    known, unknown = make(TRAINING, split="train"), make(TESTED, split="test")
    images, test = known.inputs()["image"], unknown.inputs()["image"]
    net = Net()
    train(net, torch.from_numpy(images), torch.from_numpy(known.label))

    # Calibration chooses integer scales: training data only. Values are 0 to 1 in steps of 1/255 unless a spec says
    # otherwise. A layer without a rule, or one that cannot be folded, is an error that names it.
    calibration = {"image": images[:64]}
    bundle = convert(net, {"image": images[:2]}, calibration=calibration, target="loihi2")
    print(render(bundle.graph("scheduled")))

    with torch.no_grad():
        real = net(torch.from_numpy(test)).argmax(dim=1).numpy() == unknown.label
    whole = run(bundle, test).raw.argmax(axis=1) == unknown.label
    print(f"\nfloat    {Proportion(correct=int(real.sum()), count=TESTED)}")
    print(f"integers {Proportion(correct=int(whole.sum()), count=TESTED)}")
    for delay in bundle.record["delays"]:
        print(f"{delay['synapse']}: waits {delay['delay']} steps, {delay['relays']} relay populations")
    print("spikes that quantising kept:", {k: f"{100 * v:.1f} %" for k, v in bundle.record["agreement"].items()})
    if len(sys.argv) > 1:
        example = {"image": images[:2]}
        print(save(sys.argv[1], net, example_inputs=example, name="mine", config={}, calibration=calibration))
    return 0


if __name__ == "__main__":
    sys.exit(main())
