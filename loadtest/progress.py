"""Live progress on stderr: one bar per model, with its errors and latest TTFT."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.observation import Observation
from loadtest.plan import Plan
from loadtest.results.report import number


class LiveProgress:
    """Shows observations as they come; a plain line at the end where there is no terminal."""

    def __init__(self, plan: Plan) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[errors]} errors, TTFT {task.fields[ttft]} ms"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks = {
            model: self._progress.add_task(
                model, total=plan.requests_per_model, errors=0, ttft=number(None)
            )
            for model in plan.models
        }
        self._errors = dict.fromkeys(plan.models, 0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def watch(self, seen: Observation) -> None:
        """Count one request."""
        self._errors[seen.model] += seen.outcome != "ok"
        self._progress.update(
            self._tasks[seen.model],
            advance=1,
            errors=self._errors[seen.model],
            ttft=number(seen.ttft_ms),
        )
