"""Result of the conformance probe for the current process of a model's engine."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from service.core.ports import Engine, Restartable
from service.serving.models.conformance import Conformance

log = logging.getLogger(__name__)


class Verification:
    """Result of the probe; after a restart of the process it is unknown until repeated."""

    def __init__(
        self,
        probe: Callable[[Engine], Awaitable[Conformance]],
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._probe = probe
        self._on_change = on_change
        self._engine: Engine | None = None
        self._found: Conformance | None = None
        self._restarts = 0
        self._probing: asyncio.Task[None] | None = None

    @property
    def passed(self) -> bool | None:
        """Outcome of the probe; None if it is unknown, or the engine cannot be probed."""
        return None if self._found is None or self._stale else self._found.passed

    @property
    def reason(self) -> str | None:
        """The probe's finding; None if it is unknown."""
        if self._found is not None and self._stale:
            return "not probed since its engine was restarted"
        return self._found.reason if self._found else None

    @property
    def _stale(self) -> bool:
        return self._engine is not None and _restarts(self._engine) != self._restarts

    def note(self, engine: Engine, found: Conformance | None) -> None:
        """Keep what a load's probe found; None if models are not probed."""
        self._engine, self._found, self._restarts = engine, found, _restarts(engine)

    def forget(self) -> None:
        """Reset the result: the engine was closed."""
        self._engine = self._found = None

    def check(self, engine: Engine) -> None:
        """Probe again in the background if the engine was restarted since."""
        if self._found is not None and self._stale and self._probing is None:
            self._probing = asyncio.create_task(self._repeat(engine), name="repeat probe")

    async def _repeat(self, engine: Engine) -> None:
        try:
            restarts = _restarts(engine)
            found = await self._probe(engine)
            # One that died meanwhile says nothing of the life that follows: still stale, try again.
            if restarts == _restarts(engine):
                self._found, self._restarts = found, restarts
                self._on_change()
        except Exception:  # a fault of the probe must not end with the model
            log.exception("repeating the probe of %s failed", engine.model.id)
        finally:
            self._probing = None

    def cancel(self) -> None:
        """Cancel a running probe; `check` starts it again."""
        if self._probing is not None:
            self._probing.cancel()

    async def stop(self) -> None:
        """Cancel a probe under way and wait for its end."""
        self.cancel()
        if self._probing is not None:
            await asyncio.wait([self._probing])


def _restarts(engine: Engine) -> int:
    return engine.restarts if isinstance(engine, Restartable) else 0
