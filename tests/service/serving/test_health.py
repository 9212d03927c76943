"""Readiness and health are functions of what models and the record writer report."""

import pytest

from model_registry.spec import ModelSpec
from service.core.model_status import ModelStatus
from service.core.ports import Liveness, WriterStats
from service.serving.health import decode_health, health, readiness


def model(name, state, *, engine="torch", **fields):
    spec = ModelSpec(
        id=name, family="ssm", licence="MIT", context_tokens=100, sources=(), engine=engine
    )
    return ModelStatus(
        id=name, spec=spec, variant=None, state=state, requests=0, requests_limit=4, **fields
    )


def writer(**fields):
    counts = dict.fromkeys(WriterStats.__struct_fields__, 0)
    return WriterStats(**(counts | {"healthy": True, "lag_s": 0.0} | fields))


def ready(*models, stats=None, preload=("a",), draining=False):
    found = {each.id: each for each in models}
    return readiness(found, stats or writer(), preload=preload, draining=draining)


DEAD = model("a", "ready", error="the host died", down=True, loads=1)


@pytest.mark.parametrize(
    ("models", "preload", "expected", "reason"),
    [
        ([model("a", "ready")], ["a"], True, "a model is loaded"),
        ([model("a", "unverified"), model("b", "loading")], ["a"], True, "a model is loaded"),
        ([model("a", "loading"), model("b", "unloaded")], ["a"], False, "first model is loading"),
        (
            [model("a", "failed", error="x"), model("b", "loading")],
            ["a", "b"],
            False,
            "first model",
        ),
        ([model("a", "failed", error="x"), model("b", "unloaded")], ["a"], True, "on demand"),
        ([model("a", "loading")], [], True, "on demand"),
        ([model("a", "loading", loads=1)], ["a"], True, "on demand"),
        ([model("a", "unloading", loads=1)], ["a"], True, "on demand"),
        ([model("a", "failed", error="x")], ["a"], False, "no model can be loaded"),
        ([model("a", "unavailable", error="x")], [], False, "no model can be loaded"),
        ([DEAD, model("b", "unloaded")], ["a"], False, "engine is being restarted"),
        ([DEAD, model("b", "unloaded", engine="echo")], ["a"], False, "being restarted"),
        ([DEAD, model("b", "ready", engine="openai")], ["a"], True, "a model is loaded"),
    ],
)
def test_readiness_follows_from_the_models(models, preload, expected, reason):
    """A model answers now, or a request would load it; not while the only engine is down."""
    found = ready(*models, preload=preload)
    assert found.ready is expected
    assert reason in found.reason


@pytest.mark.parametrize("stats", [{"healthy": False}, {"lag_s": 2.5}])
def test_a_service_that_cannot_record_is_not_ready(stats):
    """Nothing is answered unrecorded."""
    found = ready(model("a", "ready"), stats=writer(**stats))
    assert (found.ready, found.reason) == (False, "requests cannot be recorded")


def test_a_service_that_drains_is_not_ready():
    """Whatever is loaded."""
    assert ready(model("a", "ready"), draining=True).reason == "draining"


def test_health_names_degraded_models_but_not_those_that_are_not_here():
    """A file that was never pulled is no fault."""
    models = [DEAD, model("b", "loading"), model("c", "unavailable", error="not here")]
    found = health({each.id: each for each in models}, draining=False, version="1")
    assert (found.status, found.loaded, found.loading) == ("degraded", [], ["b"])
    assert [(each.model, each.error) for each in found.degraded] == [("a", "the host died")]


def test_decoding_is_stalled_if_one_engine_is():
    """The others' steps do not hide it."""
    engines = {
        "a": Liveness(running=2, silent_s=0.1, stalled=False),
        "b": Liveness(running=1, silent_s=70.0, stalled=True),
    }
    found = decode_health(engines)
    assert (found.status, found.running, found.silent_s, found.stalled) == (
        "stalled", 3, 70.0, ["b"],
    )  # fmt: skip
