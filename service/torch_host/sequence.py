"""Sequence: one request in the engine loop, with its tokens, sampler, text and times."""

from collections.abc import Sequence as Row
from typing import Final

from msgspec import structs

from service.core.chat import ChatPrompt, ChatRequest, TextPrompt
from service.core.errors import InvalidRequest
from service.core.events import (
    Delta,
    Finished,
    FinishReason,
    ModelBuild,
    Started,
    StateBytes,
    TokenAlternative,
    TokenLogprob,
)
from service.engines.limits import answer_limit, check_prompt, check_sampling
from service.engines.text.answer_text import AnswerText
from service.engines.text.codec import TextCodec
from service.torch_host.prefix.reuse import Reuse
from service.torch_host.sampling.choice import Choice
from service.torch_host.sampling.sampler import Sampler

MAX_PROMPT_SCORES: Final = 2**19
"""Most log-probabilities of prompt tokens that one request may ask for: some 100 MB of memory."""


class Sequence:
    """A request with its token ids, sampler and text so far.

    Built outside the loop, since tokenizing a long prompt takes time. Raises InvalidRequest and
    ContextOverflow.
    """

    def __init__(
        self,
        request: ChatRequest,
        codec: TextCodec,
        *,
        model_id: str,
        queued_ns: int,
        context_tokens: int,
        vocabulary_tokens: int,
        max_answer_tokens: int | None = None,
        marks_message: bool = False,
    ) -> None:
        """Tokenize the prompt; *marks_message* also finds where its last message begins."""
        self.request = request
        self.sampling = request.sampling
        self.request_id = request.request_id
        self.model_id = model_id
        self.prompt_ids = codec.encode(request.prompt, context_tokens=context_tokens)
        check_prompt(self.prompt_ids, vocabulary_tokens=vocabulary_tokens)
        check_sampling(self.sampling, vocabulary_tokens=vocabulary_tokens)
        self.limit_tokens = answer_limit(
            context_tokens=context_tokens,
            prompt_tokens=len(self.prompt_ids),
            max_tokens=self.sampling.max_tokens,
            default_tokens=max_answer_tokens,
        )
        """Most tokens of the answer."""
        self.sampler = Sampler(
            self.sampling,
            prompt_ids=self.prompt_ids,
            eos_ids=codec.eos_ids,
            vocabulary_tokens=vocabulary_tokens,
        )
        self.scores_prompt = request.echo and self.sampling.logprobs is not None
        """Whether every prompt token's log-probability is asked for."""
        if self.scores_prompt:
            check_scores(len(self.prompt_ids), self.sampling.logprobs or 0)
        self.reuse = Reuse()
        """Its part in the prefix cache."""
        if marks_message and request.prefix_cache and isinstance(request.prompt, ChatPrompt):
            self.reuse.message_start = codec.message_start(request.prompt, self.prompt_ids)
        self.slot: int | None = None
        self.to_read = self.prompt_ids
        """Tokens to prefill before the next one is sampled: the prompt, or all after a restart."""
        self.read_tokens = 0
        """How many of them are in the slot's state."""
        self.token_ids: list[int] = []
        """Tokens sampled so far; while decoding, all but the last are in the slot's state."""
        self.finish_reason: FinishReason | None = None if self.limit_tokens else "length"
        """Set with the last token; from the start where only the prompt's scores are asked for."""
        self.queued_ns = queued_ns
        self.scheduled_ns: int | None = None
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.co_scheduled = 0
        self._codec = codec
        self._answer = AnswerText(
            self.sampling.stop,
            strip_leading_space=codec.strips_leading_space and _opens_a_turn(request),
        )
        self._scored = False
        self._started = False

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.request_id}: {self.read_tokens} of {len(self.to_read)} tokens "
            f"prefilled, {len(self.token_ids)} of {self.limit_tokens} sampled>"
        )

    @property
    def prefilled(self) -> bool:
        """True if all tokens to prefill are in the slot's state."""
        return self.read_tokens == len(self.to_read)

    @property
    def scoring(self) -> bool:
        """True if the next chunk's tokens are to be scored."""
        return self.scores_prompt and not self._started

    def restart(self) -> None:
        """Prefill prompt and answer again: the slot's state no longer holds for them."""
        self.to_read = [*self.prompt_ids, *self.token_ids]
        self.read_tokens = 0

    def scheduled(self, now_ns: int, *, others: int) -> None:
        """Note the begin of a step with this request and `others` more."""
        if self.scheduled_ns is None:
            self.scheduled_ns = now_ns
        self.co_scheduled = max(self.co_scheduled, others)

    def score_prompt(self, choices: Row[Choice]) -> tuple[TokenLogprob, ...]:
        """Return the scores of the next prompt tokens; the first token has none."""
        scores = tuple(map(self._logprob, choices))
        if self._scored:
            return scores
        self._scored = True
        first = self.prompt_ids[0]
        text = self._codec.token_text(first)
        return TokenLogprob(token_id=first, text=text, logprob=None), *scores

    def started(self) -> Started | None:
        """Return the first event, once: after the first chunk, or the last of a scored prompt."""
        if self._started or (self.scores_prompt and not self.prefilled):
            return None
        self._started = True
        assert self.scheduled_ns is not None
        echo = self.request.echo
        return Started(
            queued_ns=self.queued_ns,
            scheduled_ns=self.scheduled_ns,
            prompt_tokens=len(self.prompt_ids),
            cached_tokens=self.reuse.cached_tokens,
            prefix=self.reuse.told,
            prompt_token_ids=tuple(self.prompt_ids) if echo else None,
            prompt_text=self._prompt_text() if echo else None,
        )

    def take(self, choice: Choice, at_ns: int) -> Delta:
        """Append a sampled token; set `finish_reason` if it is the last."""
        token_id = choice.token_id
        self.token_ids.append(token_id)
        self.first_ns = self.first_ns or at_ns
        self.last_ns = at_ns
        sampled = len(self.token_ids)
        ends = token_id in self._codec.eos_ids and not self.sampling.ignore_eos
        data = b"" if ends else self._codec.token_bytes(token_id)
        text = self._answer.push(data, watch=sampled >= self.sampling.min_tokens)
        if ends or self._answer.stopped:
            self.finish_reason = "stop"
        elif sampled >= self.limit_tokens:
            self.finish_reason = "length"
        scored = self.sampling.logprobs is not None
        return Delta(
            text=text,
            token_ids=(token_id,),
            at_ns=at_ns,
            logprobs=(self._logprob(choice),) if scored else None,
        )

    def finished(self, *, state: StateBytes, build: ModelBuild) -> Finished:
        """Return the last event, with the text that was held back."""
        assert self.finish_reason is not None
        return Finished(
            reason=self.finish_reason,
            text=self._answer.finish(),
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=len(self.token_ids),
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            state=structs.replace(state, snapshot_bytes=self.reuse.snapshot_bytes),
            co_scheduled=self.co_scheduled,
            build=build,
        )

    def _prompt_text(self) -> str:
        prompt = self.request.prompt
        return (
            prompt.text if isinstance(prompt, TextPrompt) else self._codec.decode(self.prompt_ids)
        )

    def _logprob(self, choice: Choice) -> TokenLogprob:
        text = self._codec.token_text
        return TokenLogprob(
            token_id=choice.token_id,
            text=text(choice.token_id),
            logprob=choice.logprob,
            top=tuple(TokenAlternative(id_, text(id_), logprob) for id_, logprob in choice.top),
        )


def check_scores(prompt_tokens: int, alternatives: int) -> None:
    """Raise InvalidRequest for more prompt log-probabilities than a request may have."""
    wanted = prompt_tokens * (1 + alternatives)
    if wanted > MAX_PROMPT_SCORES:
        raise InvalidRequest(
            f"`echo` with `logprobs` asks for {wanted} log-probabilities of the prompt; at most "
            f"{MAX_PROMPT_SCORES} are computed: lower `logprobs` or shorten the prompt.",
            param="logprobs",
        )


def _opens_a_turn(request: ChatRequest) -> bool:
    """True if the answer starts a text rather than continues the prompt's."""
    return isinstance(request.prompt, ChatPrompt) and not request.prompt.continue_final_message
