"""Scores of a batch of rows against one row at a time and against generate."""

import pytest
import torch

from model_registry.reference.architectures import new_model
from model_registry.reference.corpus import Message, render_chat
from model_registry.reference.generation import greedy_ids
from model_registry.reference.scoring import bits_per_byte, greedy_accuracy, log_probabilities


@pytest.fixture(params=["transformer", "ssm", "hybrid"])
def model(request):
    return new_model(request.param, 0).eval()


def test_padding_changes_no_score(model):
    """A row scores in a batch with longer ones as it does alone, whatever their order."""
    rows = [[5, 6, 7], list(range(10, 90)), [9, 8]]
    together = log_probabilities(model, rows)
    alone = [log_probabilities(model, [row])[0] for row in rows]
    assert together == pytest.approx(alone, rel=1e-4)


def test_skipped_tokens_are_context_only(model):
    """The chain rule: a row's score is its beginning's plus the rest's given the beginning."""
    row = list(range(20, 40))
    (whole,) = log_probabilities(model, [row])
    (beginning,) = log_probabilities(model, [row[:12]])
    (rest,) = log_probabilities(model, [row], 12)
    assert beginning + rest == pytest.approx(whole, rel=1e-4)


def test_greedy_accuracy_is_what_generate_says(model, tokenizer):
    """The tokens that generate emits are right, any other answer is wrong."""
    chat = (Message("user", "Hello"),)
    prompt = tokenizer.encode(render_chat(chat) + "<|im_start|>assistant\n").ids
    answer = greedy_ids(model, tokenizer, chat, max_tokens=5)
    other = [*answer[:-1], (answer[-1] + 1) % 2048]
    assert greedy_accuracy(model, [prompt, prompt], [answer, other]) == 0.5


def test_bits_per_byte_of_a_uniform_model():
    """A model that gives each of 256 bytes the same chance needs eight bits a byte."""
    log_probability_nats = 100 * torch.log(torch.tensor(1 / 256)).item()
    assert bits_per_byte(log_probability_nats, 100) == pytest.approx(8)
