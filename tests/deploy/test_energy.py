from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.deploy.reports.counts import Counts, HostCount, PopulationCount, ProductCount, SynapseCount
from avsnn.deploy.reports.energy import BANNER, EnergyReport, MemoryWords, price, render
from avsnn.deploy.reports.interval import Interval, exactly, format_energy, format_interval
from avsnn.errors import InputError, ProfileError
from avsnn.hw_profiles.profile import Profile, load_profile, profile_names
from avsnn.hw_profiles.schema import SCOPE_HOLDS, Constant, OperatingPoint

MJ = 1e9  # pJ
MEASURED_MJ = 1.093544
STORED, NONZERO, UPDATES = 48_563_380, 41_102_426, 2_536_144


def made(
    *, stored: int, nonzero: int, updates: int, driven: int | None = None, macs: int = 0, samples: int = 1,
    steps: int = 16, graded: int = 0, events: int = 1000,
) -> Counts:  # fmt: skip
    synapse = SynapseCount(
        name="s", source="a", targets=("p",), role="neuron", weights=1000, connections=stored,
        connections_nonzero=nonzero, events=events, events_graded=0, sop_stored=stored, sop_nonzero=nonzero,
        sop_graded=graded, sop_by_sample=(stored,),
    )  # fmt: skip
    neurons = updates // (steps * samples)
    population = PopulationCount(
        name="p", role="neuron", neurons=neurons, updates=updates, driven=driven, spikes=745_700
    )
    hosts = (HostCount(name="h", macs_per_sample=macs // samples, macs=macs),) if macs else ()
    return Counts(synapses=(synapse,), populations=(population,), hosts=hosts, samples=samples, steps=steps)


PILOTNET = made(stored=STORED, nonzero=NONZERO, updates=UPDATES)


def dynamic_mj(report: EnergyReport) -> Interval:
    assert report.dynamic_per_sample is not None
    return report.dynamic_per_sample.scaled(1 / MJ)


# --- golden: PilotNet LIF on Loihi 2, the only large network with shipped spikes and a measured energy


def test_loihi1_constants_come_within_the_published_factors_of_the_measurement() -> None:
    report = price(PILOTNET, load_profile("loihi1"))
    energy = dynamic_mj(report)
    assert energy.value / MEASURED_MJ == pytest.approx(1.24, abs=0.005)  # stored, all updates at the active price
    idle = price(made(stored=STORED, nonzero=NONZERO, updates=UPDATES, driven=0), load_profile("loihi1"))
    assert dynamic_mj(idle).value / MEASURED_MJ == pytest.approx(1.17, abs=0.005)
    assert energy.holds(MEASURED_MJ)
    assert report.evidence == "simulated"
    assert {item.term for item in report.unpriced} == {"spike", "route", "sync", "host"}


def test_loihi1_counting_non_zero_weights_comes_within_seven_percent() -> None:
    profile = load_profile("loihi1")
    always = replace(profile, policy=replace(profile.policy, zero_weight_skip="always"))
    assert dynamic_mj(price(PILOTNET, always)).value / MEASURED_MJ == pytest.approx(1.07, abs=0.006)


def test_loihi2_contains_the_measurement_it_was_fitted_to_and_says_so() -> None:
    report = price(PILOTNET, load_profile("loihi2"))
    assert dynamic_mj(report).holds(MEASURED_MJ)
    assert dynamic_mj(report).value == pytest.approx(STORED * 18e-9 + UPDATES * 90e-9)
    assert {term.term for term in report.terms} == {"sop", "update"}
    assert report.evidence == "derived"
    assert any("no validation" in warning for warning in report.warnings)
    assert report.label == "complete"


def test_the_accumulate_convention_is_25_times_too_low_and_no_headline() -> None:
    report = price(PILOTNET, load_profile("cmos45"))
    assert report.literature is not None
    assert report.literature.energy_pj / MJ == pytest.approx(0.044, abs=0.0005)
    assert report.dynamic is not None
    assert report.dynamic.value != report.literature.energy_pj
    assert "literature convention (0.9 pJ per accumulate, 4.6 pJ per first-layer product" in report.literature.name
    assert price(PILOTNET, load_profile("loihi2")).literature == report.literature, "the same for every chip"


def test_static_energy_of_the_measured_run() -> None:
    report = price(PILOTNET, load_profile("loihi2"), latency_s=2.4455e-3, cores_used=74)
    whole, cores = report.static
    assert whole.energy.value / MJ == pytest.approx(0.5676, abs=1e-4)
    assert cores.energy.value == pytest.approx(whole.energy.value * 74 / 128)
    assert not whole.lower_bound
    assert whole.evidence == "measured"
    sdnn = price(made(stored=1, nonzero=1, updates=1, steps=1), load_profile("loihi2"), latency_s=1 / 16.87)
    assert sdnn.static[0].energy.hi / MJ == pytest.approx(16.70, abs=0.01)


def test_the_latency_bound_is_below_the_measured_time() -> None:
    latency = price(PILOTNET, load_profile("loihi2")).latency
    assert latency is not None
    assert latency.mode == "lower bound"
    assert 0 < latency.seconds.lo <= latency.seconds.hi < 2.4455e-3
    shares = price(PILOTNET, load_profile("loihi2")).static
    assert all(share.lower_bound for share in shares)
    assert {share.evidence for share in shares} == {"derived"}  # a measured power times a derived time


def test_shipped_measurements_are_the_golden_numbers() -> None:
    record = load_profile("loihi2").measurements[0]
    found = (record.sop_stored, record.sop_nonzero, record.neuron_updates, record.dynamic_mj)
    assert found == (STORED, NONZERO, UPDATES, MEASURED_MJ)


# --- what has no price


def test_the_cpu_target_prices_nothing() -> None:
    report = price(PILOTNET, load_profile("cpu"))
    assert report.dynamic is None
    assert report.evidence is None
    assert report.terms == ()
    assert report.label == "partial, unpriced: sop, update, spike, route, memory, sync, host, static"
    assert "not priced" in render(report)


def test_null_is_not_zero() -> None:
    profile = load_profile("loihi1")
    report = price(PILOTNET, profile)
    reasons = [item.reason for item in report.unpriced if item.term == "spike"]
    assert [reason.split(":")[0] for reason in reasons] == [
        "spike_out is not published",
        "axon_message is not published",
    ]
    known = replace(profile.energy_pj["spike_out"], value=0.0, lo=0.0, hi=0.0, evidence="assumed")
    energy = {key: each for key, each in profile.energy_pj.items() if key != "axon_message"} | {"spike_out": known}
    priced = price(PILOTNET, replace(profile, energy_pj=energy))
    assert "spike" not in {item.term for item in priced.unpriced}
    assert "spike" in {term.term for term in priced.terms}


def test_a_network_without_host_products_still_lists_host_and_sync_on_loihi1() -> None:
    report = price(made(stored=172_800, nonzero=172_800, updates=5_410, steps=10), load_profile("loihi1"))
    assert {"host", "sync"} <= {item.term for item in report.unpriced}
    assert report.label.startswith("partial, unpriced:")


def test_host_products_are_priced_where_the_profile_has_a_price() -> None:
    counts = made(stored=1000, nonzero=900, updates=160, macs=500)
    cmos = {term.term: term for term in price(counts, load_profile("cmos45")).terms}
    assert cmos["host"].energy.value == pytest.approx(500 * 0.23)
    loihi = price(counts, load_profile("loihi2"))
    assert loihi.label == "partial, unpriced: host"
    literature = price(counts, load_profile("cmos45")).literature
    assert literature is not None
    assert literature.energy_pj == pytest.approx(0.9 * 1000 + 4.6 * 500)


def test_roots_and_divisions_of_the_host_are_listed_even_where_its_products_have_a_price() -> None:
    counts = made(stored=1000, nonzero=900, updates=160, macs=500)
    rooted = replace(counts, hosts=(replace(counts.hosts[0], roots=2, divisions=70),))
    for name in ("cmos45", "loihi2"):
        plain, found = price(counts, load_profile(name)), price(rooted, load_profile(name))
        (added,) = set(found.unpriced) - set(plain.unpriced)
        assert added.term == "host"
        assert added.reason.startswith("2 square roots and 70 divisions")
        assert found.terms == plain.terms


def test_memory_needs_declared_words_and_pays_by_the_size_of_the_memory() -> None:
    counts = made(stored=1000, nonzero=900, updates=1600)
    profile = load_profile("cmos45")
    assert "memory" in {item.term for item in price(counts, profile).unpriced}
    term = next(
        t for t in price(counts, profile, memory=MemoryWords(weight_bits=8, state_bits=24)).terms if t.term == "memory"
    )
    assert term.count == 1000 * 8 + 2 * (1600 + 1000) * 24
    assert term.energy.value == pytest.approx(term.count / 64 * 10)  # both fit into 8 KiB
    assert term.energy.lo == pytest.approx((900 * 8 + 2 * (1600 + 900) * 24) / 64 * 10)  # weights of 0 not stored
    wide = next(
        t
        for t in price(counts, profile, memory=MemoryWords(weight_bits=128, state_bits=24)).terms
        if t.term == "memory"
    )
    assert wide.energy.value == pytest.approx(1000 * 128 / 64 * 20 + 2 * 2600 * 24 / 64 * 10)  # 15.6 KiB of weights


# --- the rules


@pytest.mark.parametrize("name", ["loihi2", "loihi1"])
def test_a_term_inside_the_scope_cannot_be_added(name: str) -> None:
    report = price(PILOTNET, load_profile(name))
    assert report.inside
    for term in report.inside:
        forged = replace(report.terms[0], term=term)
        with pytest.raises(ProfileError, match=f"{term} is already inside"):
            replace(report, terms=(*report.terms, forged))


@pytest.mark.parametrize("scope", ["incremental", "all_dynamic", "all_in"])
def test_the_pricer_leaves_out_what_a_scope_holds_even_if_constants_are_forced_in(scope: str) -> None:
    """The loader refuses such a profile; the pricer must not rely on that."""
    loihi1 = load_profile("loihi1")
    spike = replace(loihi1.energy_pj["spike_out"], value=9.0, lo=9.0, hi=9.0, evidence="assumed")
    sync = replace(spike, name="energy_pj.step_sync")
    forced = replace(
        loihi1,
        policy=replace(loihi1.policy, scope=scope),
        energy_pj=dict(loihi1.energy_pj) | {"spike_out": spike, "step_sync": sync},
        power_mw={} if scope == "all_in" else loihi1.power_mw,
        operating_point=OperatingPoint(network="n", source="s", rate_hz=1.0, fan_out=1.0),
    )
    report = price(PILOTNET, forced)
    assert not {term.term for term in report.terms} & SCOPE_HOLDS[scope]
    assert not {item.term for item in report.unpriced} & SCOPE_HOLDS[scope]
    assert (len(report.static) == 0) is (scope == "all_in")


def test_an_all_in_price_far_from_its_operating_point_is_distrusted() -> None:
    loihi2 = load_profile("loihi2")
    point = OperatingPoint(network="chip at 20 Hz", source="s", rate_hz=20.0, fan_out=128.0)
    all_in = replace(
        loihi2, policy=replace(loihi2.policy, scope="all_in"), power_mw={}, operating_point=point, measurements=()
    )
    counts = made(stored=128_000, nonzero=128_000, updates=16, events=1000)
    notes = price(counts, all_in, latency_s=745_700 / 20).warnings
    assert len(notes) == 1
    far = price(made(stored=300_000, nonzero=1, updates=16, events=1000), all_in, latency_s=1.0).warnings
    assert "fan-out is 3e+02, the constants were taken at 128" in far[1]
    assert "firing rate" in far[2]


def fitted(evidence: str, sop: float, update: float) -> Profile:
    profile = load_profile("loihi2")

    def constant(key: str, value: float, evidence: str) -> Constant:
        return Constant(
            name=f"energy_pj.{key}", value=value, lo=value, hi=value, evidence=evidence, tag="D", source=("s",)
        )

    energies = {"sop": constant("sop", sop, "measured"), "neuron_update": constant("neuron_update", update, evidence)}
    return replace(profile, energy_pj=energies)


@pytest.mark.parametrize(
    ("update_pj", "expected"), [(1.0, "measured"), (100.0, "assumed")], ids=["below 5 %", "above 5 %"]
)
def test_the_weakest_evidence_among_the_main_terms_is_that_of_the_sum(update_pj: float, expected: str) -> None:
    counts = made(stored=1000, nonzero=1000, updates=160)
    assert price(counts, fitted("assumed", 10.0, update_pj)).evidence == expected


def test_driven_and_idle_updates_have_their_own_price() -> None:
    counts = made(stored=0, nonzero=0, updates=160, driven=60)
    update = next(term for term in price(counts, load_profile("loihi1")).terms if term.term == "update")
    assert update.energy == Interval(value=60 * 81.0 + 100 * 52.0, lo=160 * 47.5, hi=60 * 236.0 + 100 * 81.0)


def test_a_chip_that_updates_on_events_pays_for_driven_neurons_only() -> None:
    loihi2 = load_profile("loihi2")
    event = replace(loihi2, policy=replace(loihi2.policy, neuron_update="event"))
    counts = made(stored=0, nonzero=0, updates=160, driven=60)
    assert next(t for t in price(counts, event).terms if t.term == "update").count == 60
    unknown = price(made(stored=0, nonzero=0, updates=160), event)
    assert {item.term: item.reason for item in unknown.unpriced}["update"].endswith("those were not counted")


def test_graded_messages_are_noted() -> None:
    report = price(made(stored=10, nonzero=10, updates=16, graded=4), load_profile("loihi2"))
    assert any(note.startswith("4 synaptic operations carry graded messages") for note in report.warnings)


def with_products(*, ands: int | None = 100, accs: int | None = 400, muls: int | None = 0) -> Counts:
    """One attention product; operations as given."""
    row = ProductCount(
        name="att", kind="FixedAttention", ability="attention", sources=("q", "k", "v"), targets=("p",), windowed=False,
        payload_bits=5, replay_bits=0, delay_bits=0, dense_macs=5000, nonzero=40, ands=ands, accs=accs, muls=muls,
    )  # fmt: skip
    return replace(made(stored=1000, nonzero=900, updates=160), products=(row,))


def test_operations_of_products_have_no_price_on_the_chip_and_are_no_sops() -> None:
    plain, report = (price(c, load_profile("loihi2")) for c in (replace(with_products(), products=()), with_products()))
    assert report.dynamic == plain.dynamic
    assert plain.label == "complete"
    assert report.label == "partial, unpriced: dynamic"
    reason = next(item.reason for item in report.unpriced if item.term == "dynamic")
    assert reason == (
        "100 coincidences: the profile has no constant for it; 400 additions: the profile has no constant for it"
    )
    assert report.counts_sha256 != plain.counts_sha256


def test_a_profile_with_prices_pays_for_additions_and_lists_coincidences() -> None:
    counts = with_products(muls=7)
    report = price(counts, load_profile("cmos45"), memory=MemoryWords(weight_bits=8, state_bits=24))
    terms = {term.name: term for term in report.terms if term.term == "dynamic"}
    assert set(terms) == {"additions of products", "multiplications of products"}
    assert terms["additions of products"].energy == Interval(value=400 * 0.1, lo=400 * 0.03, hi=400 * 0.1)
    assert terms["multiplications of products"].energy.hi == pytest.approx(7 * 3.1)
    reasons = {item.term: item.reason for item in report.unpriced}
    assert reasons["dynamic"] == "100 coincidences: dynamic_and is not published: the figure has no logic gates"
    assert reasons["memory"] == "what products hold (counters, windows, delays) is not in it"
    priced = replace(load_profile("cmos45").energy_pj["dynamic_acc"], name="energy_pj.dynamic_and")
    cmos = load_profile("cmos45")
    full = price(counts, replace(cmos, energy_pj=dict(cmos.energy_pj) | {"dynamic_and": priced}))
    assert "dynamic" not in {item.term for item in full.unpriced}


def test_operations_that_nobody_counted_are_unpriced_too() -> None:
    report = price(with_products(ands=None, accs=None, muls=None), load_profile("cmos45"))
    reasons = {item.term: item.reason for item in report.unpriced}
    assert reasons["dynamic"].startswith("spikes of the sources were not recorded")
    assert not [term for term in report.terms if term.term == "dynamic"]


def test_a_chip_that_leaves_products_to_the_host_says_so() -> None:
    notes = price(with_products(), load_profile("loihi1")).warnings
    assert "products of activity do not run on this chip: 1 attention" in notes
    counts = with_products()
    wide = replace(counts, synapses=(replace(counts.synapses[0], payload_bits=5),))
    assert "this chip has no graded messages (messages are spikes)" in price(wide, load_profile("loihi1")).warnings
    assert not price(wide, load_profile("cmos45")).warnings


def test_energy_per_sample_divides_and_rejects_nothing_counted() -> None:
    many = replace(made(stored=40, nonzero=30, updates=160, samples=2, steps=5), samples=4)
    report = price(many, load_profile("loihi2"))
    assert report.dynamic is not None
    assert report.dynamic_per_sample == report.dynamic.scaled(0.25)
    with pytest.raises(InputError, match="nothing was counted"):
        price(replace(PILOTNET, samples=0), load_profile("loihi2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency_s": 0.0}, "not a time"),
        ({"latency_s": math.nan}, "not a time"),
        ({"latency_s": 1.0, "latency_mode": "guessed"}, "unknown latency mode.*lower bound"),
        ({"cores_used": 0}, "not a number of cores"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        price(PILOTNET, load_profile("loihi2"), **options)  # type: ignore[arg-type]


# --- intervals and print

sizes = st.floats(1e-3, 1e15)


@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=5))
def test_sums_and_products_of_intervals_hold_their_corners(rows: list[tuple[float, float, float]]) -> None:
    intervals = [Interval(lo=a, value=b, hi=c) for a, b, c in (sorted(row) for row in rows)]
    total = sum(intervals[1:], intervals[0])
    assert total.holds(total.value)
    assert total.lo == pytest.approx(sum(i.lo for i in intervals))
    assert total.hi == pytest.approx(sum(i.hi for i in intervals))
    product = intervals[0] * intervals[-1]
    assert (product.lo, product.hi) == (intervals[0].lo * intervals[-1].lo, intervals[0].hi * intervals[-1].hi)


@pytest.mark.parametrize("bounds", [(2.0, 1.0, 3.0), (-1.0, 1.0, 3.0), (0.0, 1.0, math.inf), (math.nan, 1.0, 2.0)])
def test_what_is_no_interval_is_refused(bounds: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="not an interval"):
        Interval(lo=bounds[0], value=bounds[1], hi=bounds[2])


UNITS = {"pJ": 1.0, "nJ": 1e3, "uJ": 1e6, "mJ": 1e9, "J": 1e12}


@given(sizes)
def test_printed_energies_have_two_digits_and_ends_round_outward(energy: float) -> None:
    printed = {}
    for rounding in ("down", "nearest", "up"):
        number, unit = format_energy(energy, rounding=rounding).split()
        digits = number.split("e")[0].replace(".", "").strip("0")
        assert len(digits) <= 2
        printed[rounding] = float(number) * UNITS[unit]
    slack = 1 + 1e-12  # the product with the unit is rounded
    assert printed["down"] <= energy * slack
    assert printed["up"] * slack >= energy
    assert printed["nearest"] == pytest.approx(energy, rel=0.05001)


def test_the_printed_interval_contains_the_measurement() -> None:
    text = render(price(PILOTNET, load_profile("loihi1")))
    assert "dynamic energy per sample: 1.4 mJ (1 mJ to 2.4 mJ), partial, unpriced: spike, route, sync, host" in text
    assert format_interval(exactly(0)) == "0 pJ"


@pytest.mark.parametrize("name", profile_names())
def test_every_report_has_the_banner_and_plain_json(name: str) -> None:
    report = price(made(stored=1000, nonzero=900, updates=160, macs=50), load_profile(name))
    assert BANNER == "estimate from declared constants, not a measurement"
    assert render(report).splitlines()[0].endswith(BANNER)
    table = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert table["banner"] == BANNER
    assert table["counts_sha256"] != table["profile_sha256"]
    assert Path(load_profile(name).path).parent.as_posix() not in json.dumps(table)
