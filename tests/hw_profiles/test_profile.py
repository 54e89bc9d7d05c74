from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from avsnn.errors import ProfileError
from avsnn.hw_profiles.loader import TERM_OF
from avsnn.hw_profiles.profile import load_profile, profile_json, profile_names
from avsnn.hw_profiles.schema import CAPABILITY_KINDS, EVIDENCE, TAGS


@pytest.fixture
def loihi2_text() -> str:
    return Path(load_profile("loihi2").path).read_text(encoding="utf-8")


def written(folder: Path, text: str) -> Path:
    path = folder / "chip.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_profiles() -> None:
    assert len(profile_names()) == 22
    assert profile_names("target") == ("cpu", "loihi2")
    assert profile_names("comparator") == ("cpu-xeon", "gpu-a100", "jetson-orin-nano")
    assert set(profile_names()) - set(profile_names("pricing")) == {"cpu", *profile_names("comparator")}


def test_chips_without_a_published_price_of_an_operation_have_none() -> None:
    silent = {"akida", "brainscales2", "speck", "xylo"}
    for name in profile_names("pricing"):
        assert (load_profile(name).energy_pj["sop"].value is None) == (name in silent), name


def test_the_price_of_a_whole_chip_is_its_power_over_its_operations() -> None:
    chip = load_profile("truenorth")
    point, price = chip.operating_point, chip.energy_pj["sop"]
    assert point is not None
    assert point.rate_hz is not None
    assert point.fan_out is not None
    per_second = 4096 * 256 * point.rate_hz * point.fan_out
    assert price.hi == pytest.approx(0.072 / per_second * 1e12, rel=2e-3)


@pytest.mark.parametrize("name", profile_names())
def test_every_number_has_a_source_a_tag_and_an_interval(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    constants = profile.constants()
    assert len(constants) >= (3 if profile.only_compares else 17)
    for constant in constants.values():
        assert constant.source, constant.name
        assert set(constant.source) <= set(profile.sources), constant.name
        assert constant.tag in TAGS
        if constant.value is None or constant.lo is None or constant.hi is None:
            assert (constant.value, constant.lo, constant.hi, constant.evidence) == (None, None, None, None)
        else:
            assert constant.lo <= constant.value <= constant.hi
            assert constant.evidence in EVIDENCE or constant.name.startswith("limits.")


@pytest.mark.parametrize("name", profile_names())
def test_every_source_is_used(name: str) -> None:
    profile = load_profile(name)
    used = {source for constant in profile.constants().values() for source in constant.source}
    used |= {measurement.source for measurement in profile.measurements}
    used |= {profile.mesh.source} if profile.mesh else set()
    assert set(profile.sources) == used


@pytest.mark.parametrize("name", profile_names())
def test_no_constant_is_inside_another(name: str) -> None:
    profile = load_profile(name)
    assert not {TERM_OF[key] for key in profile.energy_pj} & profile.inside


def test_loihi2_is_what_the_compiler_expects() -> None:
    profile = load_profile("loihi2")
    assert (profile.limits.cores_per_chip, profile.limits.neurons_per_core) == (128, 8192)
    assert profile.state_format.name == "i24"
    assert profile.threshold_format.max << 6 == 8388544
    assert (profile.bias_format.min, profile.bias_format.max) == (-4096, 4095)
    grid = profile.weight_grid("mixed")
    assert (grid.low, grid.high, grid.step) == (-256, 254, 2)
    assert profile.limits.unknown == ("axons_in_per_core", "axons_out_per_core")
    assert profile.capability("lif_hard") == "native"
    assert profile.capability("lif_subtract") == "microcode"
    assert set(profile.capabilities) == set(CAPABILITY_KINDS)
    with pytest.raises(KeyError, match="lif_hard"):
        profile.capability("lif_soft")


def test_the_wide_target_has_no_chip_limits() -> None:
    profile = load_profile("cpu")
    assert profile.limits.cores_per_chip is None
    assert profile.limits.unknown == ()
    assert profile.weight_grid("mixed").step == 1
    assert profile.weight_grid("excitatory").low < 0
    assert profile.energy_pj == {}
    assert set(profile.capabilities.values()) == {"native"}
    with pytest.raises(ProfileError, match="a number is needed"):
        profile.need("cores_per_chip")


def test_a_pricing_profile_is_no_target() -> None:
    with pytest.raises(ProfileError, match="no compilation target"):
        load_profile("loihi1").weight_grid()
    with pytest.raises(ProfileError, match="no compilation target"):
        load_profile("loihi1").capability("conv2d")


def test_null_is_not_zero() -> None:
    spike = load_profile("loihi1").energy_pj["spike_out"]
    assert spike.value is None
    assert spike.hi is None


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="cmos45, cmos7, cpu-xeon, cpu, darwin3"):
        load_profile("loihi3")
    with pytest.raises(ProfileError, match="limit target, pricing, comparator"):
        profile_names("training")


def test_a_profile_of_ones_own_loads_by_path(tmp_path: Path, loihi2_text: str) -> None:
    own = load_profile(written(tmp_path, loihi2_text.replace("value = 18.0", "value = 17.0")))
    assert own.energy_pj["sop"].value == 17.0
    assert own.sha256 != load_profile("loihi2").sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("neurons_per_core =", "neuron_per_core =", "limits.neuron_per_core: unknown.*'neurons_per_core'"),
        ("[power_mw.static_chip]", "[power_mw.static_chips]", "power_mw.static_chips: unknown key.*'static_chip'"),
        ("[policy]", "[polcy]", "polcy: unknown key.*did you mean 'policy'"),
        ('or_pool = "native"', "", r"capabilities.or_pool: missing"),
        ('or_pool = "native"', 'or_pool = "natve"', "capabilities.or_pool: unknown value, found 'natve', limit native"),
        ("lo = 14.8", "lo = 18.8", r"energy_pj.sop: .*not inside its interval, found 18.0, limit 18.8..23.4"),
        ("lo = 14.8", "lo = 28.8", r"energy_pj.sop: lo is above hi, found 28.8, limit 23.4"),
        ("value = 18.0\nlo = 14.8", "value = 0\nlo = 0", "energy_pj.sop.value: zero is no price"),
        ("lo = 44.0", "lo = -44.0", "energy_pj.neuron_update.lo: .*not negative"),
        ('source = ["pilotnet_snn", "pilotnet_sdnn"]', "", "power_mw.static_chip.source: missing"),
        ('source = ["pilotnet_snn", "pilotnet_sdnn"]', "source = []", r"static_chip.source: no \[\[source"),
        ('source = ["pilotnet_snn", "pilotnet_sdnn"]', 'source = "x"', r"static_chip.source: no \[\[source"),
        ('class = "measured"', "", "power_mw.static_chip.class: missing"),
        ('class = "measured"', 'class = "sure"', "power_mw.static_chip.class: unknown value"),
        ('class = "measured"\ntag = "P"', 'class = "measured"\ntag = "Q"', "power_mw.static_chip.tag: unknown value"),
        ("value = 18.0", 'value = "null"', "energy_pj.sop: .*no interval and no class"),
        ("value = 18.0", "value = nan", "energy_pj.sop.value: a finite number"),
        ("value = 18.0", 'value = "18"', "energy_pj.sop.value: a finite number"),
        ('scope = "all_dynamic"', 'scope = "all_in"', "operating_point: scope all_in needs rate_hz"),
        ('scope = "all_dynamic"', 'scope = "everything"', "policy.scope: unknown value"),
        ("[energy_pj.sop]", "[energy_pj.hop_x]", "energy_pj.hop_x: already inside the other constants"),
        ("[energy_pj.neuron_update]", "[energy_pj.neuron_active]", "give neuron_update alone, or both"),
        ("{ value = 24, tag", "{ value = 24.5, tag", "limits.state_bits: a limit is an integer"),
        ("weight_sign_modes = true", "weight_sign_modes = 1", "formats.weight_sign_modes: wrong type"),
        ('uses = ["target", "pricing"]', 'uses = ["pricing"]', "formats: goes together with use 'target'"),
        ('uses = ["target", "pricing"]', 'uses = ["prices"]', "chip.uses: unknown value"),
        ("schema = 1", "schema = 2", "schema: unknown schema version"),
        ('id = "lava_dl"', 'id = "lava"', r"source: no \[\[source\]\] of this id, found 'lava_dl'.*lists 1 more"),
        ("[chip]", "[chip", "not a TOML file"),
        ("index_bits =", "indx_bits =", "storage.indx_bits: unknown.*'index_bits'"),
        ('kernel_axons = "core"', 'kernel_axons = "tile"', "storage.kernel_axons: unknown value, found 'tile'"),
        ("word_bits = { value = 64", "word_bits = { value = 0", "storage.word_bits: a word has at least one bit"),
        ("tiles_x = 8", "tiles_x = 7", "mesh: does not hold the cores of a chip, found 112, limit 128"),
        ("tiles_x = 8", "tiles_x = -8", "mesh: does not hold"),
        ('evidence = "vendor"', 'evidence = "certain"', "mesh.evidence: unknown value"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_file_and_key(
    tmp_path: Path, loihi2_text: str, old: str, new: str, message: str
) -> None:
    assert old in loihi2_text
    with pytest.raises(ProfileError, match=f"(?s)chip.toml.*(?:{message})"):
        load_profile(written(tmp_path, loihi2_text.replace(old, new, 1)))


def test_a_dynamic_scope_needs_its_operating_point(tmp_path: Path, loihi2_text: str) -> None:
    text = re.sub(r"\[operating_point\].*?\n\n", "", loihi2_text, flags=re.S)
    with pytest.raises(ProfileError, match="operating_point: scope all_dynamic needs the point"):
        load_profile(written(tmp_path, text))


@pytest.mark.parametrize("name", profile_names())
def test_json_is_plain_and_names_no_path(name: str) -> None:
    text = json.dumps(profile_json(load_profile(name)), allow_nan=False)
    assert str(Path(load_profile(name).path).parent) not in text
    assert json.loads(text)["id"] == name
