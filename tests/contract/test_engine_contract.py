"""What every engine promises: the same questions to each."""

import asyncio
from contextlib import aclosing

import pytest

from service.core.chat import ChatPrompt, Message, TextPrompt, TokenPrompt
from service.core.errors import ContextOverflow, InvalidRequest
from service.core.events import Delta, Finished, Started
from service.core.ports import Engine, SplitsText, Tokenizing

GREEDY = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
TEXT = "hello the end, hello the end once more"


def test_started_comes_first_and_finished_last(desk):
    """An answer is Started, Deltas and one Finished."""
    kinds = [type(event) for event in desk.ask(TEXT, max_tokens=6).events]

    assert (kinds[0], kinds[-1]) == (Started, Finished)
    assert set(kinds[1:-1]) == {Delta}


def test_counts_agree(desk):
    """Tokens of the deltas are the tokens counted, and the prompt's are the tokenizer's."""
    answer = desk.ask(TEXT, **GREEDY)
    prompt = ChatPrompt((Message(role="user", content=TEXT),))
    prompt_ids = desk.run(desk.engine.tokenize(prompt, add_special_tokens=True))

    assert answer.finished.completion_tokens == len(answer.token_ids) == 12
    assert answer.finished.prompt_tokens == len(prompt_ids)
    assert answer.started.prompt_tokens in (len(prompt_ids), *(None,) * desk.remote)


def test_stamps_are_in_order(desk):
    """Queued, scheduled and sampled follow one clock; first and last are the deltas' own."""
    answer = desk.ask(TEXT, **GREEDY)
    sampled_ns = [delta.at_ns for delta in answer.deltas]

    scheduled_ns = answer.started.scheduled_ns or answer.finished.scheduled_ns

    assert answer.started.queued_ns <= scheduled_ns <= sampled_ns[0]
    assert sampled_ns == sorted(sampled_ns)
    assert (answer.finished.first_ns, answer.finished.last_ns) == (sampled_ns[0], sampled_ns[-1])


def test_the_text_is_that_of_the_tokens(desk):
    """Deltas and the held-back rest spell the sampled tokens."""
    answer = desk.ask(TEXT, temperature=0.0, max_tokens=30, logit_bias={4: -100.0, 2: -100.0})
    visible = [token for token in answer.token_ids if token > 4]

    text = desk.run(desk.engine.detokenize(visible))
    if desk.drops_unfinished:
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")

    assert answer.text == text


@pytest.mark.parametrize("limit", [1, 9])
def test_max_tokens_ends_an_answer(desk, limit):
    """The answer has that many tokens and says that it was cut."""
    answer = desk.ask(TEXT, max_tokens=limit, ignore_eos=True)

    assert (answer.finished.completion_tokens, answer.finished.reason) == (limit, "length")


def test_min_tokens_is_a_lower_bound(desk):
    """No answer is shorter, whatever the model would say."""
    answers = desk.ask_all(*((TEXT, {"min_tokens": 20, "seed": seed}) for seed in range(4)))

    assert all(answer.finished.completion_tokens >= 20 for answer in answers)


def test_an_answer_without_a_limit_ends_with_the_context(desk):
    """Prompt and answer fill the context and no more."""
    answer = desk.ask(TEXT, ignore_eos=True)
    finished = answer.finished

    assert finished.reason == "length"
    assert finished.prompt_tokens + finished.completion_tokens == (
        desk.engine.model.spec.context_tokens
    )


def test_a_stop_string_cuts_the_text(desk):
    """The text ends before the stop string, in whatever tokens it came."""
    whole = desk.ask(TEXT, **GREEDY).text
    stop = whole[4:7]
    answer = desk.ask(TEXT, **GREEDY, stop=("never said", stop))

    assert answer.text == whole[: whole.index(stop)]
    assert answer.finished.reason == "stop"


def test_a_stop_string_that_does_not_come_changes_nothing(desk):
    """Text that could have begun a stop string is shown in the end."""
    whole = desk.ask(TEXT, **GREEDY).text

    assert desk.ask(TEXT, **GREEDY, stop=(whole[-3:] + "but no more",)).text == whole


def test_a_seed_repeats_an_answer_alone_and_in_company(desk):
    """The same seed gives the same tokens, whoever else is answered."""
    options = {"seed": 7, "temperature": 1.2, "top_p": 0.95, "max_tokens": 16, "ignore_eos": True}
    alone = desk.ask(TEXT, **options).token_ids
    others = (("hello", {"seed": seed, "max_tokens": 5 + seed}) for seed in range(6))
    together = desk.ask_all((TEXT, options), *others, (TEXT, options))

    assert together[0].token_ids == together[-1].token_ids == alone


def test_requests_at_once_are_answered_as_alone(desk):
    """Greedy answers do not depend on company, more requests than slots included."""
    prompts = [TEXT[start:] for start in range(12)]
    alone = [desk.ask(prompt, **GREEDY).token_ids for prompt in prompts]
    together = desk.ask_all(*((prompt, GREEDY) for prompt in prompts))

    assert [answer.token_ids for answer in together] == alone


def test_company_is_counted(desk):
    """Requests that shared a step say with how many others; one alone says none."""
    if desk.remote:
        pytest.skip("another server does not tell who shared its steps")
    four = [(TEXT, {**GREEDY, "max_tokens": 180})] * 4

    # On a busy machine the first may have ended before the last has come: some time all meet.
    assert any(
        max(answer.finished.co_scheduled for answer in desk.ask_all(*four)) == 3 for _ in range(20)
    )
    assert desk.ask(TEXT, **GREEDY).finished.co_scheduled == 0


def test_logprobs_come_with_their_tokens(desk):
    """Each token has its own; alternatives are sorted; the best one's value is the token's own."""
    answer = desk.ask(TEXT, **GREEDY, logprobs=2)
    scored = [token for delta in answer.deltas for token in delta.logprobs]

    assert [token.token_id for token in scored] == answer.token_ids
    for token in scored:
        values = [other.logprob for other in token.top]
        assert values == sorted(values, reverse=True)
        assert (token.top[0].token_id, values[0]) == (token.token_id, token.logprob)
        assert 1 <= len(values) <= 2
        assert token.logprob <= 0


def test_logprobs_without_alternatives(desk):
    """0 asks for the tokens' own values alone; nothing is reported unasked."""
    own = desk.ask(TEXT, **GREEDY, logprobs=0).deltas[0].logprobs[0]

    assert own.top == ()
    assert desk.ask(TEXT, **GREEDY).deltas[0].logprobs is None


def test_an_echoed_prompt_is_scored(desk):
    """Text, tokens and log-probabilities of the prompt come with Started; the first has none."""
    answer = desk.ask(TextPrompt(TEXT), echo=True, logprobs=1, max_tokens=1, temperature=0.0)
    started = answer.started

    assert len(started.prompt_logprobs) == len(started.prompt_token_ids) == started.prompt_tokens
    assert started.prompt_text == TEXT
    assert started.prompt_logprobs[0].logprob is None
    assert all(
        token.logprob == token.top[0].logprob
        for token in started.prompt_logprobs[1:]
        if token.top[0].token_id == token.token_id
    )
    assert all(token.logprob <= token.top[0].logprob for token in started.prompt_logprobs[1:])


def test_tokens_are_answered_as_their_text(desk):
    """A prompt of token ids is the prompt of the text that they spell."""
    ids = desk.run(desk.engine.tokenize(TextPrompt(TEXT), add_special_tokens=True))

    assert desk.ask(TokenPrompt(ids), **GREEDY).text == desk.ask(TextPrompt(TEXT), **GREEDY).text


def test_text_survives_the_tokenizer(desk):
    """Tokens spell the text that they were made of, whatever its characters."""
    text = "hello €😀 \x00 the\n end"
    ids = desk.run(desk.engine.tokenize(TextPrompt(text), add_special_tokens=False))

    assert desk.run(desk.engine.detokenize(ids)) == text


def test_a_token_beyond_the_vocabulary_is_no_text(desk):
    """The error names the field, which once was lost on its way from another process."""
    with pytest.raises(InvalidRequest) as caught:
        desk.run(desk.engine.detokenize([2**52]))

    assert caught.value.param == "tokens"


def test_it_keeps_the_protocols(desk):
    """Every engine of this suite can tokenize and says what it holds."""
    info = desk.run(desk.engine.tokenizer_info())
    engine: Engine = desk.engine

    assert isinstance(engine, Tokenizing)
    assert info.eos_token is None or info.eos_token
    assert desk.slots_used() == 0


@pytest.mark.parametrize("options", [{}, {"max_tokens": 250}])
def test_what_does_not_fit_the_context_is_refused(desk, options):
    """Too long a prompt, or one whose named answer does not fit, overflows in OpenAI's words."""
    text = TEXT * (60 if not options else 1)
    with pytest.raises(ContextOverflow, match="maximum context length is 256 tokens"):
        desk.ask(text, **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("top_p", 0.0), ("logit_bias", {-1: 1.0}), ("max_tokens", -1)],
)
def test_an_impossible_value_fails_its_request_alone(desk, field, value):
    """The error names the field, and the engine answers the next request."""
    with pytest.raises(InvalidRequest) as caught:
        desk.ask(TEXT, **{field: value})

    assert caught.value.param == field
    assert desk.ask(TEXT, **GREEDY).finished.completion_tokens == 12


@pytest.mark.parametrize("prompt", [TokenPrompt(()), TokenPrompt((2**50,)), ChatPrompt(())])
def test_an_impossible_prompt_is_refused(desk, prompt):
    """Empty prompts and unknown tokens are the client's error."""
    with pytest.raises(InvalidRequest):
        desk.ask(prompt)


def test_closing_the_stream_frees_the_slot(desk):
    """A client that leaves in the middle leaves nothing behind."""

    async def leave():
        async with aclosing(desk.stream(TEXT, ignore_eos=True)) as events:
            while not desk.slots_used():
                await anext(events)
        return await desk.idle()

    assert desk.run(leave())
    assert desk.ask(TEXT, **GREEDY).finished.completion_tokens == 12


def test_cancelling_a_waiting_client_frees_the_slot(desk):
    """Clients that are cancelled at any moment leave nothing behind."""

    async def leave():
        tasks = [asyncio.create_task(desk.answer(TEXT, ignore_eos=True)) for _ in range(20)]
        for number, task in enumerate(tasks):
            await asyncio.sleep(0.002 * number)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await desk.idle()

    assert desk.run(leave())


def test_a_stream_that_was_never_read_costs_nothing(desk):
    """A generator that nobody starts can be closed."""

    async def close():
        await desk.stream(TEXT).aclose()
        return await desk.idle()

    assert desk.run(close())


def test_a_split_text_can_be_scored(desk):
    """Its tokens after the start token fill the context it tells; each gets a log-probability."""
    if not isinstance(desk.engine, SplitsText):
        pytest.skip("another server does not tell which bytes its tokens stand for")
    split = desk.run(desk.engine.split(TEXT))
    assert split.begins_bytes[0] == 0
    assert list(split.begins_bytes) == sorted(split.begins_bytes)
    assert split.begins_bytes[-1] < len(TEXT.encode())
    assert desk.run(desk.engine.detokenize(split.token_ids)) == TEXT

    ids = (split.start_id, *(split.token_ids * split.context_tokens))[: split.context_tokens]
    started = desk.ask(TokenPrompt(ids), echo=True, logprobs=0, max_tokens=0).started
    assert len(started.prompt_logprobs) == split.context_tokens
    assert all(score.logprob <= 0 for score in started.prompt_logprobs[1:])


def test_special_tokens_in_a_split_text_are_text(desk):
    """A text that spells one is scored letter by letter, by every engine alike."""
    if not isinstance(desk.engine, SplitsText):
        pytest.skip("another server does not tell which bytes its tokens stand for")
    split = desk.run(desk.engine.split("<|im_end|>"))
    assert len(split.token_ids) > 1
    assert split.start_id not in split.token_ids


def test_the_build_names_the_engine(desk):
    """Records can tell what exactly answered."""
    build = desk.ask(TEXT, max_tokens=1).finished.build

    assert build.engine in ("echo", "torch", "triptych", "vllm")
    assert build.engine_version
    assert build.kernel_path
