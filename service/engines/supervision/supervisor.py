"""Supervisor: keeps one child process running while it is wanted."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from service.core.errors import ModelNotReady
from service.core.runtime import ProcessState
from service.engines.supervision.backoff import Backoff

FATAL_STARTS: Final = 3
"""Consecutive starts that never became ready, after which the process is not started again."""

log = logging.getLogger(__name__)


class Life(Protocol):
    """Lifetime of a child process, from its start until all of its processes have exited."""

    async def start(self) -> None:
        """Start the process. Raises OSError."""

    async def ready(self) -> None:
        """Wait until it serves. Raises ModelNotReady, with the reason, if it never does."""

    async def ended(self) -> str:
        """Wait until it has ended; the reason, as a sentence that clients may see."""

    async def aclose(self) -> None:
        """End what is left of it, and free what it held."""


class Supervisor:
    """Starts a process, restarts it with backoff when it dies, and gives up on one that cannot.

    Whatever ends a life, an unexpected exception included, is logged, reported to `on_lost` and
    raised as ModelNotReady for all who wait in `ready`: nobody waits for a process that is gone.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], Life],
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda _reason: None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Start nothing yet.

        Args:
            name: The process in messages, as the subject of a sentence.
            begin: Creates the next life.
            on_ready: Called when a life serves.
            on_lost: Called with the reason when a life has ended, before its `aclose`.
            wanted: Consulted before each restart.
        """
        self._name = name
        self._begin = begin
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._wanted = wanted
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        """Cleanup of the life that ended last, which nothing interrupts."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._backoff = Backoff()
        self._failed_starts = 0
        self._restart_at_s: float | None = None
        self._recovers = False
        self.state: ProcessState = "stopped"
        self.restarts = 0
        self.last_failure: str | None = None
        """Why the latest life ended; None if none has."""

    def __repr__(self) -> str:
        return f"<Supervisor of {self._name}: {self.state}, {self.restarts} restarts>"

    @property
    def running(self) -> bool:
        """True while the process serves."""
        return self.state == "running"

    @property
    def recovering(self) -> bool:
        """True while a process that died is being restarted."""
        return self._recovers and self.state in ("restarting", "starting")

    @property
    def restart_in_s(self) -> float | None:
        """Seconds until the next start; None unless the state is `restarting`."""
        if self._restart_at_s is None:
            return None
        return max(0.0, self._restart_at_s - time.monotonic())

    def trouble(self) -> str | None:
        """Reason why a process that died is not serving; None if it serves or never died."""
        if self.state == "failed":
            return (
                f"{self.last_failure} It did not come up {FATAL_STARTS} times in a row and is not "
                "started again."
            )
        return f"{self.last_failure} It is being started again." if self.recovering else None

    async def ready(self) -> None:
        """Wait until the process serves, starting it if need be.

        Raises ModelNotReady with the reason if this start, or the one that is due, fails.
        """
        if self.state == "closed":
            raise ModelNotReady(f"{self._name} was stopped.")
        if self.running:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"supervise {self._name}")
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    async def aclose(self) -> None:
        """End the process for good; waiters in `ready` get ModelNotReady."""
        self.state, self._restart_at_s = "closed", None
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._closing is not None:
            await asyncio.gather(self._closing, return_exceptions=True)
        self._fail_waiting(f"{self._name} was stopped.")

    async def _run(self) -> None:
        try:
            await self._supervise()
        except Exception as error:  # a callback of the owner's
            log.exception("the supervision of %s failed", self._name)
            self.state, self._restart_at_s = "failed", None
            self.last_failure = _unexpected(self._name, error)
            self._fail_waiting(self.last_failure)

    async def _supervise(self) -> None:
        """Restart the process while it is wanted and its starts succeed."""
        self._failed_starts, self._recovers = 0, False
        while True:
            self.state, self._restart_at_s = "starting", None
            await self._live()
            if self._failed_starts >= FATAL_STARTS:
                self.state, self._restart_at_s = "failed", None
                return
            await asyncio.sleep(self.restart_in_s or 0.0)
            if not self._wanted():
                self.state, self._restart_at_s = "stopped", None
                return
            self.restarts += 1

    async def _live(self) -> None:
        """Run one process until it ends, whatever is raised."""
        life: Life | None = None
        began_s = time.monotonic()
        try:
            try:
                life = self._begin()
                await life.start()
                await life.ready()
                self._serve()
                reason = await life.ended()
            except ModelNotReady as error:
                reason = str(error)
            except OSError as error:
                reason = f"{self._name} could not be started: {error.strerror or error}."
            except Exception as error:
                log.exception("%s failed unexpectedly", self._name)
                reason = _unexpected(self._name, error)
            self._lose(reason, after_s=time.monotonic() - began_s)
        finally:
            if life is not None:
                self._closing = asyncio.create_task(life.aclose())
                await asyncio.shield(self._closing)  # `aclose` may come meanwhile

    def _serve(self) -> None:
        self.state, self._failed_starts = "running", 0
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._on_ready()

    def _lose(self, reason: str, *, after_s: float) -> None:
        log.error("%s", reason)
        self._failed_starts += 0 if self.running else 1
        delay_s = self._backoff.died(after_s=after_s)
        self.state, self._restart_at_s = "restarting", time.monotonic() + delay_s
        self.last_failure, self._recovers = reason, True
        self._fail_waiting(reason)
        self._on_lost(reason)

    def _fail_waiting(self, reason: str) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(ModelNotReady(reason))


def _unexpected(name: str, error: Exception) -> str:
    return f"{name} failed unexpectedly ({type(error).__name__}: {error})."
