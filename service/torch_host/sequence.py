"""One request inside the engine loop: what it has read, what it has said, and when."""

from collections.abc import Sequence as Row

from service.core.chat import ChatPrompt, ChatRequest, TextPrompt
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
from service.torch_host.sampling import Choice, Sampler


class Sequence:
    """A request with its token ids, its sampler and its text so far.

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
    ) -> None:
        self.request = request
        self.sampling = request.sampling
        self.request_id = request.request_id
        self.model_id = model_id
        self.prompt_ids = codec.encode(request.prompt)
        check_prompt(self.prompt_ids, vocabulary_tokens=vocabulary_tokens)
        check_sampling(self.sampling, vocabulary_tokens=vocabulary_tokens)
        self.limit_tokens = answer_limit(
            context_tokens=context_tokens,
            prompt_tokens=len(self.prompt_ids),
            max_tokens=self.sampling.max_tokens,
            default_tokens=max_answer_tokens,
        )
        """Most tokens that the answer may have."""
        self.sampler = Sampler(
            self.sampling,
            prompt_ids=self.prompt_ids,
            eos_ids=codec.eos_ids,
            vocabulary_tokens=vocabulary_tokens,
        )
        self.scores_prompt = request.echo and self.sampling.logprobs is not None
        """Whether every prompt token's log-probability is asked for."""
        self.slot: int | None = None
        self.read_tokens = 0
        """Prompt tokens that are in the slot's state."""
        self.token_ids: list[int] = []
        """Tokens sampled so far; all but the last are in the slot's state."""
        self.finish_reason: FinishReason | None = None if self.limit_tokens else "length"
        """Set with the last token; at once where only the prompt's scores are wanted."""
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
        self._prompt_logprobs: list[TokenLogprob] = []
        self._started = False

    def __repr__(self) -> str:
        """Name the request and its counts."""
        return (
            f"<Sequence {self.request_id}: {self.read_tokens} of {len(self.prompt_ids)} prompt "
            f"tokens read, {len(self.token_ids)} of {self.limit_tokens} sampled>"
        )

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt is in the slot's state."""
        return self.read_tokens == len(self.prompt_ids)

    def scheduled(self, now_ns: int, *, others: int) -> None:
        """A step with this request and `others` more begins."""
        if self.scheduled_ns is None:
            self.scheduled_ns = now_ns
        self.co_scheduled = max(self.co_scheduled, others)

    def score_prompt(self, choices: Row[Choice]) -> None:
        """Take the log-probabilities of the next prompt tokens."""
        if not self._prompt_logprobs:
            first = self.prompt_ids[0]
            text = self._codec.token_text(first)
            self._prompt_logprobs.append(TokenLogprob(token_id=first, text=text, logprob=None))
        self._prompt_logprobs += map(self._logprob, choices)

    def started(self) -> Started | None:
        """The first event, once: after the first chunk, or the last if the prompt is scored."""
        if self._started or (self.scores_prompt and not self.prefilled):
            return None
        self._started = True
        assert self.scheduled_ns is not None
        echo = self.request.echo
        return Started(
            queued_ns=self.queued_ns,
            scheduled_ns=self.scheduled_ns,
            prompt_tokens=len(self.prompt_ids),
            prompt_token_ids=tuple(self.prompt_ids) if echo else None,
            prompt_text=self._prompt_text() if echo else None,
            prompt_logprobs=tuple(self._prompt_logprobs) if self.scores_prompt else None,
        )

    def take(self, choice: Choice, at_ns: int) -> Delta:
        """Append a sampled token; sets `finish_reason` if it is the last."""
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
        """The last event; flushes the text that was held back."""
        assert self.finish_reason is not None
        return Finished(
            reason=self.finish_reason,
            text=self._answer.finish(),
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=len(self.token_ids),
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            state=state,
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


def _opens_a_turn(request: ChatRequest) -> bool:
    """Whether the answer is a text of its own rather than the continuation of the prompt's."""
    return isinstance(request.prompt, ChatPrompt) and not request.prompt.continue_final_message
