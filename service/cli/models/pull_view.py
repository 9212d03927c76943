"""Progress bars and notes of a running pull."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from model_registry.sources.progress import PullProgress

_VERBS = {"download": "download", "convert": "convert", "verify": "check"}


class PullView:
    """Bars for one pull; a context manager."""

    def __init__(self, console: Console, model: str) -> None:
        self._console = console
        self._model = model
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )

    def __repr__(self) -> str:
        return f"<PullView {self._model} {len(self._tasks)} steps>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Bars begin with the first step, so a pull that needs none prints no empty line.
        if self._tasks:
            self._progress.stop()

    def update(self, step: PullProgress) -> None:
        """Show one step."""
        if step.stage == "note":
            self._console.print(f"{self._model}: {step.message}", markup=False, soft_wrap=True)
            return
        key = (step.stage, step.file)
        if not self._tasks:
            self._progress.start()
        if key not in self._tasks:
            label = f"{_VERBS[step.stage]} {step.file}"
            self._tasks[key] = self._progress.add_task(label, total=step.total_bytes)
        self._progress.update(self._tasks[key], completed=step.done_bytes, total=step.total_bytes)
