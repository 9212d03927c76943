"""ScoreService: log-probabilities of texts by several models, on the path of all requests."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from msgspec import Struct

from service.core.chat import ChatRequest, Sampling, TokenPrompt
from service.core.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    TriptychError,
    UnsupportedField,
)
from service.core.events import Started, TokenLogprob
from service.core.ids import new_request_id
from service.core.ports import SplitsText, TextTokens
from service.core.scores.score import (
    ModelScores,
    ScoreError,
    Scores,
    TextScore,
    bits_per_byte,
    difference,
    summed,
)
from service.core.scores.windows import Window, WindowTokens, longest, tokens_of, windows
from service.serving.requests.chat import ChatService

MODELS_AT_MOST: Final = 8
TEXTS_AT_MOST: Final = 1024
AT_ONCE: Final = 8
"""Windows of one model that are scored at once: enough to batch, and others get their turn."""

CONDITIONING: Final = (
    "Every window begins with the model's start token: what its tokenizer puts before a text, else "
    "its beginning of text, else <|endoftext|>, else its end of sequence. Special tokens in a text "
    "are read as plain text. A text that exceeds a model's context, or 32768 tokens, is cut into "
    "windows of the same bytes for all models; each but the first begins with unscored context, "
    "half a window of the model that holds fewest bytes. Every byte is scored once."
)
_SCORING: Final = Sampling(max_tokens=0, logprobs=0)
#: A failure that is the whole request's, not one model's.
_OF_THE_WHOLE = (DeadlineExceeded, Draining)


class ScoreRequest(Struct, frozen=True, kw_only=True):
    """Texts for several models."""

    score_id: str
    models: tuple[str, ...]
    texts: tuple[str, ...]
    window_tokens: int | None = None
    """Longest window in any model's tokens; None: as long as the contexts allow."""
    experiment_id: str | None = None
    client_request_id: str | None = None
    deadline_ns: int | None = None
    """CLOCK_MONOTONIC by which all models have to be done."""


class TextScored(Struct, frozen=True, kw_only=True):
    """One model has scored one text."""

    model: str
    text: int
    """Index in the request."""
    score: TextScore


ScoreEvent = TextScored | ModelScores | Scores


class ScoreService:
    """Scores texts: one prefill a window, recorded like any request."""

    def __init__(
        self,
        chat: ChatService,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._chat = chat
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns

    async def score(self, request: ScoreRequest) -> Scores:
        """Score all texts by all models. Raises as `run` does."""
        async with aclosing(self.run(request)) as events:
            async for event in events:
                if isinstance(event, Scores):
                    return event
        raise AssertionError("scoring ends with its result")

    async def run(self, request: ScoreRequest) -> AsyncGenerator[ScoreEvent]:
        """Yield each text's score as it is known, each model's scores, and the whole at the end.

        A model's failure is its result and stops no other. Closing the generator cancels all.

        Raises:
            InvalidRequest: nothing to score, or too much.
            DeadlineExceeded, Draining: before all models were done.
            TriptychError: the first model's error, where every model failed.
        """
        self._check(request)
        sizes = [len(text.encode()) for text in request.texts]
        tokenized, errors = await self._tokenize(request)
        cuts = [
            windows(
                [tokens[number] for tokens in tokenized.values()],
                size,
                most_tokens=request.window_tokens,
            )
            for number, size in enumerate(sizes)
            if tokenized
        ]
        done: dict[str, ModelScores] = {}
        for model in reversed(tokenized):  # the last to be tokenized is loaded for certain
            run = _ModelRun(model, tokenized[model], cuts, sizes)
            try:
                async with aclosing(self._texts(request, run)) as scored:
                    async for event in scored:
                        yield event
            except _OF_THE_WHOLE:
                raise
            except TriptychError as error:
                errors[model] = error
            else:
                done[model] = run.scores(request.window_tokens)
                yield done[model]
        if not done:
            raise errors[request.models[0]]
        yield _scores(request, done, errors)

    def _check(self, request: ScoreRequest) -> None:
        if not 1 <= len(request.models) <= MODELS_AT_MOST:
            raise InvalidRequest(f"name 1 to {MODELS_AT_MOST} models", param="models")
        if len(set(request.models)) < len(request.models):
            raise InvalidRequest("a model is named twice", param="models")
        if not 1 <= len(request.texts) <= TEXTS_AT_MOST:
            raise InvalidRequest(f"give 1 to {TEXTS_AT_MOST} texts", param="texts")
        for number, text in enumerate(request.texts):
            if not text:
                raise InvalidRequest("an empty text has no score", param=f"texts[{number}]")
        for model in request.models:
            if model in self._chat.router.routes:
                raise InvalidRequest(
                    f"`{model}` is a route; name the models that are to score", param="models"
                )

    # Tokens

    async def _tokenize(
        self, request: ScoreRequest
    ) -> tuple[dict[str, tuple[TextTokens, ...]], dict[str, TriptychError]]:
        """Tokens of all texts by model, or the error that kept a model from it."""
        found: dict[str, tuple[TextTokens, ...]] = {}
        errors: dict[str, TriptychError] = {}
        for model in request.models:
            try:
                async with asyncio.timeout(self._left_s(request)):
                    found[model] = await self._split(model, request.texts)
            except TimeoutError:
                raise _late(request) from None
            except _OF_THE_WHOLE:
                raise
            except TriptychError as error:
                errors[model] = error
        return found, errors

    async def _split(self, model: str, texts: Sequence[str]) -> tuple[TextTokens, ...]:
        with self._chat.pool.admit(model) as lease:
            engine = await lease.ready()
            if not isinstance(engine, SplitsText):
                raise UnsupportedField(
                    f"`{model}` runs on another server, which does not tell which bytes its tokens "
                    "stand for; serve its files here to score with it.",
                    param="models",
                )
            async with self._chat.gate.shared():  # it would disturb an isolated measurement
                found = tuple([await engine.split(text) for text in texts])
        for number, tokens in enumerate(found):
            if not tokens.token_ids:
                raise InvalidRequest(
                    f"`{model}` has no tokens for this text", param=f"texts[{number}]"
                )
            if tokens.start_id is None:
                raise UnsupportedField(
                    f"`{model}` has no token that a text could begin after: no beginning of text, "
                    "end of text or end of sequence.",
                    param="models",
                )
        return found

    def _left_s(self, request: ScoreRequest) -> float | None:
        if request.deadline_ns is None:
            return None
        return max(0.0, (request.deadline_ns - self._clock_ns()) / 1e9)

    # Scores

    async def _texts(self, request: ScoreRequest, run: "_ModelRun") -> AsyncGenerator[TextScored]:
        """Score all texts by one model, some windows at once; yield each text when it is done."""
        at_once = asyncio.Semaphore(AT_ONCE)
        queue: asyncio.Queue[asyncio.Task[TextScored]] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._text(request, run, number, at_once))
            for number in range(len(request.texts))
        ]
        for task in tasks:
            task.add_done_callback(queue.put_nowait)
        try:
            for _ in tasks:
                yield (await queue.get()).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _text(
        self, request: ScoreRequest, run: "_ModelRun", number: int, at_once: asyncio.Semaphore
    ) -> TextScored:
        parts: list[TextScore] = []
        for window, tokens in run.windows(number):
            async with at_once:
                parts.append(await self._window(request, run.model, window, tokens))
        run.texts[number] = summed(parts)
        return TextScored(model=run.model, text=number, score=run.texts[number])

    async def _window(
        self, request: ScoreRequest, model: str, window: Window, tokens: WindowTokens
    ) -> TextScore:
        asked = ChatRequest(
            request_id=new_request_id(),
            model=model,
            prompt=TokenPrompt(tokens.token_ids),
            sampling=_SCORING,
            endpoint="score",
            echo=True,
            prefix_cache=False,  # every token of the prompt is computed, and none is asked again
            client_request_id=request.client_request_id,
            experiment_id=request.experiment_id,
            deadline_ns=request.deadline_ns,
            accepted_ns=self._clock_ns(),
            accepted_at_ns=self._wall_ns(),
        )
        scores: tuple[TokenLogprob, ...] | None = None
        async with self._chat.open(asked) as answer:
            async for event in answer:
                if isinstance(event, Started):
                    scores = event.prompt_logprobs
        if scores is None or len(scores) != len(tokens.token_ids):
            raise EngineFailed(f"The engine of `{model}` did not score every token of the text.")
        logprobs = [score.logprob for score in scores[len(scores) - tokens.scored :]]
        size_bytes = window.end - window.begin
        log_probability = math.fsum(each for each in logprobs if each is not None)
        if None in logprobs or not math.isfinite(log_probability):
            raise EngineFailed(f"`{model}` gave a token no finite log-probability.")
        return TextScore(
            log_probability=log_probability,
            bits_per_byte=bits_per_byte(log_probability, size_bytes),
            bytes=size_bytes,
            tokens=tokens.scored,
            windows=1,
            request_ids=(asked.request_id,),
        )


class _ModelRun:
    """One model's texts and scores so far."""

    def __init__(
        self,
        model: str,
        tokenized: Sequence[TextTokens],
        cuts: Sequence[Sequence[Window]],
        sizes: Sequence[int],
    ) -> None:
        self.model = model
        self.texts: dict[int, TextScore] = {}
        self._tokenized = tokenized
        self._cuts = cuts
        self._sizes = sizes

    def windows(self, number: int) -> list[tuple[Window, WindowTokens]]:
        """Windows of a text, each with this model's tokens."""
        tokens, size = self._tokenized[number], self._sizes[number]
        return [(window, tokens_of(tokens, window, size)) for window in self._cuts[number]]

    def scores(self, window_tokens: int | None) -> ModelScores:
        """All scores, in the order of the request."""
        texts = tuple(self.texts[number] for number in range(len(self._sizes)))
        any_text = self._tokenized[0]
        return ModelScores(
            model=self.model,
            start_token=any_text.start_token,
            window_tokens=longest(any_text, window_tokens),
            texts=texts,
            total=summed(texts),
        )


def _scores(
    request: ScoreRequest, done: Mapping[str, ModelScores], errors: Mapping[str, TriptychError]
) -> Scores:
    found = [done.get(model) or _failed(model, errors[model]) for model in request.models]
    first, *others = found
    return Scores(
        score_id=request.score_id,
        conditioning=CONDITIONING,
        models=(
            first,
            *(
                msgspec.structs.replace(other, difference=difference(other, first))
                for other in others
            ),
        ),
    )


def _failed(model: str, error: TriptychError) -> ModelScores:
    return ModelScores(
        model=model,
        start_token=None,
        texts=(),
        total=None,
        error=ScoreError(code=error.code, message=str(error)),
    )


def _late(request: ScoreRequest) -> DeadlineExceeded:
    return DeadlineExceeded(f"The texts of {request.score_id} were not tokenized in time.")
