"""The life of a hosted model: its phases, the events that change them, and every transition.

Pure data: `HostedModel` applies events to it and does the work that a phase asks for.
"""

from enum import StrEnum
from typing import Final, NamedTuple


class Phase(StrEnum):
    """Phase of a model's life, from its files to a running engine."""

    RESTING = "resting"
    """No engine, no work."""
    LOADING = "loading"
    LOADING_TO_EVICT = "loading_to_evict"
    """Loading for those who wait for it; evicted once they have been answered."""
    ABORTING = "aborting"
    """The load was cancelled and is being undone."""
    SERVING = "serving"
    EVICTING = "evicting"
    """Closed once idle, unless the eviction is cancelled before."""
    UNLOADING = "unloading"
    """Closed once idle, or when its drain time is over."""
    CLOSING = "closing"
    """The engine is being closed."""
    ENDING = "ending"
    """The service shuts down: the load is being undone, or the engine closed."""
    ENDED = "ended"


class Event(StrEnum):
    """Event in the life of a model."""

    LOAD = "load"
    """A request or an operator wants it."""
    LOADED = "loaded"
    LOAD_FAILED = "load_failed"
    """The load ended without an engine: it failed or was cancelled, and everything is undone."""
    ABANDONED = "abandoned"
    """The load waits for memory and nobody wants it any more."""
    EVICT = "evict"
    """Others need its memory."""
    CANCEL_EVICTION = "cancel_eviction"
    """They no longer do, or the model was pinned."""
    UNLOAD = "unload"
    """An operator or the idle limit ends it."""
    IDLE = "idle"
    """Nobody uses the engine."""
    CUT = "cut"
    """The drain time is over: running requests fail."""
    CLOSED = "closed"
    """The engine is gone and its memory is free."""
    SHUTDOWN = "shutdown"


class Step(NamedTuple):
    """Outcome of an event: the next phase."""

    phase: Phase
    cancel_load: bool = False
    """The load under way is to be cancelled; those who wait for it are told."""


LEAVING: Final = frozenset(
    {
        Phase.LOADING_TO_EVICT,
        Phase.ABORTING,
        Phase.EVICTING,
        Phase.UNLOADING,
        Phase.CLOSING,
        Phase.ENDING,
    }
)
"""The model's memory becomes free without anybody asking for it again."""

ANSWERING: Final = frozenset({Phase.SERVING, Phase.EVICTING, Phase.UNLOADING})
"""The engine is there and runs requests."""

WORKING: Final = frozenset(
    {Phase.LOADING, Phase.LOADING_TO_EVICT, Phase.ABORTING, Phase.CLOSING, Phase.ENDING}
)
"""The owner loads, undoes a load or closes."""

SETTLED: Final = frozenset({Phase.RESTING, Phase.SERVING, Phase.ENDED})
"""Nothing happens until the next event from outside."""

_TABLE: Final[dict[Phase, dict[Event, Step]]] = {
    Phase.RESTING: {
        Event.LOAD: Step(Phase.LOADING),
        Event.SHUTDOWN: Step(Phase.ENDED),
    },
    Phase.LOADING: {
        Event.LOADED: Step(Phase.SERVING),
        Event.LOAD_FAILED: Step(Phase.RESTING),
        Event.ABANDONED: Step(Phase.ABORTING, cancel_load=True),
        Event.UNLOAD: Step(Phase.ABORTING, cancel_load=True),
        Event.EVICT: Step(Phase.LOADING_TO_EVICT),
        Event.SHUTDOWN: Step(Phase.ENDING, cancel_load=True),
    },
    Phase.LOADING_TO_EVICT: {
        Event.LOADED: Step(Phase.EVICTING),
        Event.LOAD_FAILED: Step(Phase.RESTING),
        Event.ABANDONED: Step(Phase.ABORTING, cancel_load=True),
        Event.UNLOAD: Step(Phase.ABORTING, cancel_load=True),
        Event.CANCEL_EVICTION: Step(Phase.LOADING),
        Event.SHUTDOWN: Step(Phase.ENDING, cancel_load=True),
    },
    Phase.ABORTING: {
        Event.LOADED: Step(Phase.CLOSING),  # it had ended before the cancel came
        Event.LOAD_FAILED: Step(Phase.RESTING),
        Event.SHUTDOWN: Step(Phase.ENDING),
    },
    Phase.SERVING: {
        Event.EVICT: Step(Phase.EVICTING),
        Event.UNLOAD: Step(Phase.UNLOADING),
        Event.SHUTDOWN: Step(Phase.ENDING),
    },
    Phase.EVICTING: {
        Event.CANCEL_EVICTION: Step(Phase.SERVING),
        Event.UNLOAD: Step(Phase.UNLOADING),
        Event.IDLE: Step(Phase.CLOSING),
        Event.SHUTDOWN: Step(Phase.ENDING),
    },
    Phase.UNLOADING: {
        Event.IDLE: Step(Phase.CLOSING),
        Event.CUT: Step(Phase.CLOSING),
        Event.SHUTDOWN: Step(Phase.ENDING),
    },
    Phase.CLOSING: {
        Event.CLOSED: Step(Phase.RESTING),
        Event.SHUTDOWN: Step(Phase.ENDING),
    },
    Phase.ENDING: {
        Event.LOADED: Step(Phase.ENDING),
        Event.LOAD_FAILED: Step(Phase.ENDED),
        Event.CLOSED: Step(Phase.ENDED),
    },
    Phase.ENDED: {},
}


def step(phase: Phase, event: Event) -> Step:
    """The transition of *event* in *phase*; an event that means nothing there changes nothing.

    In particular an unload joins one that is under way, and a load that is asked for while the
    engine goes is started by the owner once the model rests.
    """
    return _TABLE[phase].get(event, Step(phase))
