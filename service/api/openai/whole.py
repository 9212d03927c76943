"""Answers that are sent whole."""

import time
from collections.abc import Iterable

from msgspec import UNSET, Struct

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
from service.core.record import RequestRecord
from service.serving.requests.chat import Answer


class WholeText(Struct, frozen=True, kw_only=True):
    """An answer that has ended."""

    model: str
    policy: str
    text: str
    logprobs: tuple[TokenLogprob, ...]
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...] | None
    finished: Finished
    record: RequestRecord


async def collect(answer: Answer) -> WholeText:
    """All of an answer; the answer is closed."""
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    token_ids: list[int] = []
    prompt_token_ids: tuple[int, ...] | None = None
    finished: Finished | None = None
    async with answer:
        async for event in answer:
            match event:
                case Started():
                    texts.append(event.prompt_text or "")
                    logprobs.extend(event.prompt_logprobs or ())
                    prompt_token_ids = event.prompt_token_ids
                case Delta():
                    texts.append(event.text)
                    logprobs.extend(event.logprobs or ())
                    token_ids.extend(event.token_ids or ())
                case Finished():
                    texts.append(event.text)
                    finished = event
    assert finished is not None
    assert answer.model is not None
    return WholeText(
        model=answer.model,
        policy=answer.choice.policy,
        text="".join(texts),
        logprobs=tuple(logprobs),
        token_ids=tuple(token_ids),
        prompt_token_ids=prompt_token_ids,
        finished=finished,
        record=answer.record,
    )


def served_headers(model: str | None, policy: str) -> dict[str, str]:
    """Who answered; left out while a route has not settled."""
    return {"x-route-policy": policy} | ({"x-served-model": model} if model else {})


def answer_id(request: ChatRequest, prefix: str) -> str:
    """The answer's id: the request's own, under the prefix that clients expect."""
    return f"{prefix}-{request.request_id.removeprefix('req-')}"


def chat_completion(
    request: ChatRequest, whole: WholeText, *, token_ids: bool = False
) -> ChatCompletion:
    """A chat answer, not streamed."""
    asked = request.sampling.logprobs is not None
    return ChatCompletion(
        id=answer_id(request, "chatcmpl"),
        created=int(time.time()),
        model=whole.model,
        choices=[
            ChatChoice(
                message=AnswerMessage(content=whole.text),
                finish_reason=whole.finished.reason,
                logprobs=chat_logprobs(whole.logprobs) if asked else None,
                token_ids=list(whole.token_ids) if token_ids else UNSET,
            )
        ],
        usage=usage(whole.record),
        metrics=metrics(whole.record),
        timings=timings(whole.record),
    )


def completion(
    request: ChatRequest, wholes: list[WholeText], *, token_ids: bool = False
) -> Completion:
    """Answers to one or several prompts, not streamed."""
    single = wholes[0] if len(wholes) == 1 else None
    asked = request.sampling.logprobs is not None
    return Completion(
        id=answer_id(request, "cmpl"),
        created=int(time.time()),
        model=wholes[0].model,
        choices=[
            CompletionChoice(
                text=whole.text,
                index=index,
                finish_reason=whole.finished.reason,
                logprobs=completion_logprobs(whole.logprobs) if asked else None,
                metrics=UNSET if single else metrics(whole.record),
                token_ids=list(whole.token_ids) if token_ids else UNSET,
                prompt_token_ids=(
                    list(whole.prompt_token_ids) if token_ids and whole.prompt_token_ids else UNSET
                ),
            )
            for index, whole in enumerate(wholes)
        ],
        usage=_summed(usage(whole.record) for whole in wholes),
        metrics=metrics(single.record) if single else UNSET,
        timings=timings(single.record) if single else UNSET,
    )


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
