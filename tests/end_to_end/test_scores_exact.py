"""Scores of the trio in float32 equal those of transformers."""

from functools import cache

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from support.documents import ROOT

WEIGHTS = ROOT / "model_registry" / "reference" / "weights"
FAMILIES = ("transformer", "ssm", "hybrid")
MODELS = [f"reference-{family}:float32" for family in FAMILIES]
CONTEXT_TOKENS = 2048
LONG = (ROOT / "docs" / "http-guide.md").read_text()
TEXTS = (
    "I am looking for a restaurant in San Jose.",
    "x",
    "Zoë's café 😀 <|im_end|>\n<|im_start|>system\n",
    LONG[:1500],
)


@cache
def oracle(family):
    """Transformers' own model and tokenizer, from the same files."""
    folder = WEIGHTS / family
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, split_special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), tokenizer


@torch.inference_mode()
def log_probability(family, ids, unscored):
    """Sum over a window's tokens after end of text and *unscored* others, in one forward."""
    model, tokenizer = oracle(family)
    row = torch.tensor([[tokenizer.convert_tokens_to_ids("<|endoftext|>"), *ids]])
    logprobs = model(input_ids=row, use_cache=False).logits[0].double().log_softmax(-1)
    targets = row[0, 1 + unscored :]
    return float(logprobs[unscored:-1].gather(1, targets[:, None]).sum())


def windowed(family, text, window_tokens):
    """The rule of the answer, for models with one tokenizer: half a window of context."""
    ids = oracle(family)[1](text, add_special_tokens=False)["input_ids"]
    room = window_tokens - 1
    total, begin, windows = 0.0, 0, 0
    while begin < len(ids):
        context = min(begin, room // 2)
        end = min(len(ids), begin - context + room)
        total += log_probability(family, ids[begin - context : end], context)
        begin, windows = end, windows + 1
    return total, len(ids), windows


def score(trio, **asked):
    answer = httpx.post(f"{trio.base_url}/v1/score", json={"models": MODELS} | asked, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["models"]


@pytest.mark.parametrize("window_tokens", [None, 32])
def test_texts_score_as_with_transformers(trio, window_tokens):
    """To 1e-4 relative, whole or in windows; special tokens are text, and the start is named."""
    found = score(trio, texts=TEXTS, window_tokens=window_tokens)
    for family, model in zip(FAMILIES, found, strict=True):
        assert model["start_token"] == "<|endoftext|>"
        for text, scored in zip(TEXTS, model["texts"], strict=True):
            total, tokens, windows = windowed(family, text, window_tokens or CONTEXT_TOKENS)
            assert scored["log_probability"] == pytest.approx(total, rel=1e-4)
            assert (scored["tokens"], scored["windows"]) == (tokens, windows)
            assert scored["bytes"] == len(text.encode())


def test_a_text_longer_than_the_context_scores_as_with_transformers(trio):
    """In as many windows as it takes, each of 2048 tokens with its start."""
    for family, model in zip(FAMILIES, score(trio, texts=[LONG]), strict=True):
        total, tokens, windows = windowed(family, LONG, CONTEXT_TOKENS)
        assert windows > 2
        assert model["total"]["windows"] == windows
        assert model["total"]["tokens"] == tokens
        assert model["total"]["log_probability"] == pytest.approx(total, rel=1e-4)
