"""Sampling against plain formulas, vLLM's order and transformers' own processors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from service.core.chat.sampling import Sampling
from service.torch_host.sampling import draw
from service.torch_host.sampling.choice import choose, score
from service.torch_host.sampling.largest import largest
from service.torch_host.sampling.sampler import Sampler
from service.torch_host.sampling.token_counts import TokenCounts

VOCABULARY = 1300  # more than the candidates that are looked at first
DRAWS = 4000


def sampler(prompt=(), eos=(), vocabulary=VOCABULARY, **options):
    return Sampler(
        Sampling(**options), prompt_ids=prompt, eos_ids=eos, vocabulary_tokens=vocabulary
    )


def logits(rows=1, seed=0, scale=3.0, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator) * scale


def chosen(row, *samplers):
    """Tokens that samplers choose from copies of one row."""
    return [choice.token_id for choice in choose(row.repeat(len(samplers), 1), samplers)]


def frequencies(row, draws=DRAWS, **options):
    """How often each token is sampled from one row."""
    counts = torch.zeros(row.shape[-1])
    for seed in range(0, draws, 100):
        samplers = [sampler(vocabulary=row.shape[-1], seed=seed + i, **options) for i in range(100)]
        for token in chosen(row, *samplers):
            counts[token] += 1
    return counts


def transformers_distribution(row, processors, prompt=(0,)):
    """Probabilities of transformers' processors for one row."""
    processed = LogitsProcessorList(processors)(torch.tensor([list(prompt)]), row.clone())
    return processed.softmax(-1)[0]


FILTERS = {
    "top_k": ({"top_k": 20}, [TopKLogitsWarper(20)]),
    "top_p": ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
    "min_p": ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
    "all": (
        {"temperature": 1.7, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
        [
            TemperatureLogitsWarper(1.7),
            MinPLogitsWarper(0.02),
            TopKLogitsWarper(50),
            TopPLogitsWarper(0.9),
        ],
    ),
    "flat top_p": ({"temperature": 8.0, "top_p": 0.95}, [
        TemperatureLogitsWarper(8.0), TopPLogitsWarper(0.95)]),
    "wide top_k": ({"temperature": 8.0, "top_k": 400}, [
        TemperatureLogitsWarper(8.0), TopKLogitsWarper(400)]),
}  # fmt: skip


def shares(row, draws=4000, **options):
    """The share of evenly spaced random numbers over which each token is drawn."""
    each = sampler(seed=0, vocabulary=row.shape[-1], **options)
    grid = [(i + 0.5) / draws for i in range(draws)]
    drawn = torch.zeros(row.shape[-1])
    for start in range(0, draws, 1000):
        numbers = iter(grid[start : start + 1000])
        each.draw = lambda numbers=numbers: next(numbers)
        tokens = chosen(row, *[each] * min(1000, draws - start))
        drawn += torch.bincount(torch.tensor(tokens), minlength=row.shape[-1])
    return drawn / draws


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_what_those_of_transformers_keep(name):
    """Each token is drawn over its own share of the random numbers, by the same filters."""
    options, processors = FILTERS[name]
    row = logits(seed=3)
    expected = transformers_distribution(row, processors)
    found = shares(row, **options)

    assert found[expected == 0].sum() == 0
    assert (found - expected).abs().max() < 2 / 4000 + 1e-5


def vllm_distribution(row, *, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0):
    """Probabilities in vLLM's order, from its description: temperature, min-p, top-k, top-p.

    min-p removes tokens whose probability is below its share of the largest. top-k keeps the k
    largest. top-p removes the least likely tokens whose probabilities, of what is left by then, sum
    to no more than 1 - p, and never the likeliest.
    """
    probabilities = (row.double() / temperature).softmax(-1)[0]
    probabilities[probabilities < min_p * probabilities.max()] = 0
    order = probabilities.argsort(descending=True)
    if top_k is not None:
        probabilities[order[top_k:]] = 0
    probabilities /= probabilities.sum()
    ascending = order.flip(0)
    removed = probabilities[ascending].cumsum(0) <= 1 - top_p
    removed[-1] = False
    probabilities[ascending[removed]] = 0
    return probabilities / probabilities.sum()


def test_min_p_comes_before_top_p():
    """Top-p is a share of what min-p left: of 0.4, 0.3, 0.2, 0.1, its three make 0.44, 0.33, 0.22.

    Regression: min-p came last, and of these the third token was kept too.
    """
    row = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    found = shares(row, draws=1000, min_p=0.45, top_p=0.75)

    assert found.tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=2e-3)


@settings(deadline=None, max_examples=60)
@given(
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.none() | st.integers(1, 300),
    top_p=st.floats(0.1, 1.0),
    min_p=st.sampled_from([0.0, 0.001, 0.02, 0.2, 0.7]),
    seed=st.integers(0, 50),
)
def test_filters_apply_in_the_order_of_vllm(temperature, top_k, top_p, min_p, seed):
    """Any of them together, in a vocabulary larger than the candidates that are looked at first."""
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    row = logits(seed=seed, vocabulary=200)
    expected = vllm_distribution(row, **options)
    found = shares(row, draws=2000, **options).double()

    assert (found - expected).abs().max() < 2 / 2000 + 1e-5


def test_frequencies_follow_the_softmax():
    """Seeded streams sample a row's softmax: chi-square within its 99.9 % quantile."""
    row = logits(seed=5, vocabulary=12, scale=1.0)
    expected = row.softmax(-1)[0] * DRAWS
    chi_square = ((frequencies(row) - expected) ** 2 / expected).sum()

    assert chi_square < 31.26  # 11 degrees of freedom


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 3), st.integers(1, 3000), st.floats(0, 1), st.integers(0, 100))
def test_the_largest_of_a_row_are_those_of_topk(rows, vocabulary, share, seed):
    """Any rows and counts, also where the vocabulary is no multiple of what shares a maximum."""
    values = logits(rows=rows, seed=seed, vocabulary=vocabulary)
    count = round(share**3 * vocabulary)
    found, expected = largest(values, count), values.topk(count)

    assert torch.equal(found[0], expected.values)
    assert torch.equal(found[1], expected.indices)


@pytest.mark.parametrize("vocabulary", [5, 128, 300, 1300])
def test_a_draw_from_the_whole_vocabulary_has_its_share(vocabulary):
    """Each token is drawn over its own share of the random numbers, in vocabularies of any size."""
    row = logits(seed=9, scale=1.0, vocabulary=vocabulary)
    row[0, 1::7] = -torch.inf
    grid = [(i + 0.5) / 8000 for i in range(8000)]
    each = sampler(temperature=0.8, vocabulary=vocabulary)
    draws = iter(grid)
    each.draw = lambda: next(draws)
    drawn = torch.bincount(torch.tensor(chosen(row, *[each] * 8000)), minlength=vocabulary)
    expected = (row[0] / 0.8).softmax(-1)

    assert drawn[expected == 0].sum() == 0
    assert (drawn / 8000 - expected).abs().max() < 2 / 8000 + 1e-5


def test_a_token_is_counted_however_many_there_are():
    """Counts grow with the tokens that came, and prompts count each of theirs once."""
    counts = TokenCounts([7, 7, 3])
    for token in [3, *range(100), 99]:
        counts.add(token)
    found = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))

    assert found == dict.fromkeys(range(100), 1.0) | {3: 3.0, 7: 2.0, 99: 2.0}


def test_greedy_takes_the_maximum():
    """Temperature 0, and what is as good as 0, choose the likeliest token."""
    row = logits()

    assert chosen(row, sampler(temperature=0), sampler(temperature=1e-6)) == [row.argmax()] * 2


def test_repetition_penalty_is_that_of_transformers():
    """Tokens of prompt and answer are penalized as in CTRL."""
    row, prompt = logits(seed=8), [int(i) for i in logits(seed=8)[0].topk(5).indices]
    expected = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([prompt]), row.clone())[0]
    each = sampler(prompt=prompt[:4], temperature=0, repetition_penalty=1.8)
    each.observe(prompt[4])
    each.adjust(row[0])

    assert torch.equal(row[0], expected)


def test_frequency_and_presence_count_the_answer_alone():
    """Each sampled token costs its frequency, and its presence once; the prompt costs nothing."""
    row = torch.zeros(1, VOCABULARY)
    each = sampler(prompt=[9], frequency_penalty=0.5, presence_penalty=0.25)
    for token in (3, 3, 4):
        each.observe(token)
    each.adjust(row[0])

    assert {i: row[0, i].item() for i in (3, 4, 9)} == {3: -1.25, 4: -0.75, 9: 0.0}


def test_bias_is_added_before_penalties():
    """A biased token is penalized with its bias, as in vLLM."""
    row = torch.ones(1, VOCABULARY)
    sampler(prompt=[2], logit_bias={2: 3.0}, repetition_penalty=2.0).adjust(row[0])

    assert (row[0, 2], row[0, 1]) == (2.0, 1.0)


def test_the_end_waits_for_the_minimum_length():
    """No end of sequence is sampled before `min_tokens` tokens."""
    row = torch.zeros(1, VOCABULARY)
    row[0, 7] = 50.0
    each = sampler(eos=[7], temperature=0, min_tokens=2)

    assert [chosen(row, each)[0] == 7 for _ in range(4)] == [False, False, True, True]


def test_a_row_that_is_not_finite_is_reported_alone():
    """NaN and infinity make that row None; its neighbours are sampled."""
    rows = logits(rows=3)
    rows[0, 5], rows[2, 9] = math.nan, math.inf
    choices = choose(rows, [sampler(seed=1) for _ in range(3)])

    assert [choice is None for choice in choices] == [True, False, True]


def test_a_model_loading_meanwhile_changes_no_token():
    """Transformers sets torch's process-wide default type to bfloat16 while it builds a model."""
    options = {"temperature": 0.7, "frequency_penalty": 0.001, "logit_bias": {3: 0.3}}
    found = []
    for default in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(default)
        try:
            each = sampler(seed=1, logprobs=0, **options)
            for _ in range(301):
                each.observe(5)
            row = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float32)
            each.adjust(row)
            found.append([row, draw._probabilities(row[None], [each])])
        finally:
            torch.set_default_dtype(torch.float32)

    torch.testing.assert_close(found[1], found[0], atol=0, rtol=0)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"seed": st.integers(0, 10**9)},
            optional={
                "temperature": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
                "top_p": st.floats(0.05, 1.0),
                "top_k": st.integers(1, VOCABULARY),
                "min_p": st.floats(0.0, 0.5),
                "repetition_penalty": st.sampled_from([1.0, 1.3]),
                "frequency_penalty": st.sampled_from([0.0, 0.5]),
                "logit_bias": st.just({3: 5.0}),
                "logprobs": st.integers(0, 3),
            },
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 1000),
)
def test_a_row_is_sampled_the_same_alone_and_in_a_batch(options, seed):
    """Three steps of any mixture equal each request's own, bit for bit in the log-probabilities."""
    together = [sampler(prompt=[1, 2], **each) for each in options]
    alone = [sampler(prompt=[1, 2], **each) for each in options]
    for step in range(3):
        rows = logits(rows=len(options), seed=seed + step)
        singles = [choose(rows[i : i + 1].clone(), [alone[i]])[0] for i in range(len(options))]

        assert choose(rows, together) == singles


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 0.99), st.integers(0, 10**6))
def test_top_p_keeps_the_smallest_set_with_the_mass(top_p, seed):
    """A drawn token lies within the smallest set of likeliest tokens whose mass reaches top-p."""
    row = logits(seed=seed % 17)
    token = chosen(row, sampler(top_p=top_p, seed=seed))[0]
    probabilities = row.double().softmax(-1)[0]
    likelier = probabilities[probabilities > probabilities[token]].sum()

    assert likelier < top_p + 1e-6


@settings(deadline=None, max_examples=60)
@given(st.floats(0.0, 1.0), st.integers(0, 10**6))
def test_min_p_keeps_what_is_near_the_maximum(min_p, seed):
    """A drawn token's probability is at least min-p times the largest."""
    row = logits(seed=seed % 17)
    token = chosen(row, sampler(min_p=min_p, seed=seed))[0]
    probabilities = row.double().softmax(-1)[0]

    assert probabilities[token] >= min_p * probabilities.max() * (1 - 1e-6)


def test_without_a_seed_requests_differ():
    """Unseeded streams are independent: 20 equal draws of 700 tokens would be a miracle."""
    assert len(set(chosen(torch.zeros(1, VOCABULARY), *(sampler() for _ in range(20))))) > 10


def test_extreme_values_stay_finite():
    """Tiny and huge temperatures and filters that keep one token still choose a token."""
    row = logits(scale=30.0)
    best = int(row.argmax())

    assert (
        chosen(row, sampler(temperature=2e-5), sampler(top_p=1e-9), sampler(top_k=1)) == [best] * 3
    )
    assert 0 <= chosen(row, sampler(temperature=1000.0, top_k=10**30))[0] < VOCABULARY


def test_logprobs_are_those_of_the_raw_logits():
    """Temperature, bias and penalties do not change what is reported."""
    row = logits(seed=2)
    expected = row.log_softmax(-1)[0]
    options = {"temperature": 2.0, "logit_bias": {3: 90.0}, "repetition_penalty": 1.5}
    choice = choose(row.clone(), [sampler(seed=1, logprobs=3, **options)])[0]
    top = expected.topk(3)

    assert (choice.token_id, choice.logprob) == (3, expected[3].item())
    assert choice.top == tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def test_the_likeliest_token_is_reported_with_one_value():
    """The chosen token's own log-probability and its entry among the top are the same float."""
    choice = choose(logits(), [sampler(temperature=0, logprobs=1)])[0]

    assert choice.top == ((choice.token_id, choice.logprob),)


def test_given_tokens_are_scored():
    """Scores of a prompt are log-softmax values with the likeliest alternatives."""
    rows = logits(rows=2, seed=4)
    expected = rows.log_softmax(-1)
    scored = score(rows, [5, 6], alternatives=1)

    assert [each.logprob for each in scored] == [expected[0, 5].item(), expected[1, 6].item()]
    assert [each.top[0][0] for each in scored] == rows.argmax(-1).tolist()


def test_candidates_are_enough_or_everything_is_looked_at():
    """The shortcut over the likeliest tokens never changes a draw."""
    row = logits(seed=6, scale=0.3)  # flat: top-p 0.9 keeps more than the candidates
    seeds = range(200)
    options = [{"top_p": 0.9}, {"min_p": 0.5}, {"top_k": 300, "top_p": 0.9}]
    quick = [chosen(row, sampler(seed=s, **each))[0] for s in seeds for each in options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "CANDIDATES", ())
        whole = [chosen(row, sampler(seed=s, **each))[0] for s in seeds for each in options]

    assert quick == whole
