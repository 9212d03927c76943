"""A service of experiments on echo models, with its store in memory."""

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace

import pytest

from service.core.experiments.plan import Arm, Plan, SyntheticPrompts
from service.engines.echo import EchoBehaviour, EchoEngine
from service.serving.experiments.planning import Planning
from service.serving.experiments.service import ExperimentService
from service.serving.gate import Gate
from service.serving.records.report import Reports
from service.serving.scores.service import ScoreService
from service.storage.experiments.memory import MemoryExperimentStore
from service.storage.memory import MemoryRecordStore
from support.bench import Bench


class EchoBench(Bench):
    """A bench whose models are echo engines, with what they have done to requests."""

    behaviours: Mapping[str, EchoBehaviour] = MappingProxyType({})

    def open(self, model):
        """Open an echo engine, with the behaviour that the test chose for the model."""
        return EchoEngine(model, self.behaviours.get(model.spec.id, EchoBehaviour()))


async def _environment():
    return {"cores": 2}


def plan(*models, **fields):
    """Two short contexts, once."""
    values = {
        "name": "p",
        "arms": tuple(Arm(model=model) for model in models or ("one", "two")),
        "prompts": SyntheticPrompts(context_tokens=(4, 8), new_tokens=3),
        "repetitions": 1,
    }
    return Plan(**(values | fields))


@pytest.fixture
async def experiments(tmp_path):
    """Build a service with its parts; closed at the end."""
    services, reports = [], []

    async def build(*, store=None, behaviours=None, max_wait_s=5.0, bench=None, **gate):
        if bench is None:
            bench = EchoBench(tmp_path, gate=Gate(**gate))
        bench.behaviours = behaviours or {}
        store = store or MemoryExperimentStore()
        reports.append(Reports(MemoryRecordStore(), bench.sink))
        planning = Planning(bench.pool, routes=(), max_answer_tokens=100, records=reports[-1])
        service = ExperimentService(
            bench.chat,
            store,
            planning,
            scores=ScoreService(bench.chat),
            environment=_environment,
            max_wait_s=max_wait_s,
        )
        services.append(service)
        await service.start()
        return SimpleNamespace(service=service, bench=bench, store=store)

    yield build
    for service in services:
        await service.aclose()
    for each in reports:
        each.close()


@pytest.fixture
def make_plan():
    """Build a plan."""
    return plan
