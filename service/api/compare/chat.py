"""Chats to a compare route: all arms' answers in one message, streamed or whole."""

import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from msgspec import structs

from service.api.openai.schema import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionBody,
    ChatCompletionChunk,
    StreamOptions,
    Usage,
)
from service.api.openai.stream import ChatChunks
from service.api.openai.usage import usage
from service.api.openai.whole import answer_id
from service.api.sse import DONE, data
from service.core.chat import ChatPrompt, ChatRequest
from service.core.compare.side_by_side import own_conversation
from service.core.errors import UnsupportedField
from service.core.events import FinishReason
from service.core.ids import new_comparison_id
from service.core.routes.route import CompareRoute
from service.serving.requests.compare import (
    Compared,
    ComparedArm,
    CompareService,
    ComparisonRequest,
)
from service.serving.requests.sections import Sections

#: What one message of several models cannot have.
_REFUSED = ("logprobs", "return_token_ids", "continue_final_message")


def check_fields(body: ChatCompletionBody) -> None:
    """Raise UnsupportedField for what only one model's answer can have."""
    for field in _REFUSED:
        if getattr(body, field):
            raise UnsupportedField(
                f"`{field}` is of one model, and this route answers with several.", param=field
            )
    if body.stream_options and body.stream_options.continuous_usage_stats:
        raise UnsupportedField(
            "`continuous_usage_stats` is of one model, and this route answers with several.",
            param="stream_options.continuous_usage_stats",
        )


def comparison_of(asked: ChatRequest, route: CompareRoute) -> ComparisonRequest:
    """A chat as a comparison of the route's arms, each with its own earlier answers."""
    assert isinstance(asked.prompt, ChatPrompt)
    messages = asked.prompt.messages
    return ComparisonRequest(
        comparison_id=new_comparison_id(),
        request_id=asked.request_id,
        route=asked.model,
        messages=messages,
        arms=tuple(
            ComparedArm(
                model=model,
                sampling=asked.sampling,
                messages=own_conversation(messages, model, route.models),
            )
            for model in route.models
        ),
        mode=route.mode,
        stream=asked.stream,
        client_request_id=asked.client_request_id,
        deadline_ns=asked.deadline_ns,
    )


def compare_headers(comparison: ComparisonRequest) -> dict[str, str]:
    """Name the policy and the comparison."""
    return {"x-route-policy": "compare", "x-comparison-id": comparison.comparison_id}


async def whole_comparison(
    service: CompareService, comparison: ComparisonRequest, asked: ChatRequest
) -> ChatCompletion:
    """All answers and the table of costs as one message."""
    texts, sections = [], Sections()
    async with aclosing(service.run(comparison)) as events:
        async for event in events:
            texts.append(sections.take(event))
    assert isinstance(event, Compared)
    return ChatCompletion(
        id=answer_id(asked, "chatcmpl"),
        created=int(time.time()),
        model=asked.model,
        choices=[
            ChatChoice(
                message=AnswerMessage(content="".join(texts)),
                finish_reason=_reason(event),
                logprobs=None,
            )
        ],
        usage=_usage(event),
    )


async def streamed_comparison(
    service: CompareService,
    comparison: ComparisonRequest,
    asked: ChatRequest,
    options: StreamOptions,
) -> AsyncGenerator[bytes]:
    """Chunks of that message as the arms answer, then usage if asked for, then `[DONE]`."""
    chunks, sections = ChatChunks(asked, asked.model), Sections()
    async with aclosing(service.run(comparison)) as events:
        async for event in events:
            text = sections.take(event)
            if isinstance(event, Compared):
                for chunk in _last(chunks, text, event, options):
                    yield data(chunk)
            elif text:
                yield data(chunks.piece(text, None, None))
    yield DONE


def _last(
    chunks: ChatChunks, text: str, compared: Compared, options: StreamOptions
) -> Iterable[ChatCompletionChunk]:
    yield chunks.piece(text, None, _reason(compared))
    if options.include_usage:
        yield structs.replace(chunks.closing(), usage=_usage(compared))


def _reason(compared: Compared) -> FinishReason:
    """`length` if an arm's answer was cut there."""
    reasons = [arm.record.finish_reason for arm in compared.arms if arm.record is not None]
    return "length" if "length" in reasons else "stop"


def _usage(compared: Compared) -> Usage | None:
    """Tokens of all arms together; None if an arm's are unknown."""
    counts = [usage(arm.record) for arm in compared.arms if arm.record and arm.error is None]
    known = [count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    return Usage(
        prompt_tokens=sum(count.prompt_tokens for count in known),
        completion_tokens=sum(count.completion_tokens for count in known),
        total_tokens=sum(count.total_tokens for count in known),
    )
