"""The meter: reads while requests run, shares what was spent, and knows what it does not know."""

import asyncio

import pytest

from service.core.work import Energy
from service.telemetry.energy import meter as meter_module
from service.telemetry.energy.estimate import EstimatedEnergy
from service.telemetry.energy.meter import EnergyMeter
from service.telemetry.energy.rapl import RaplCounter
from support.clock import Clock

#: Nanoseconds of one millisecond; at 1 W they are 1,000 µJ.
MS = 1_000_000


@pytest.fixture
def clock():
    return Clock(1000 * MS)


@pytest.fixture
def meter(clock):
    made = EnergyMeter(EstimatedEnergy(1.0, clock), clock_ns=clock)
    yield made
    made.close()


def at(clock, ms):
    clock.now = (1000 + ms) * MS
    return clock.now


def estimate(energy_uj, *, shared):
    return Energy(energy_uj=energy_uj, energy_source="estimate", energy_shared=shared)


async def test_a_request_alone_gets_what_was_spent_while_it_ran(clock, meter):
    """Waiting in the queue and reporting the end cost it nothing."""
    meter.accepted("a")
    meter.began("a", at(clock, 5))
    last_ns = at(clock, 25)
    at(clock, 30)
    assert meter.ended("a", 1005 * MS, last_ns) == estimate(20_000, shared=False)


async def test_two_at_once_share(clock, meter):
    """Ten milliseconds together, ten each alone."""
    meter.accepted("a")
    meter.accepted("b")
    meter.began("a", clock.now)
    meter.began("b", at(clock, 10))
    end_ns = at(clock, 20)
    assert meter.ended("a", 1000 * MS, end_ns) == estimate(15_000, shared=True)
    end_ns = at(clock, 30)
    assert meter.ended("b", 1010 * MS, end_ns) == estimate(15_000, shared=True)


async def test_a_request_that_waits_shares_nothing(clock, meter):
    """A queue takes no energy from those who run."""
    meter.accepted("a")
    meter.accepted("b")
    meter.began("a", clock.now)
    end_ns = at(clock, 10)
    assert meter.ended("a", 1000 * MS, end_ns) == estimate(10_000, shared=False)


async def test_a_request_that_was_not_computed_here_is_unknown(clock, meter):
    """Another server's energy is not counted by this machine's counter."""
    meter.accepted("a")
    end_ns = at(clock, 10)
    assert meter.ended("a", 1000 * MS, end_ns) == Energy()


async def test_a_request_whose_start_is_unknown_is_unknown(clock, meter):
    """An engine that does not tell when it began leaves nothing to share by."""
    meter.accepted("a")
    meter.began("a", clock.now)
    end_ns = at(clock, 10)
    assert meter.ended("a", None, end_ns) == Energy()


async def test_a_cancelled_request_spent_until_now(clock, meter):
    """It was computed until it was cancelled, whatever its last token was."""
    meter.accepted("a")
    meter.began("a", clock.now)
    at(clock, 7)
    assert meter.ended("a", 1000 * MS, None) == estimate(7_000, shared=False)


async def test_what_was_read_before_does_not_count_for_later_requests(clock, meter):
    """An hour of rest between two requests belongs to neither."""
    meter.accepted("a")
    meter.began("a", clock.now)
    meter.ended("a", 1000 * MS, at(clock, 10))
    start_ns = at(clock, 3_600_000)
    meter.accepted("b")
    meter.began("b", start_ns)
    assert meter.ended("b", start_ns, at(clock, 3_600_005)) == estimate(5_000, shared=False)


async def test_a_long_request_is_settled_on_the_way(monkeypatch):
    """Readings are not kept for ever, and none of its energy is lost by that."""
    monkeypatch.setattr(meter_module, "INTERVAL_S", 0.001)
    monkeypatch.setattr(meter_module, "MOST_READINGS", 4)
    counted = EstimatedEnergy(1.0)
    meter = EnergyMeter(counted)
    loop_ns = lambda: round(asyncio.get_running_loop().time() * 1e9)  # noqa: E731
    meter.accepted("a")
    start_ns = loop_ns()
    meter.began("a", start_ns)
    await asyncio.sleep(0.1)
    meter.accepted("b")
    meter.began("b", loop_ns())
    await asyncio.sleep(0.1)
    end_ns = loop_ns()
    spent = meter.ended("a", start_ns, end_ns)
    together_uj = spent.energy_uj + meter.ended("b", start_ns, end_ns).energy_uj
    assert together_uj == pytest.approx((end_ns - start_ns) / 1000, rel=0.02)
    assert spent.energy_uj == pytest.approx(together_uj * 0.75, rel=0.1)
    assert spent.energy_shared


async def test_a_counter_that_fails_makes_those_who_run_unknown(tmp_path, clock):
    """A part of a request's energy is not its energy; the next request is measured again."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("1000000")
    (zone / "energy_uj").write_text("10")
    meter = EnergyMeter(RaplCounter.open(tmp_path), clock_ns=clock)
    meter.accepted("a")
    meter.began("a", clock.now)
    (zone / "energy_uj").write_text("gone")
    assert meter.ended("a", 1000 * MS, at(clock, 10)) == Energy()
    (zone / "energy_uj").write_text("20")
    meter.accepted("b")
    meter.began("b", clock.now)
    (zone / "energy_uj").write_text("50")
    spent = meter.ended("b", clock.now, at(clock, 20))
    assert spent == Energy(energy_uj=30, energy_source="rapl", energy_shared=False)
