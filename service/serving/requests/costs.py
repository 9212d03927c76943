"""Costs: what a request works by its model's architecture, and the energy that it spends."""

from collections.abc import Callable

from model_registry.spec import EngineKind, ResolvedModel
from model_registry.work import WorkFormula
from service.core.events import Started
from service.core.ports import EnergyMetering
from service.core.record import RequestRecord
from service.core.work import Energy
from service.serving.requests.work import work_of


class Costs:
    """Work and energy of one request, from its acceptance to its end."""

    def __init__(
        self, request_id: str, energy: EnergyMetering | None, clock_ns: Callable[[], int]
    ) -> None:
        self._request_id = request_id
        self._energy = energy
        self._clock_ns = clock_ns
        self._engine: EngineKind | None = None
        self._formula: WorkFormula | None = None
        self._scored = False
        if energy is not None:
            energy.accepted(request_id)

    def served_by(self, model: ResolvedModel, formula: WorkFormula | None) -> None:
        """Note the model that answers."""
        self._engine, self._formula = model.engine, formula

    def started(self, event: Started) -> None:
        """Note that it is being computed; the energy of another server is not counted here."""
        self._scored = event.prompt_logprobs is not None
        if self._energy is not None and self._engine != "openai":
            at_ns = self._clock_ns() if event.scheduled_ns is None else event.scheduled_ns
            self._energy.began(self._request_id, at_ns)

    def restart(self) -> None:
        """Forget the model that failed: the record will describe the one that answers."""
        self._engine = self._formula = None
        if self._energy is not None:
            self._energy.ended(self._request_id, None, None)
            self._energy.accepted(self._request_id)

    def note(self, record: RequestRecord) -> dict[str, object]:
        """The fields `work` and `energy` of a record that is complete but for them; once."""
        work = work_of(
            self._formula, record, scored=self._scored, tells_reuse=self._engine == "torch"
        )
        return {"work": work, "energy": self._spent(record)}

    def _spent(self, record: RequestRecord) -> Energy:
        if self._energy is None:
            return Energy()
        end_ns = record.last_ns if record.status == "ok" else None
        return self._energy.ended(self._request_id, record.scheduled_ns, end_ns)
