"""Sections: a comparison's events as one growing text, one arm after another."""

from service.core.compare.side_by_side import Cost, cost_table, heading, no_answer
from service.core.events import Delta, Finished
from service.serving.requests.compare import ArmEvent, ArmResult, Compared, ComparisonEvent


class Sections:
    """Turns events to text. An arm's text waits while another arm's section is open."""

    def __init__(self) -> None:
        self._open: int | None = None
        self._waiting: dict[int, str] = {}
        """Texts of arms that began while another section was open, in that order."""
        self._ended: set[int] = set()

    def take(self, event: ComparisonEvent) -> str:
        """The text that an event adds at the end; empty for one that has to wait."""
        match event:
            case ArmEvent(arm=arm, model=model, event=of_engine):
                text = of_engine.text if isinstance(of_engine, Delta | Finished) else ""
                return self._write(arm, model, text)
            case ArmResult(arm=arm, model=model, error=error):
                last = "" if error is None else f"\n\n{no_answer(error.code, error.message)}"
                text = self._write(arm, model, f"{last}\n\n")
                self._ended.add(arm)
                return text + self._next()
            case Compared():
                costs = [
                    Cost(model=arm.model, record=arm.record, metrics=arm.metrics)
                    for arm in event.arms
                ]
                return cost_table(costs, event.caveats)

    def _write(self, arm: int, model: str, text: str) -> str:
        if self._open is None:
            self._open = arm
            return f"{heading(model)}\n\n{text}"
        if arm == self._open:
            return text
        begun = self._waiting.setdefault(arm, f"{heading(model)}\n\n")
        self._waiting[arm] = begun + text
        return ""

    def _next(self) -> str:
        """Close the open section if its arm has ended, and open those that waited."""
        text = ""
        while self._open in self._ended:
            self._open = next(iter(self._waiting), None)
            if self._open is None:
                break
            text += self._waiting.pop(self._open)
        return text
