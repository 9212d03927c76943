"""Starts, restarts and ends of a supervised process, whatever goes wrong."""

import asyncio

import pytest

from service.core.errors import ModelNotReady
from service.engines.supervision import supervisor as module
from service.engines.supervision.supervisor import FATAL_STARTS, Supervisor
from support.waiting import until


class Scripted:
    """A life whose steps are given: an exception to raise, or an event to wait for."""

    def __init__(self, *, start=None, ready=None, ended=None):
        self._start = start
        self._ready = ready
        self.death = asyncio.Event()
        self._ended = ended
        self.closed = False

    async def start(self):
        if self._start:
            raise self._start

    async def ready(self):
        if self._ready:
            raise self._ready

    async def ended(self):
        if self._ended:
            raise self._ended
        await self.death.wait()
        return "It died."

    async def aclose(self):
        self.closed = True


class Process:
    """A supervised process with the lives that it is to have, one after another."""

    def __init__(self, *lives, wanted=lambda: True):
        self._coming = iter(lives)
        self.lives = []
        self.lost = []
        self.supervisor = Supervisor("It", self._begin, on_lost=self.lost.append, wanted=wanted)

    def _begin(self):
        life = next(self._coming)
        if isinstance(life, Exception):
            raise life
        self.lives.append(life)
        return life


@pytest.fixture(autouse=True)
def no_delay(monkeypatch):
    """Restart at once."""
    monkeypatch.setattr(module.Backoff, "died", lambda *_, **__: 0.0)


async def test_a_process_that_dies_is_started_again():
    """The death is told, and the next life serves."""
    first, second = Scripted(), Scripted()
    process = Process(first, second)
    await process.supervisor.ready()
    first.death.set()
    await until(lambda: len(process.lives) == 2 and process.supervisor.running)

    assert first.closed
    assert process.lost == ["It died."]
    assert (process.supervisor.restarts, process.supervisor.last_failure) == (1, "It died.")
    assert process.supervisor.trouble() is None
    await process.supervisor.aclose()
    assert second.closed


@pytest.mark.parametrize(
    ("life", "reason"),
    [
        ({"start": OSError(2, "No such file or directory")}, "could not be started: No such file"),
        ({"start": KeyError("gguf")}, r"failed unexpectedly \(KeyError: 'gguf'\)"),
        ({"ready": ModelNotReady("It is broken.")}, "^It is broken.$"),
        ({"ready": ZeroDivisionError("oops")}, r"failed unexpectedly \(ZeroDivisionError: oops\)"),
    ],
)
async def test_whoever_waits_is_told_of_any_failure(life, reason):
    """An exception that was not expected ended the supervisor, and they waited for ever."""
    process = Process(Scripted(**life), Scripted())
    async with asyncio.timeout(5):
        with pytest.raises(ModelNotReady, match=reason):
            await process.supervisor.ready()
        await until(lambda: process.lives[0].closed)

    assert len(process.lost) == 1
    await process.supervisor.aclose()


async def test_a_life_that_cannot_be_created_is_a_failed_start(caplog):
    """As one whose command line cannot be made."""
    process = Process(KeyError("gguf"), Scripted())
    with pytest.raises(ModelNotReady, match="KeyError"):
        await process.supervisor.ready()
    await process.supervisor.ready()

    assert "It failed unexpectedly" in caplog.text
    await process.supervisor.aclose()


async def test_an_unexpected_error_while_it_serves_is_a_death():
    """It is started again."""
    process = Process(Scripted(ended=KeyError("x")), Scripted())
    await process.supervisor.ready()
    await until(lambda: len(process.lives) == 2)

    assert "KeyError" in process.lost[0]
    await process.supervisor.aclose()


async def test_a_failing_owner_ends_the_supervision_and_no_waiter_is_left(caplog):
    """A callback that raises is a bug of its own, and is logged as one."""
    process = Process(Scripted(ready=ModelNotReady("no")))
    process.supervisor._wanted = lambda: 1 / 0
    with pytest.raises(ModelNotReady, match="no"):
        await process.supervisor.ready()
    await until(lambda: process.supervisor.state == "failed")

    assert "ZeroDivisionError" in process.supervisor.trouble()
    assert "the supervision of It failed" in caplog.text


async def test_it_gives_up_a_process_that_does_not_come_up():
    """Until somebody asks for it anew."""
    broken = [Scripted(ready=ModelNotReady("no")) for _ in range(FATAL_STARTS)]
    process = Process(*broken, Scripted())
    with pytest.raises(ModelNotReady):
        await process.supervisor.ready()
    await until(lambda: process.supervisor.state == "failed")

    assert "is not started again" in process.supervisor.trouble()
    assert not process.supervisor.recovering
    await process.supervisor.ready()
    assert process.supervisor.running
    await process.supervisor.aclose()


async def test_a_process_that_nobody_wants_is_not_started_again():
    """Not before somebody waits for it."""
    first, second = Scripted(), Scripted()
    process = Process(first, second, wanted=lambda: False)
    await process.supervisor.ready()
    first.death.set()
    await until(lambda: process.supervisor.state == "stopped")

    await process.supervisor.ready()
    assert process.lives == [first, second]
    await process.supervisor.aclose()


async def test_closing_fails_who_waits():
    """And who comes later."""
    life = Scripted()
    life.ready = asyncio.Event().wait
    process = Process(life)
    waiting = asyncio.create_task(process.supervisor.ready())
    await until(lambda: process.lives)
    await process.supervisor.aclose()

    with pytest.raises(ModelNotReady, match="was stopped"):
        await waiting
    with pytest.raises(ModelNotReady, match="was stopped"):
        await process.supervisor.ready()
    assert life.closed
    assert process.lost == []


async def test_closing_waits_for_the_cleanup_of_a_life_that_died():
    """It was cut short, and left processes that nobody waited for."""
    life = Scripted()
    process = Process(life)

    async def clean_up():
        await asyncio.sleep(0.05)
        life.closed = True

    life.aclose = clean_up
    await process.supervisor.ready()
    life.death.set()
    await until(lambda: process.lost)
    await process.supervisor.aclose()

    assert life.closed
