"""L2-ActSpikeNet, the audio network and the SMLP: sizes, ablations, gradients, answers, and 32 samples by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from avsnn.errors import CheckpointError, InputError
from avsnn.train import checkpoints, plans, runs
from avsnn.train.data import avdigits
from avsnn.train.loop import Options
from avsnn.train.losses import make_loss
from avsnn.train.models import audio_snn, l2net, smlp
from avsnn.train.models.config import plain
from avsnn.train.models.counting import CosineHead, CountingConfig, ranked, unit
from avsnn.train.models.table import find_model, make_config
from avsnn.train.neurons import LIF

INPUTS = {"l2net": ("image",), "audio-snn": ("audio",), "smlp": ("image", "audio")}
FROZEN: dict[str, Any] = {"frozen": True, "image_checkpoint": smlp.INCLUDED, "audio_checkpoint": smlp.INCLUDED}
ROWS = "linear.parametrizations.weight.original"


def build(model: str, preset: str = "tiny", **values: Any) -> Any:
    torch.manual_seed(0)
    return find_model(model).build(make_config(model, preset, values))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def with_statistics(module: nn.Module, given: dict[str, Tensor]) -> None:
    """Let every norm have the statistics of ``given``, also where it is frozen: untrained ones silence a network."""
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    module(**given)
    for norm in norms:
        norm.momentum = 0.1
    module.train(module.training)


def inputs(model: str, count: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    both = {"image": torch.rand(count, 1, 28, 28), "audio": torch.rand(count, 1, 32, 32)}
    return {name: both[name] for name in INPUTS[model]}


@pytest.mark.parametrize(
    ("model", "preset", "values", "parameters"),
    [
        ("l2net", "reference", {}, 11_173_952),
        ("l2net", "reference", {"block": "lif_before_add"}, 11_173_952),
        ("l2net", "reference", {"block": "lif_after_bn", "stem": "lif_bn"}, 11_173_952),
        ("l2net", "reference-128", {}, 11_181_632),
        ("audio-snn", "reference", {}, 294_880),
        ("audio-snn", "reference", {"dropout": 0.0}, 294_880),
        ("audio-snn", "reference", {"channels": [16, 32]}, 4_896 + 10 * 32 * 16 * 107),
        ("audio-snn", "reference", {"pool": False}, 23_520 + 10 * 64 * 64 * 431),
    ],
)
def test_parameter_counts(model: str, preset: str, values: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        module = build(model, preset, **values)
    assert size(module) == parameters
    assert size(module.backbone) == parameters - 10 * module.backbone.features


@pytest.mark.parametrize(
    ("preset", "values", "parameters"),
    [
        ("reference", {}, 14_217_738),
        ("reference", {"hidden": 256}, 7_136_522),
        ("reference-projected", {}, 7_213_834),
    ],
)
def test_parameter_counts_of_the_fusion(preset: str, values: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        module = build("smlp", preset, **FROZEN, **values)
    assert (module.image.features, module.audio.features) == (512, 27_136)
    assert size(module.fusion) == parameters
    assert size(module) == parameters + 11_168_832 + 23_520
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == parameters


@pytest.mark.parametrize(
    ("preset", "values", "side"),
    [("reference", {}, 32), ("reference-128", {}, 128), ("reference", {"stem": "lif_bn"}, 32)],
)
def test_reference_image_shapes(preset: str, values: dict[str, Any], side: int) -> None:
    module = build("l2net", preset, timesteps=1, **values).eval()
    with torch.no_grad():
        assert module.backbone(torch.rand(1, 3, side, side)).shape == (1, 1, 512)
        spikes = module.backbone.blocks[:5](module.backbone.stem(torch.rand(1, 3, side, side)))
    assert spikes.shape == (1, 1, 256, 8, 8)


@pytest.mark.parametrize(("values", "features"), [({}, 27_136), ({"channels": [4, 8], "pool": False}, 8 * 64 * 431)])
def test_reference_audio_shapes(values: dict[str, Any], features: int) -> None:
    module = build("audio-snn", "reference", timesteps=2, **values).eval()
    with torch.no_grad():
        found = module.outputs(torch.rand(1, 1, 64, 431))
    assert found["embedding"].shape == (1, features)
    assert found["scores"].shape == (1, 10)


VARIANTS = [
    *(("l2net", {"block": block, "stem": stem, "stem_kernel": kernel})
      for block in l2net.BLOCKS for stem in l2net.STEMS for kernel in (3, 7)),
    *(("audio-snn", values) for values in ({}, {"dropout": 0.0}, {"channels": [8, 16]}, {"pool": False})),
    *(("smlp", {"project": project, **frozen}) for frozen in ({}, FROZEN) for project in (0, 16)),
]  # fmt: skip


@pytest.mark.parametrize(("model", "values"), VARIANTS)
def test_every_part_fires_and_every_parameter_learns(model: str, values: dict[str, Any]) -> None:
    small: dict[str, Any] = {
        "l2net": {"widths": [4, 6, 8]},
        "audio-snn": {},
        "smlp": {"image_values": '{"widths": [4, 6, 8]}'},
    }
    module = build(model, timesteps=3, **{**small[model], **values})
    given = inputs(model, count=4)
    with_statistics(module, given)
    fired: dict[str, bool] = {}
    neurons = [(name, child) for name, child in module.named_modules() if isinstance(child, LIF)]
    for name, child in neurons:
        child.register_forward_hook(lambda _m, _i, y, name=name: fired.update({name: bool(y.any())}))
    found = module.eval().outputs(**given)  # evaluated, as a bias before a norm learns nothing in training
    assert [name for name, _ in neurons if not fired[name]] in ([], ["head.output.lif"], ["fusion.output.lif"])
    assert torch.equal(found["scores"], module(**given))
    assert found["counts"].shape == (4, 10)
    weights = torch.randn(4, 10)
    torch.autograd.backward(
        (module.outputs(**given)["counts"] * weights).sum()
    )  # evaluated: a bias before a norm learns too
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name
        else:
            assert name.startswith(("image.", "audio.")), name


def test_blocks_follow_their_equations() -> None:
    """Each variant against the sentence that defines it, written out with its own layers."""
    torch.manual_seed(2)
    x = (torch.rand(3, 2, 4, 8, 8) < 0.5).double()
    for kind in l2net.BLOCKS:
        for stride, wide in ((1, 4), (2, 6)):
            config = l2net.L2NetConfig(block=kind, widths=(4,), beta=0.9, conv_gain=3.0)
            block = l2net.Block(4, wide, stride, config).double()
            conv1, conv2, norm1, norm2 = (
                block.get_submodule(f"{n}.module") for n in ("conv1", "conv2", "norm1", "norm2")
            )

            def each(module: nn.Module, sequence: Tensor) -> Tensor:
                y: Tensor = module(sequence.flatten(0, 1))
                return y.reshape(*sequence.shape[:2], *y.shape[1:])

            def fire(sequence: Tensor) -> Tensor:
                u, s, spikes = torch.zeros_like(sequence[0]), torch.zeros_like(sequence[0]), []
                for current in sequence:
                    u = 0.9 * u - s + current
                    s = (u > 1).double()
                    spikes.append(s)
                return torch.stack(spikes)

            hidden = each(conv1, x)
            hidden = fire(each(norm1, hidden)) if kind == "lif_after_bn" else each(norm1, fire(hidden))
            branch, shortcut = each(norm2, each(conv2, hidden)), x
            if stride == 2:
                project, norm = block.get_submodule("shortcut.0.module"), block.get_submodule("shortcut.1.module")
                shortcut = each(norm, each(project, x))
            if kind == "lif_before_add":
                branch, shortcut = fire(branch), fire(shortcut)
            expected = fire(branch + shortcut)
            assert torch.equal(block(x), expected)
            assert 0 < expected.mean() < 1
            assert sum(isinstance(m, LIF) for m in block.modules()) == (4 if kind == "lif_before_add" else 2)


def test_head_compares_angles_alone() -> None:
    torch.manual_seed(3)
    head = CosineHead(6, CountingConfig(timesteps=8, classes=3)).double()
    with torch.no_grad():
        head.get_parameter(ROWS).mul_(torch.tensor([[5.0], [1.0], [0.1]]))
    x = torch.rand(8, 4, 6).double()
    found = head.outputs(x)
    rows = head.linear.weight.detach()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3).double())
    cosine = functional.cosine_similarity(x.mean(0)[:, None], rows[None], dim=2)
    torch.testing.assert_close(found["logits"], cosine)
    torch.testing.assert_close(head.outputs(7 * x)["logits"], cosine)
    exact = CosineHead(3, CountingConfig(timesteps=8, classes=3)).double()
    with torch.no_grad():
        exact.get_parameter(ROWS).copy_(torch.eye(3))
    assert exact.outputs(torch.eye(3).double().expand(8, 3, 3))["counts"].tolist() == (7 * torch.eye(3)).tolist()


def test_accumulated_answer_has_the_winner_of_the_cosines() -> None:
    counting, summing = (build("l2net", readout=readout).eval() for readout in ("counts", "accumulate"))
    with torch.no_grad():
        found, scores = counting.outputs(**inputs("l2net", 16)), summing(**inputs("l2net", 16))
    assert torch.equal(found["logits"].argmax(1), scores.argmax(1))
    length = counting.backbone(**inputs("l2net", 16)).mean(0).norm(dim=1, keepdim=True)
    torch.testing.assert_close(scores, found["logits"] * length)


def test_evidence_orders_equal_counts_and_no_others() -> None:
    counts = torch.tensor([[2.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    evidence = torch.tensor([[-1e9, -5.0, 1e9], [0.1, 0.3, 0.2]])
    assert ranked(counts, evidence).argsort(1, descending=True).tolist() == [[1, 0, 2], [1, 2, 0]]


def test_a_silent_embedding_stays_finite() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    torch.autograd.backward(unit(x)[:, 0].sum())
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert unit(x).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_dropout_thins_each_step_by_itself_and_only_in_training() -> None:
    module = build("audio-snn", dropout=0.5)
    spikes: list[Tensor] = []
    module.backbone.flatten.register_forward_hook(lambda _m, _i, y: spikes.append(y.detach()))
    given = inputs("audio-snn", 8)
    thinned = module.backbone(**given)
    lost = [(step[before > 0] == 0).nonzero().tolist() for step, before in zip(thinned, spikes[0], strict=True)]
    assert all(lost)
    share = float((thinned[spikes[0] > 0] == 0).float().mean())
    assert 0.4 < share < 0.6
    assert torch.equal(module.eval().backbone(**given), spikes[1])


def test_frozen_backbones_keep_weights_and_statistics() -> None:
    module = build("smlp", **FROZEN)
    given = inputs("smlp", 8)
    with_statistics(module, given)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.1)
    module.train()
    module.outputs(**given)["counts"].sum().backward()
    optimiser.step()
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("fusion.") for name in moved)
    image, audio = module.embed(**given)
    assert torch.equal(module(**given), module.fusion(image, audio))
    torch.testing.assert_close(image.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(audio.norm(dim=1), torch.ones(8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of both backbones, not of the sizes of any preset."""
    folder = tmp_path_factory.mktemp("backbones")
    paths = {}
    sizes: dict[str, dict[str, Any]] = {"l2net": {"widths": [4, 6]}, "audio-snn": {"channels": [4, 6]}}
    for model, values in sizes.items():
        module = build(model, timesteps=2, **values)
        module(**inputs(model, 8))  # statistics of norms unlike their initial ones
        paths[model] = checkpoints.save(
            folder / f"{model}.pt",
            module.eval(),
            example_inputs=inputs(model),
            name=model,
            config=plain(module.config),
        )
    return paths


def test_backbones_come_from_checkpoints(trained: dict[str, Path]) -> None:
    module = build("smlp", image_checkpoint=str(trained["l2net"]), audio_checkpoint=str(trained["audio-snn"])).eval()
    assert (module.image.features, module.audio.features) == (6, 6 * 8 * 8)
    for modality, name in (("image", "l2net"), ("audio", "audio-snn")):
        source = checkpoints.load(trained[name]).build().get_submodule("backbone")
        given = inputs("smlp")[modality]
        assert torch.equal(module.get_submodule(modality)(given), source(given))
    assert module.config.image_checkpoint == module.config.audio_checkpoint == "included"
    again = find_model("smlp").build(make_config("smlp", "reference", plain(module.config))).eval()
    again.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(again(**inputs("smlp")), module(**inputs("smlp")))
    with pytest.raises(CheckpointError, match="of another network, found l2net, limit audio-snn"):
        build("smlp", audio_checkpoint=str(trained["l2net"]))
    with pytest.raises(InputError, match=r"^audio_checkpoint: .* never learnt .*; pass audio_checkpoint=<file>"):
        build("smlp", frozen=True, image_checkpoint=str(trained["l2net"]))


def test_a_trained_fusion_needs_the_files_of_its_backbones_no_more(trained: dict[str, Path], tmp_path: Path) -> None:
    files = {name: tmp_path / path.name for name, path in trained.items()}
    for name, path in files.items():
        path.write_bytes(trained[name].read_bytes())
    values = {"frozen": True, "image_checkpoint": str(files["l2net"]), "audio_checkpoint": str(files["audio-snn"])}
    plan = plans.Plan(
        model="smlp", values=values, pairs=20, val_pairs=20, device="cpu", options=Options(epochs=1, batch=10)
    )
    plans.begin(plan, tmp_path / "run")
    outcome = runs.execute(plan, tmp_path / "run")
    for path in files.values():
        path.unlink()
    module = checkpoints.load(outcome.checkpoint).build()
    source = checkpoints.load(trained["l2net"]).build().get_submodule("backbone")
    image = inputs("smlp")["image"]
    assert torch.equal(module.get_submodule("image")(image), source(image))
    with pytest.raises(CheckpointError):
        plans.begin(plan, tmp_path / "another")
    assert not (tmp_path / "another").exists()


@pytest.mark.parametrize("model", INPUTS)
def test_checkpoints_bring_the_same_network_back(model: str, tmp_path: Path) -> None:
    module = build(model)
    module(**inputs(model, 8))
    example, config = inputs(model), plain(module.config)
    path = checkpoints.save(tmp_path / "m.pt", module.eval(), example_inputs=example, name=model, config=config)
    assert torch.equal(checkpoints.load(path).build()(**example), module(**example))


@pytest.mark.parametrize(
    ("model", "values", "word"),
    [
        ("l2net", {"block": "plain"}, "act_after_addition"),
        ("l2net", {"stem": "lif"}, "bn_lif, lif_bn"),
        ("l2net", {"stem_kernel": 5}, "3, 7"),
        ("l2net", {"widths": []}, "widths"),
        ("l2net", {"widths": [8, 0]}, "widths"),
        ("l2net", {"image_channels": 3}, "3 channels"),
        ("l2net", {"beta": 1.5}, "beta"),
        ("l2net", {"reset": "soft"}, "subtract_delayed"),
        ("l2net", {"readout": "spikes"}, "counts, accumulate"),
        ("l2net", {"timesteps": 0}, "timesteps"),
        ("audio-snn", {"dropout": 1.0}, "below 1"),
        ("audio-snn", {"channels": [8] * 6}, "32 x 32"),
        ("audio-snn", {"surrogate": "step"}, "fast_sigmoid"),
        ("smlp", {"image_preset": "tinny"}, "did you mean tiny"),
        ("smlp", {"audio_values": "{"}, "no JSON"),
        ("smlp", {"audio_values": "[]"}, "no JSON object"),
        ("smlp", {"image_values": '{"width": [3]}'}, "did you mean widths"),
        ("smlp", {"project": -1}, "project"),
    ],
)
def test_impossible_configurations(model: str, values: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        make_config(model, "tiny", values)


@pytest.mark.parametrize("model", INPUTS)
def test_learns_32_samples_by_heart(model: str) -> None:
    pairs = avdigits.make(32, use_cache=False)
    module = build(model)
    config, values = module.config, pairs.inputs()
    given = {name: torch.from_numpy(values[name]) for name in INPUTS[model]}
    if model == "smlp":  # what is frozen need be computed only once
        with_statistics(module, given)
        with torch.no_grad():
            embeddings = module.embed(**given)
        module, given = module.fusion, dict(zip(given, embeddings, strict=True))
    loss_of = make_loss(find_model(model).loss_of(config), {}, config)
    label, right = torch.from_numpy(pairs.label), 0
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for update in range(150):
        loss = loss_of(module.train().outputs(**given), {"label": label})
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if update % 10 == 9:
            with torch.no_grad():
                right = int((module.eval()(**given).argmax(1) == label).sum())
        if right == 32:
            return
    raise AssertionError(f"{right} of 32")


def test_rates_of_the_paper_reach_the_loss() -> None:
    for model, spikes in (("l2net", (7.0, 0.0)), ("audio-snn", (3.0, 0.0)), ("smlp", (7.0, 0.0))):
        config = make_config(model, "reference", {})
        loss: Any = make_loss(find_model(model).loss_of(config), {}, config)
        assert loss.wanted() == spikes


def test_presets_have_the_neurons_of_the_paper() -> None:
    for model, surrogate, steps in (("l2net", "atan", 8), ("audio-snn", "fast_sigmoid", 4), ("smlp", "atan", 8)):
        config = make_config(model, "reference", {})
        assert (config.beta, config.v_threshold, config.reset, config.strict) == (0.95, 1.0, "subtract_delayed", True)
        assert (config.surrogate, config.timesteps) == (surrogate, steps)
    assert smlp.build_smlp(make_config("smlp", "tiny", {})).config.image.timesteps == 4
    assert audio_snn.PRESETS.keys() == {"tiny", "reference"}
