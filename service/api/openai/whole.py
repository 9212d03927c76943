"""Answers that are sent whole, not streamed."""

import time
from collections.abc import Iterable
from itertools import chain

from msgspec import UNSET, Struct, UnsetType, structs

from service.api.openai.logprobs import chat_logprobs, completion_logprobs
from service.api.openai.schema import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    Usage,
)
from service.api.openai.usage import metrics, timings, usage
from service.core.chat import ChatRequest
from service.core.events import Delta, Finished, Started, TokenLogprob
from service.core.metrics import RequestMetrics
from service.core.record import RequestRecord
from service.serving.requests.answer import Answer


class WholeText(Struct, frozen=True, kw_only=True):
    """Complete answer; what its engine did not report is None."""

    model: str
    """As clients may be told."""
    hidden: bool
    """Nothing may tell which model answered."""
    headers: dict[str, str]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None
    token_ids: tuple[int, ...] | None
    prompt_token_ids: tuple[int, ...] | None
    finished: Finished
    record: RequestRecord
    metrics: RequestMetrics


async def collect(answer: Answer) -> WholeText:
    """Receive all of an answer and close it."""
    async with answer:
        events = [event async for event in answer]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert answer.model is not None
    started = [event for event in events if isinstance(event, Started)]
    deltas = [event for event in events if isinstance(event, Delta)]
    texts = [event.prompt_text or "" for event in started]
    texts += [*(event.text for event in deltas), finished.text]
    scores = [event.prompt_logprobs for event in started] + [event.logprobs for event in deltas]
    ids = [event.token_ids for event in deltas]
    return WholeText(
        model=answer.shown_model or answer.model,
        hidden=answer.choice.hidden,
        headers=served_headers(answer),
        text="".join(texts),
        logprobs=_joined(each for each in scores if each is not None),
        token_ids=None if None in ids else tuple(chain.from_iterable(filter(None, ids))),
        prompt_token_ids=started[0].prompt_token_ids if started else None,
        finished=finished,
        record=answer.record,
        metrics=answer.metrics,
    )


def _joined(scores: Iterable[tuple[TokenLogprob, ...]]) -> tuple[TokenLogprob, ...] | None:
    """Join the parts; None if there is no part."""
    parts = list(scores)
    return tuple(chain.from_iterable(parts)) if parts else None


def served_headers(answer: Answer) -> dict[str, str]:
    """Name the model that answers; left out while a route has not decided."""
    named = {"x-served-model": answer.shown_model} if answer.shown_model else {}
    return {"x-route-policy": answer.choice.policy} | named


def blind_usage(request: ChatRequest, record: RequestRecord) -> Usage | None:
    """Token counts without what only some models have, and the answer's id.

    Chat tools keep the usage with the message: their exports of ratings then tell which answers
    were compared.
    """
    counted = usage(record)
    if counted is None:
        return None
    kind = "chatcmpl" if request.endpoint == "chat" else "cmpl"
    return structs.replace(
        counted, prompt_tokens_details=None, response_id=answer_id(request, kind)
    )


def answer_id(request: ChatRequest, prefix: str) -> str:
    """Make the answer's id: the request's, under the prefix that clients expect."""
    return f"{prefix}-{request.request_id.removeprefix('req-')}"


def chat_completion(
    request: ChatRequest, whole: WholeText, *, token_ids: bool = False
) -> ChatCompletion:
    """Write a chat answer."""
    return ChatCompletion(
        id=answer_id(request, "chatcmpl"),
        created=int(time.time()),
        model=whole.model,
        choices=[
            ChatChoice(
                message=AnswerMessage(content=whole.text),
                finish_reason=whole.finished.reason,
                logprobs=None if whole.logprobs is None else chat_logprobs(whole.logprobs),
                token_ids=_listed(whole.token_ids) if token_ids else UNSET,
            )
        ],
        usage=blind_usage(request, whole.record) if whole.hidden else usage(whole.record),
        metrics=UNSET if whole.hidden else metrics(whole.record, whole.metrics),
        timings=UNSET if whole.hidden else timings(whole.record, whole.metrics),
    )


def completion(
    request: ChatRequest, wholes: list[WholeText], *, token_ids: bool = False
) -> Completion:
    """Write the answers to one or several prompts."""
    single = wholes[0] if len(wholes) == 1 else None
    hidden = any(whole.hidden for whole in wholes)
    measured = single if not hidden else None
    return Completion(
        id=answer_id(request, "cmpl"),
        created=int(time.time()),
        model=wholes[0].model,
        choices=[
            CompletionChoice(
                text=whole.text,
                index=index,
                finish_reason=whole.finished.reason,
                logprobs=None if whole.logprobs is None else completion_logprobs(whole.logprobs),
                metrics=UNSET if single or hidden else metrics(whole.record, whole.metrics),
                token_ids=_listed(whole.token_ids) if token_ids else UNSET,
                prompt_token_ids=_listed(whole.prompt_token_ids) if token_ids else UNSET,
            )
            for index, whole in enumerate(wholes)
        ],
        usage=blind_usage(request, wholes[0].record)
        if hidden and single
        else _summed(usage(whole.record) for whole in wholes),
        metrics=metrics(measured.record, measured.metrics) if measured else UNSET,
        timings=timings(measured.record, measured.metrics) if measured else UNSET,
    )


def _listed(token_ids: tuple[int, ...] | None) -> list[int] | UnsetType:
    """Token ids of the wire; left out if they are unknown."""
    return UNSET if token_ids is None else list(token_ids)


def _summed(usages: Iterable[Usage | None]) -> Usage | None:
    first, *others = usages
    if not others:
        return first
    known = [each for each in (first, *others) if each is not None]
    if len(known) <= len(others):
        return None
    return Usage(
        prompt_tokens=sum(each.prompt_tokens for each in known),
        completion_tokens=sum(each.completion_tokens for each in known),
        total_tokens=sum(each.total_tokens for each in known),
    )
