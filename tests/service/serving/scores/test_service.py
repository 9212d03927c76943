"""Scores on the path of all requests: records, failures by model, deadlines."""

import asyncio
import time

import pytest

from model_registry.catalog import Catalog, CatalogEntry
from model_registry.spec import ModelSpec
from service.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    UnsupportedField,
)
from service.engines.echo import EchoBehaviour, EchoEngine, encode
from service.serving.gate import Gate
from service.serving.models.pool import Pool
from service.serving.requests.chat import ChatService
from service.serving.requests.recorder import Recorder
from service.serving.routes.router import Router
from service.serving.routes.table import RouteTable
from service.serving.scores.service import ScoreRequest, ScoreService, TextScored
from support.bench import ListSink

SHORT_TOKENS, LONG_TOKENS = 8, 4096


class Echoes:
    """A service of echo models with a long and a short context, and its records."""

    def __init__(self, tmp_path, behaviour=None):
        self.sink = ListSink()
        gate = Gate()
        entries = {
            name: CatalogEntry(
                spec=ModelSpec(
                    id=name,
                    family="transformer",
                    licence="Apache-2.0",
                    context_tokens=context_tokens,
                    sources=(),
                    engine="echo",
                    dtype="float32",
                ),
                file=None,
            )
            for name, context_tokens in (("short", SHORT_TOKENS), ("long", LONG_TOKENS))
        }
        pool = Pool(
            Catalog(entries=entries),
            tmp_path,
            lambda model: EchoEngine(model, behaviour or EchoBehaviour()),
            gate,
            probe=False,
        )
        router = Router(RouteTable({}, pool.models), lambda: pool.statuses)
        self.chat = ChatService(pool, Recorder(self.sink), gate, router)
        self.scores = ScoreService(self.chat)

    async def score(self, *models, texts=("one two three",), **fields):
        return await self.scores.score(
            ScoreRequest(score_id="score-1", models=models, texts=texts, **fields)
        )


@pytest.fixture
def echoes(tmp_path):
    return Echoes(tmp_path)


async def test_every_window_has_a_record(echoes):
    """Records are found by the answer's ids, and say that nothing was generated."""
    found = await echoes.score("long", texts=("one two", "three"))
    (model,) = found.models
    assert {r.request_id for r in echoes.sink.finals} == set(model.total.request_ids)
    assert {(r.endpoint, r.status, r.completion_tokens) for r in echoes.sink.finals} == {
        ("score", "ok", 0)
    }
    assert (model.total.bytes, model.total.tokens, model.total.windows) == (12, 3, 2)
    assert model.total.bits_per_byte == 0  # an echo is certain of every token
    assert echoes.chat.pool.requests == 0


async def test_long_texts_are_cut_alike_for_all_models(echoes):
    """The short context decides, and every byte and token counts once for both."""
    text = "word " * 40
    found = await echoes.score("long", "short", texts=(text,))
    for model in found.models:
        (one,) = model.texts
        assert (one.bytes, one.tokens) == (len(text), len(encode(text)))
        assert one.windows == 10
    assert found.models[0].texts[0].windows == found.models[1].texts[0].windows
    assert [m.window_tokens for m in found.models] == [LONG_TOKENS, SHORT_TOKENS]
    assert max(r.prompt_tokens for r in echoes.sink.finals) <= SHORT_TOKENS


async def test_a_models_failure_is_its_own(echoes):
    """The other model's scores stand; there is no difference to what failed."""
    found = await echoes.score("nobody", "long")
    failed, fine = found.models
    assert (failed.error.code, failed.total, failed.texts) == ("model_not_found", None, ())
    assert fine.error is None
    assert fine.difference is None
    assert fine.total.tokens == len(encode("one two three"))


async def test_differences_are_paired_by_text(echoes):
    """A number a text, model minus first model."""
    found = await echoes.score("long", "short", texts=("a", "b c"))
    assert found.models[0].difference is None
    assert found.models[1].difference.texts == (0.0, 0.0)


async def test_where_every_model_fails_the_error_is_raised(echoes):
    """Rather than an answer without a number."""
    with pytest.raises(ModelNotFound, match="nobody"):
        await echoes.score("nobody")


@pytest.mark.parametrize(
    ("models", "fields", "param"),
    [
        ((), {}, "models"),
        (("long", "long"), {}, "models"),
        (("long",), {"texts": ()}, "texts"),
        (("long",), {"texts": ("a", "")}, "texts[1]"),
    ],
)
async def test_what_cannot_be_scored_is_refused_by_name(echoes, models, fields, param):
    """Nothing is started."""
    with pytest.raises(InvalidRequest) as caught:
        await echoes.score(*models, **fields)
    assert caught.value.param == param
    assert echoes.sink.records == []


async def test_an_engine_that_does_not_tell_its_tokens_is_refused(bench):
    """Scripted engines know no text; so do other servers."""
    with pytest.raises(UnsupportedField, match="another server"):
        await ScoreService(bench().chat).score(
            ScoreRequest(score_id="s", models=("one",), texts=("a",))
        )


async def test_texts_are_told_as_they_are_scored(echoes):
    """An event a text and model before the whole."""
    request = ScoreRequest(score_id="s", models=("long", "short"), texts=("a", "b"))
    events = [event async for event in echoes.scores.run(request)]
    told = [(event.model, event.text) for event in events if isinstance(event, TextScored)]
    assert sorted(told) == [("long", 0), ("long", 1), ("short", 0), ("short", 1)]


async def test_a_deadline_ends_the_whole(echoes):
    """The remaining texts are not scored, and no request is left behind."""
    with pytest.raises(DeadlineExceeded):
        await echoes.score("long", deadline_ns=time.monotonic_ns())
    await asyncio.sleep(0)
    assert echoes.chat.pool.requests == 0


async def test_closing_it_early_cancels_what_runs(tmp_path):
    """A client that hangs up leaves no request and no half-written record."""
    echoes = Echoes(tmp_path)
    request = ScoreRequest(score_id="s", models=("long",), texts=tuple("abcdefghijklmnop"))
    events = echoes.scores.run(request)
    await anext(events)
    await events.aclose()
    assert echoes.chat.pool.requests == 0
    assert {r.request_id for r in echoes.sink.records} == {r.request_id for r in echoes.sink.finals}
