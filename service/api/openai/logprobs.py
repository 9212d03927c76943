"""Log-probabilities in the two shapes of the OpenAI API."""

from collections.abc import Iterable

from service.api.openai.schema import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob
from service.core.events import TokenLogprob


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> ChatLogprobs:
    """Write log-probabilities in the shape of chats."""
    return ChatLogprobs(
        content=[
            ChatLogprob(
                token=token.text,
                logprob=token.logprob,
                bytes=list(token.text.encode()),
                top_logprobs=[
                    TopLogprob(
                        token=other.text, logprob=other.logprob, bytes=list(other.text.encode())
                    )
                    for other in token.top
                ],
            )
            for token in tokens
            if token.logprob is not None
        ]
    )


def completion_logprobs(tokens: Iterable[TokenLogprob], offset: int = 0) -> CompletionLogprobs:
    """Write them in the shape of completions; *offset* counts characters before the first token."""
    texts: list[str] = []
    offsets: list[int] = []
    chosen: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for token in tokens:
        texts.append(token.text)
        offsets.append(offset)
        offset += len(token.text)
        chosen.append(token.logprob)
        tops.append(None if token.logprob is None else _top(token))
    return CompletionLogprobs(
        tokens=texts, token_logprobs=chosen, top_logprobs=tops, text_offset=offsets
    )


def _top(token: TokenLogprob) -> dict[str, float]:
    """Map texts of the likeliest tokens and the chosen one; of equal texts the likeliest counts.

    lm-eval calls a token greedy if its number equals the largest of these, bit for bit.
    """
    top: dict[str, float] = {}
    for other in token.top:
        top.setdefault(other.text, other.logprob)
    if token.logprob is not None:
        top.setdefault(token.text, token.logprob)
    return top
