"""Greedy replies through transformers' own generate, for the card's samples and the tests."""

from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from model_registry.reference.architectures import EOS_TOKEN_ID, PAD_TOKEN_ID
from model_registry.reference.corpus import MESSAGE_START, Message, render_chat


def greedy_ids(
    model: PreTrainedModel, tokenizer: Tokenizer, messages: tuple[Message, ...], max_tokens: int
) -> list[int]:
    """Token ids of the answer, including the end-of-message token if it was generated."""
    prompt = tokenizer.encode(render_chat(messages) + f"{MESSAGE_START}assistant\n").ids
    ids = torch.tensor([prompt])
    generate: Any = model.generate  # its stub refuses PreTrainedModel as self
    output = generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=PAD_TOKEN_ID,
    )
    answer: list[int] = output[0, len(prompt) :].tolist()
    return answer


def greedy_reply(
    model: PreTrainedModel, tokenizer: Tokenizer, messages: tuple[Message, ...]
) -> str:
    """The answer's text, at most 96 tokens."""
    return str(tokenizer.decode(greedy_ids(model, tokenizer, messages, 96)))
