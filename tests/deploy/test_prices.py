"""Prices that know cores: hops, the busiest core, the link, the clock; what a chip cannot hold; what widens a sum."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.passes.place_cores import place_cores
from avsnn.deploy.fit import Fit, judge
from avsnn.deploy.reports.core_counts import CoreCount, CoreCounts, core_counts, messages_sent
from avsnn.deploy.reports.counts import Counts, HostCount, count
from avsnn.deploy.reports.energy import EnergyReport, price, render
from avsnn.deploy.reports.interval import Interval
from avsnn.deploy.reports.latency import FirstAnswer, first_answer
from avsnn.deploy.reports.prices import Prices, prices
from avsnn.deploy.reports.render_energy import energy_table, time_table
from avsnn.deploy.reports.sensitivity import ZEROS
from avsnn.deploy.reports.tally import MemoryWords
from avsnn.errors import InputError
from avsnn.hw_profiles.profile import Profile, load_profile
from avsnn.hw_profiles.schema import SCOPE_HOLDS, Constant
from tests.convert.test_map_cores import events, layers

NAMES = ("loihi2", "loihi1", "loihi1-sanafe", "odin", "cmos45", "spinnaker1", "truenorth", "xylo")
WORDS = MemoryWords(weight_bits=8, state_bits=24)


def constant(key: str, value: float, hi: float | None = None) -> Constant:
    top = value if hi is None else hi
    return Constant(name=key, value=value, lo=value, hi=top, evidence="assumed", tag="D", source=("s",))


def small(profile: Profile, neurons: int) -> Profile:
    """The chip with cores of fewer neurons, so that the network takes several."""
    return replace(profile, limits=replace(profile.limits, neurons_per_core=neurons))


def ran(profile: Profile) -> tuple[Counts, CoreCounts]:
    graph = layers()
    x = events(graph)
    activity = {**x, **wall_clock(graph, x).spikes}
    sent = messages_sent(graph, activity)
    mapped, _ = place_cores(map_cores(graph, profile)[0], profile, sent)
    counts = count(graph, activity, driven=True)
    return counts, core_counts(mapped, sent, profile, samples=counts.samples)


@pytest.fixture(scope="module")
def everywhere() -> Prices:
    graph = layers()
    x = events(graph)
    activity = {**x, **wall_clock(graph, x).spikes}
    counts = count(graph, activity, driven=True)
    loihi2 = load_profile("loihi2")
    mapped, _ = map_cores(graph, loihi2)
    profiles = [load_profile(name) for name in NAMES]
    return prices(graph, counts, activity, profiles, words=WORDS, mapped=("loihi2", mapped))


def shown(part: RenderableType | None) -> str:
    assert part is not None
    out = io.StringIO()
    Console(file=out, width=140).print(part)
    return out.getvalue()


def by_name(found: Prices) -> dict[str, EnergyReport]:
    return {report.profile: report for report in found.energy}


# --- hops


def test_hops_of_a_placement_are_priced_and_what_is_not_published_is_listed() -> None:
    profile = small(load_profile("loihi1"), 14)
    counts, cores = ran(profile)
    routes = cores.routes
    assert routes is not None
    assert min(routes.local, routes.hops_x, routes.hops_y) > 0
    report = price(counts, profile, cores=cores)
    found = {term.name: (term.count, term.energy.value) for term in report.terms if term.term == "route"}
    assert found == {
        "messages within a tile": (routes.local, routes.local * 1.7),
        "hops along x": (routes.hops_x, pytest.approx(routes.hops_x * 3.0)),
        "hops along y": (routes.hops_y, pytest.approx(routes.hops_y * 4.0)),
    }
    reasons = [item.reason for item in report.unpriced if item.term == "route"]
    assert reasons == [f"{cores.outside} messages come from outside, on a way that is not known"]
    several = replace(cores, outside=0, routes=replace(routes, crossings=7))
    reasons = [item.reason for item in price(counts, profile, cores=several).unpriced if item.term == "route"]
    assert reasons == ["off_chip is not published: a message from one chip to the next is not in the table"]
    sanafe = load_profile("loihi1-sanafe")
    messages = [t for t in price(counts, sanafe, cores=replace(cores, profile=sanafe.id)).terms if t.term == "spike"]
    assert [(t.name, t.count) for t in messages] == [
        ("spikes sent", counts.spikes),
        ("messages to cores", cores.messages),
    ]


@pytest.mark.parametrize("scope", ["all_dynamic", "all_in"])
def test_hops_inside_a_scope_are_not_added_even_with_a_placement_and_prices(scope: str) -> None:
    loihi1, loihi2 = small(load_profile("loihi1"), 11), load_profile("loihi2")
    counts, cores = ran(loihi1)
    forced = replace(
        loihi1,
        policy=replace(loihi1.policy, scope=scope),
        operating_point=loihi2.operating_point,
        energy_pj=dict(loihi1.energy_pj) | {"axon_message": constant("energy_pj.axon_message", 9.0)},
        power_mw={} if scope == "all_in" else loihi1.power_mw,
    )
    terms = {t.term for t in price(counts, loihi1, cores=cores).terms}
    assert "route" in terms
    report = price(counts, forced, cores=cores)
    assert {"route", "spike"} <= SCOPE_HOLDS[scope]
    assert not {t.term for t in report.terms} & SCOPE_HOLDS[scope]
    assert not {item.term for item in report.unpriced} & SCOPE_HOLDS[scope]


FORCED = ("sop", "neuron_update", "spike_out", "axon_message", "spike_local", "hop_x", "hop_y", "off_chip", "step_sync")


@pytest.mark.parametrize("scope", sorted(SCOPE_HOLDS))
def test_a_profile_with_every_price_is_charged_for_what_its_scope_leaves_out_and_nothing_else(scope: str) -> None:
    """The loader refuses such profiles; here nothing but the pricer stands between them and counting twice."""
    loihi1 = small(load_profile("loihi1"), 14)
    counts, cores = ran(loihi1)
    assert cores.routes is not None
    cores = replace(cores, outside=0, routes=replace(cores.routes, crossings=5))
    counts = replace(counts, hosts=(HostCount(name="h", macs_per_sample=6, macs=12),))
    every = replace(
        loihi1,
        policy=replace(loihi1.policy, scope=scope, inside=frozenset(), zero_weight_skip="never"),
        operating_point=load_profile("loihi2").operating_point,
        energy_pj={key: constant(f"energy_pj.{key}", 1.0) for key in (*FORCED, "mac")},
        power_mw={} if scope == "all_in" else loihi1.power_mw,
    )
    report = price(counts, every, cores=cores)
    routes = cores.routes
    charged = {
        "sop": counts.sop_stored,
        "update": counts.neuron_updates,
        "spike": counts.spikes + cores.messages,
        "route": routes.local + routes.hops_x + routes.hops_y + routes.crossings if routes else 0,
        "sync": counts.samples * counts.steps,
        "host": 12,
    }
    assert min(charged.values()) > 0
    held = SCOPE_HOLDS[scope]
    found = Counter[str]()
    for term in report.terms:
        found[term.term] += int(term.energy.value)
    assert found == {term: number for term, number in charged.items() if term not in held}
    assert report.dynamic is not None
    assert report.dynamic.value == sum(found.values())
    assert bool(report.static) is ("static" not in held)
    assert not {item.term for item in report.unpriced} & held


def test_cores_of_another_chip_are_refused() -> None:
    counts, cores = ran(small(load_profile("loihi1"), 11))
    with pytest.raises(InputError, match="cores of another chip, found loihi1, limit loihi2"):
        price(counts, load_profile("loihi2"), cores=cores)


# --- time


def timed(profile: Profile, **times: Constant) -> Profile:
    kept = {"sop": constant("time_ns.sop", 2.0), "neuron_update": constant("time_ns.neuron_update", 5.0)}
    return replace(profile, time_ns={**kept, "barrier": constant("time_ns.barrier", 100.0, 300.0), **times})


def test_the_busiest_core_sets_the_time_unless_the_clock_or_a_link_takes_longer() -> None:
    always = replace(load_profile("loihi1").policy, zero_weight_skip="always")
    profile = small(replace(load_profile("loihi1"), policy=always), 11)
    counts, cores = ran(profile)
    steps = cores.samples * cores.steps
    spent = {c.name: (2 * c.sop_nonzero + 5 * c.updates + 3 * c.spikes) / steps for c in cores.cores}
    busiest = max(spent, key=spent.__getitem__)
    spikes = constant("time_ns.spike_out", 3.0)
    latency = price(counts, timed(profile, spike_out=spikes), cores=cores).latency
    assert latency is not None
    assert (latency.sets, latency.mode, latency.unknown) == (busiest, "lower bound", ("link",))
    assert latency.seconds.value == pytest.approx(counts.steps * (100 + spent[busiest]) * 1e-9)
    assert latency.seconds.hi == pytest.approx(counts.steps * (300 + spent[busiest]) * 1e-9)

    assert cores.routes is not None
    slow = timed(profile, spike_out=spikes, link=constant("time_ns.link", 1e6))
    latency = price(counts, slow, cores=cores).latency
    assert latency is not None
    assert latency.sets == f"link {cores.routes.busiest}"
    assert latency.seconds.value == pytest.approx(counts.steps * 1e6 * cores.routes.load / steps * 1e-9)

    clock = timed(profile, spike_out=spikes, tick=constant("time_ns.tick", 1e6))
    latency = price(counts, clock, cores=cores).latency
    assert latency is not None
    assert (latency.sets, latency.mode) == ("throttle", "throttled")
    assert latency.seconds.value == pytest.approx(counts.steps * 1e-3)
    late = timed(profile, spike_out=spikes, tick=constant("time_ns.tick", 10.0))
    latency = price(counts, late, cores=cores).latency
    assert latency is not None
    assert (latency.sets, latency.mode) == (busiest, "lower bound"), "a clock that is too fast for the work"


def test_the_busiest_core_of_pilotnet_takes_73_us_of_a_measured_153() -> None:
    """Its third convolution on 3 cores: 6,376,608 operations in 24 steps, 8,064 neurons; without the barrier."""
    busiest = CoreCount(
        core=51, population="conv2", chip=0, x=0, y=0, sop_stored=6_376_608 // 3, sop_nonzero=4_670_929 // 3,
        updates=24 * 2_688, spikes=0, messages_in=0, messages_out=0,
    )  # fmt: skip
    idle = replace(busiest, core=0, population="other", sop_stored=0, sop_nonzero=0)
    counts, cores = ran(load_profile("loihi2"))
    counts, cores = replace(counts, steps=24), replace(cores, cores=(idle, busiest), samples=1, steps=24)
    latency = price(replace(counts, samples=1), load_profile("loihi2"), cores=cores).latency
    assert latency is not None
    assert latency.sets == "core 51 (conv2)"
    step = latency.per_step["core"].value - 200
    assert step / 1000 == pytest.approx(73.3, abs=0.1)
    assert step / 1000 < 152.85


def test_no_mapping_beats_an_even_split_which_is_said() -> None:
    profile = small(load_profile("loihi1"), 11)
    counts, cores = ran(profile)
    mapped, even = price(counts, profile, cores=cores).latency, price(counts, profile).latency
    assert mapped is not None
    assert even is not None
    assert even.sets == "even split over 128 cores, no mapping"
    assert even.seconds.value < mapped.seconds.value
    assert mapped.even == even.seconds
    assert even.even is None


def test_pace_and_energy_delay_by_hand() -> None:
    profile = load_profile("loihi2")
    counts, cores = ran(profile)
    first = FirstAnswer(steps=9, depth=6, windows=0, non_causal=())
    report = price(counts, profile, latency_s=3e-3, cores=cores, first=first)
    assert report.pace is not None
    assert report.pace.per_second == Interval(value=1 / 3e-3, lo=1 / 3e-3, hi=1 / 3e-3)
    assert not report.pace.at_most
    assert report.pace.first_s is not None
    assert report.pace.first_s.value == pytest.approx(3e-3 * 9 / counts.steps)
    dynamic, both = report.energy_delay
    per_sample = report.dynamic_per_sample
    assert per_sample is not None
    assert (dynamic.energy, dynamic.delay, dynamic.lower_bound) == ("dynamic", "first answer", False)
    assert dynamic.joule_seconds.hi == pytest.approx(per_sample.hi * 1e-12 * 3e-3 * 9 / counts.steps)
    chip = report.static[0]
    assert (chip.kind, chip.name, chip.lower_bound) == ("chips", "1 whole chip", False)
    total = per_sample.value + chip.energy.value / counts.samples
    assert both.joule_seconds.value == pytest.approx(total * 1e-12 * 3e-3 * 9 / counts.steps)
    truenorth = price(counts, load_profile("truenorth"))
    assert [each.energy for each in truenorth.energy_delay] == ["dynamic and static"], "one price holds both"
    bound = price(counts, profile, cores=cores)
    assert bound.energy_delay[0].delay == "time between answers"
    assert all(each.lower_bound for each in bound.energy_delay)


def test_static_energy_counts_the_cores_of_the_mapping_and_else_says_at_least() -> None:
    profile = small(load_profile("loihi2"), 11)
    counts, cores = ran(profile)
    names = [share.name for share in price(counts, profile, cores=cores, latency_s=1.0).static]
    assert names == ["1 whole chip", f"{len(cores.cores)} of 128 cores"]
    names = [share.name for share in price(counts, profile, latency_s=1.0).static]
    assert names == ["at least 1 whole chip", "at least 30 of 128 cores"]  # 329 neurons
    unsure = replace(small(load_profile("spinnaker1"), 11), power_mw=profile.power_mw)
    judged = judge(layers(), unsure)
    assert judged.mapping is not None
    vague = price(counts, unsure, fit=judged)
    assert vague.static[1].name.startswith(f"at least {len(judged.mapping.cores)} of"), "memory was not checked"
    assert vague.static[1].lower_bound


@pytest.mark.parametrize("name", ["spinnaker1", "spinnaker2"])
def test_power_that_includes_work_is_no_static_power(name: str) -> None:
    """Added to the price of each operation, it would count the same energy twice."""
    counts, _ = ran(small(load_profile("loihi2"), 11))
    report = price(counts, load_profile(name), latency_s=1.0)
    assert not report.static
    (static,) = (item for item in report.unpriced if item.term == "static")
    assert "with work" in static.reason


def test_times_of_the_least_and_the_most_active_sample_are_those_of_their_own_cores() -> None:
    graph, profile = layers(), small(load_profile("loihi1"), 24)
    x = {name: np.concatenate([each[:, :1] * 0, each, each[:, :1]], axis=1) for name, each in events(graph).items()}
    activity = {**x, **wall_clock(graph, x).spikes}
    counts = count(graph, activity)
    (report,) = prices(graph, counts, activity, [profile], words=WORDS).energy
    assert report.latency is not None
    least, _, most = (each.value for each in report.latency.by_sample)
    assert least < most
    order = np.argsort(counts.sop_by_sample, kind="stable")
    assert order[0] == 0, "nothing goes in"
    for k, found in ((order[0], least), (order[-1], most)):
        alone = {name: array[:, k : k + 1] for name, array in activity.items()}
        (single,) = prices(graph, count(graph, alone), alone, [profile], words=WORDS, mapped=None).energy
        assert single.latency is not None
        assert single.latency.by_sample == ()
        assert found == pytest.approx(single.latency.seconds.value)
    text = shown(time_table({"energy": {"loihi1": report.to_json()}}))
    assert "for the sample with the fewest operations" in text


# --- what a chip cannot hold


def test_a_chip_that_cannot_hold_the_network_says_so_first_in_every_output(everywhere: Prices) -> None:
    odin = by_name(everywhere)["odin"]
    assert odin.holds.verdict == "does not fit"
    assert odin.warnings[0].startswith("cannot hold this network as it is: a.w: weights are too wide, found 5, limit 3")
    assert "329 neurons, 256 on a chip" in odin.warnings[0]
    assert render(odin).splitlines()[1].strip() == odin.warnings[0]
    assert odin.to_json()["holds"]["brief"] == "weight_bits: 5 > 3; neurons: 329 > 256"
    table = {"energy": {report.profile: report.to_json() for report in everywhere.energy}}
    text = shown(energy_table(json.loads(json.dumps(table))))
    above, below = text.split("Chips that cannot hold the network as it is, and what its operations would cost there")
    assert "loihi2" in above
    assert "loihi1" in above
    assert "odin" not in above
    assert "weight_bits: 5 > 3; neurons: 329 > 256" in below
    assert "not priced, as no energy of an operation is published: xylo" in below


def test_neurons_and_widths_are_enough_to_rule_a_chip_out() -> None:
    counts, _ = ran(load_profile("loihi2"))
    alone = price(counts, load_profile("odin"))
    assert alone.holds.verdict == "not known"
    assert alone.warnings[0].startswith("one chip cannot hold this network: 329 neurons, 256 on a chip")
    assert alone.holds.text == "at least 2 chips"
    wide = price(counts, load_profile("odin"), memory=WORDS)
    assert wide.holds.brief == "weight_bits: 8 > 3"
    assert price(counts, load_profile("cmos45"), memory=WORDS).holds.verdict == "no cores"
    assert price(counts, load_profile("loihi2"), memory=WORDS).warnings[0].startswith("constants were taken on")


def test_several_chips_are_named() -> None:
    profile = small(load_profile("loihi1"), 2)
    judged = judge(layers(), profile)
    assert judged.mapping is not None
    counts, _ = ran(profile)
    report = price(counts, profile, fit=judged)
    assert report.holds.verdict == "fits"
    assert report.holds.chips == judged.mapping.chips == 2
    start = f"one chip cannot hold this network: its {len(judged.mapping.cores)} cores take 2 chips; 329 neurons, 256"
    assert report.warnings[0].startswith(start)


def test_cutting_for_a_chip_of_unknown_memory_is_left_out_where_it_takes_very_many_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut(graph: Graph, profile: Profile) -> Fit:
        raise AssertionError(f"cut for {profile.id}")

    graph = layers()
    x = events(graph)
    activity = {**x, **wall_clock(graph, x).spikes}
    counts = count(graph, activity)
    monkeypatch.setattr("avsnn.deploy.reports.prices.judge", cut)
    monkeypatch.setattr("avsnn.deploy.reports.prices.CUT_AT_MOST", 20)
    tiny = small(load_profile("tianjic"), 16)  # 329 neurons: 21 cores
    found = prices(graph, counts, activity, [tiny, small(load_profile("odin"), 16)], words=WORDS)
    tianjic, odin = found.energy
    assert (tianjic.holds.verdict, tianjic.holds.text) == ("not known", "not known")
    assert odin.holds.brief.startswith("weight_bits: 5 > 3")
    with pytest.raises(AssertionError, match="cut for loihi1"):
        prices(graph, counts, activity, [small(load_profile("loihi1"), 16)], words=WORDS)


def test_two_sets_of_prices_for_one_chip_share_its_mapping(everywhere: Prices, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = everywhere.cores["loihi1"], everywhere.cores["loihi1-sanafe"]
    assert replace(one, profile="") == replace(other, profile="", mesh=one.mesh)
    graph, asked = layers(), []
    x = events(graph)
    activity = {**x, **wall_clock(graph, x).spikes}

    def asking(graph: Graph, profile: Profile) -> Fit:
        asked.append(profile.id)
        return judge(graph, profile)

    monkeypatch.setattr("avsnn.deploy.reports.prices.judge", asking)
    loihi1, sanafe = load_profile("loihi1"), load_profile("loihi1-sanafe")
    smaller = replace(small(sanafe, 40), id="smaller")
    prices(graph, count(graph, activity), activity, [loihi1, sanafe, smaller], words=WORDS)
    assert asked == ["loihi1", "smaller"]


# --- what makes a sum wide


def test_the_constant_that_widens_the_sum_most_is_named_with_its_share() -> None:
    counts, _ = ran(load_profile("loihi2"))
    profile = load_profile("loihi2")
    profile = replace(profile, policy=replace(profile.policy, zero_weight_skip="never"))
    found = price(counts, profile).sensitivity
    assert found is not None
    sop, update = (8.6 * counts.sop_stored, 121.0 * counts.neuron_updates)  # 23.4 - 14.8, 165 - 44
    shares = {"energy_pj.sop": sop / (sop + update), "energy_pj.neuron_update": update / (sop + update)}
    assert found.shares == {name: pytest.approx(share) for name, share in shares.items()}
    assert found.constant == max(shares, key=shares.__getitem__)
    assert found.without.width == pytest.approx(min(sop, update))
    assert found.without.value == pytest.approx(18 * counts.sop_stored + 90 * counts.neuron_updates)


def test_weights_of_0_can_be_what_is_not_known() -> None:
    counts, _ = ran(load_profile("loihi2"))
    assert counts.sop_nonzero < counts.sop_stored
    loihi2 = load_profile("loihi2")
    exact = {key: replace(each, lo=each.value, hi=each.value) for key, each in loihi2.energy_pj.items()}
    found = price(counts, replace(loihi2, energy_pj=exact)).sensitivity
    assert found is not None
    assert (found.constant, found.share) == (ZEROS, 1.0)
    never = replace(loihi2.policy, zero_weight_skip="never")
    assert price(counts, replace(loihi2, energy_pj=exact, policy=never)).sensitivity is None
    assert price(counts, load_profile("xylo")).sensitivity is None


# --- all of it


def test_every_profile_has_its_cores_if_sizes_and_places_are_known(everywhere: Prices) -> None:
    assert set(everywhere.cores) == {"loihi2", "loihi1", "loihi1-sanafe"}
    found = by_name(everywhere)
    timed = {name for name, report in found.items() if report.latency}
    assert timed == {"loihi2", "loihi1", "loihi1-sanafe", "spinnaker1", "truenorth"}
    assert all(report.literature == found["cmos45"].literature for report in found.values())
    expected = first_answer(layers()).steps / layers().timesteps
    for report in found.values():
        if report.latency is not None and report.pace is not None and report.pace.first_s is not None:
            assert report.pace.first_s.value == pytest.approx(report.latency.seconds.value * expected)
    assert "route" in {term.term for term in found["loihi1"].terms}


def test_reports_of_older_bundles_are_shown_without_what_they_did_not_count(everywhere: Prices) -> None:
    table: dict[str, Any] = {"energy": {report.profile: report.to_json() for report in everywhere.energy}}
    assert "not counted" not in shown(energy_table(table)) + shown(time_table(table))
    assert shown(time_table(table)).count("on as many chips none beats") == 3
    text = shown(time_table({**table, "meta": {"target": "loihi2"}}))
    assert text.count("on as many chips none beats") == 1
    assert "loihi1: bound" not in text
    for row in table["energy"].values():
        for key in ("holds", "sensitivity", "pace", "energy_delay"):
            del row[key]
        for share in row["static"]:
            del share["kind"]
        for key in ("sets", "per_step_ns", "unknown", "even_seconds_per_sample", "seconds_by_sample"):
            row["latency"] = row["latency"] and {k: v for k, v in row["latency"].items() if k != key}
    text = shown(energy_table(table))
    assert "odin" in text
    assert "Chips that cannot hold" not in text
    times = shown(time_table(table))
    assert times.count("not counted") == 3 * 5
    assert "lower bound" in times
    assert time_table({"energy": {}}) is None
