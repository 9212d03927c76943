"""Costs of a request: energy from its first prefill step on, wherever it is computed here."""

import msgspec
import pytest

from model_registry.spec import ModelSpec, ResolvedModel
from service.core.events import Started
from service.core.work import Energy
from service.serving.requests.costs import Costs
from service.telemetry.energy.estimate import EstimatedEnergy
from service.telemetry.energy.meter import EnergyMeter
from support.clock import Clock

#: Nanoseconds of a millisecond; 1 mJ at 1 W.
MS = 1_000_000


@pytest.fixture
def clock():
    return Clock(0)


@pytest.fixture
def meter(clock):
    made = EnergyMeter(EstimatedEnergy(1.0, clock), clock_ns=clock)
    yield made
    made.close()


def model(engine):
    spec = ModelSpec(
        id="m", family="ssm", licence="MIT", context_tokens=9, sources=(), engine=engine
    )
    return ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None)


def started(at_ms):
    return Started(queued_ns=0, scheduled_ns=at_ms * MS, prompt_tokens=3)


def energy_of(costs, record, **changes):
    return costs.note(msgspec.structs.replace(record, **changes))["energy"]


async def test_an_answer_of_this_machine_has_energy(clock, meter, make_record):
    """From its first prefill step to its last token."""
    costs = Costs("r", meter, clock)
    costs.served_by(model("torch"), None)
    clock.now = 5 * MS
    costs.started(started(5))
    clock.now = 30 * MS
    spent = energy_of(costs, make_record("r"), scheduled_ns=5 * MS, last_ns=25 * MS)
    assert spent == Energy(energy_uj=20_000, energy_source="estimate", energy_shared=False)


async def test_an_answer_of_another_server_has_none(clock, meter, make_record):
    """Its energy is spent elsewhere, or by a process that is not known to be here."""
    costs = Costs("r", meter, clock)
    costs.served_by(model("openai"), None)
    costs.started(started(5))
    clock.now = 30 * MS
    assert energy_of(costs, make_record("r"), scheduled_ns=5 * MS, last_ns=25 * MS) == Energy()


async def test_a_fallback_counts_from_the_arm_that_answers(clock, meter, make_record):
    """What the arm that failed spent is not the answer's, as its times are not."""
    costs = Costs("r", meter, clock)
    costs.served_by(model("torch"), None)
    costs.started(started(0))
    clock.now = 10 * MS
    costs.restart()
    costs.served_by(model("torch"), None)
    clock.now = 12 * MS
    costs.started(started(12))
    clock.now = 20 * MS
    spent = energy_of(costs, make_record("r"), scheduled_ns=12 * MS, last_ns=20 * MS)
    assert spent.energy_uj == 8_000


async def test_a_cancelled_answer_counts_until_it_was_cancelled(clock, meter, make_record):
    """The device computed for it after its last token, too."""
    costs = Costs("r", meter, clock)
    costs.served_by(model("torch"), None)
    costs.started(started(0))
    clock.now = 10 * MS
    record = make_record("r", status="cancelled")
    assert energy_of(costs, record, scheduled_ns=0, last_ns=4 * MS).energy_uj == 10_000


def test_without_a_meter_energy_is_unknown(clock, make_record):
    """Nothing is guessed."""
    costs = Costs("r", None, clock)
    costs.served_by(model("torch"), None)
    costs.started(started(5))
    assert energy_of(costs, make_record("r")) == Energy()
