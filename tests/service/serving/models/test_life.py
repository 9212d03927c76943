"""The transitions of a model's life, as a table."""

import pytest

from service.serving.models.life import LEAVING, SETTLED, WORKING, Event, Phase, step

ENDS_OF_WORK = (Event.LOADED, Event.LOAD_FAILED, Event.CLOSED)


@pytest.mark.parametrize("phase", set(Phase) - {Phase.ENDED})
def test_every_phase_ends_with_the_service(phase):
    """A shutdown leads to the end, at once or after the work under way; nothing leads back."""
    ending = step(phase, Event.SHUTDOWN).phase if phase is not Phase.ENDING else phase
    assert ending in (Phase.ENDING, Phase.ENDED)
    for event in Event:
        assert step(ending, event).phase in (Phase.ENDING, Phase.ENDED)
    assert all(step(Phase.ENDED, event) == (Phase.ENDED, False) for event in Event)


@pytest.mark.parametrize("phase", WORKING)
def test_the_end_of_work_leads_out_of_its_phase(phase):
    """No phase waits for work that has ended."""
    after = {step(phase, event).phase for event in ENDS_OF_WORK}
    assert after - {phase}


@pytest.mark.parametrize("phase", [Phase.EVICTING, Phase.UNLOADING])
def test_an_idle_model_that_is_to_go_is_closed(phase):
    """Whoever wanted it gone."""
    assert step(phase, Event.IDLE).phase is Phase.CLOSING


def test_only_an_eviction_can_be_cancelled():
    """What operators asked for happens."""
    called_back = {
        phase for phase in LEAVING if step(phase, Event.CANCEL_EVICTION).phase is not phase
    }
    assert called_back == {Phase.EVICTING, Phase.LOADING_TO_EVICT}


def test_only_loads_are_cancelled():
    """A load is cancelled once, on the way out of it."""
    cancelling = {phase for phase in Phase for event in Event if step(phase, event).cancel_load}
    assert cancelling == {Phase.LOADING, Phase.LOADING_TO_EVICT}


def test_each_phase_can_be_reached_and_settles():
    """From rest, by some events; and from it, by some events, to a phase that rests."""
    reached, new = set(), {Phase.RESTING}
    while new:
        reached |= new
        new = {step(phase, event).phase for phase in new for event in Event} - reached
    assert reached == set(Phase)
    for start in Phase:
        found, new = set(), {start}
        while new:
            found |= new
            new = {step(phase, event).phase for phase in new for event in Event} - found
        assert found & SETTLED
