"""The weights that ship: small, readable, and better than chance."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from model_registry.reference.architectures import CONFIGS
from model_registry.reference.checkpoint import WEIGHTS
from model_registry.reference.corpus import Message, render_chat
from model_registry.reference.generation import greedy_reply
from model_registry.reference.scoring import bits_per_byte, log_probabilities

#: Written for this test, so that no model has seen it.
UNSEEN = (
    Message("user", "Could you help me find somewhere to eat in Oakland?"),
    Message("assistant", "Sure. What kind of food do you like?"),
    Message("user", "Something Italian, and not too expensive, please."),
    Message("assistant", "There is a nice Italian restaurant with moderate prices."),
)


@pytest.fixture(params=CONFIGS)
def folder(request):
    return WEIGHTS / request.param


@pytest.fixture
def shipped(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_a_file_is_at_most_eight_megabytes(folder):
    """The repository stays quick to clone."""
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000


def test_all_three_share_a_tokenizer():
    """Differences between the models are not differences of their tokenizers."""
    assert len({(WEIGHTS / name / "tokenizer.json").read_bytes() for name in CONFIGS}) == 1


def test_weights_are_bfloat16(shipped):
    """They ship as they are served."""
    assert {parameter.dtype for parameter in shipped[0].parameters()} == {torch.bfloat16}


def test_a_plain_request_gets_a_reply_of_words(shipped):
    """The greedy reply ends by itself and consists of several known words."""
    reply = greedy_reply(*shipped, (Message("user", "I am looking for a restaurant."),))

    assert len(reply.split()) >= 3
    assert reply.isprintable()
    assert reply.rstrip()[-1] in "?.!"


def test_unseen_dialogue_costs_less_than_two_bits_a_byte(shipped):
    """An untrained model of this vocabulary needs about 2.5 bits a byte or more."""
    model, tokenizer = shipped
    ids = tokenizer.encode(render_chat(UNSEEN)).ids
    size_bytes = sum(len(message.content.encode()) for message in UNSEEN)

    assert bits_per_byte(sum(log_probabilities(model, [ids])), size_bytes) < 2
