"""The next turn of a conversation with the trio: a real service and its prefix cache."""

import httpx
import pytest

from support.waiting import wait_until

TRIO = ("reference-transformer", "reference-ssm", "reference-hybrid")
WORDS = "The old town lies on a hill above the river and its market is open in the morning. "


@pytest.fixture
def ask(trio):
    """Answer a conversation greedily; the answer's text and its record."""
    with httpx.Client(base_url=trio.base_url, timeout=60) as http:

        def answer(model, messages, **fields):
            body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16}
            reply = http.post("/v1/chat/completions", json=body | {"ignore_eos": True} | fields)
            reply.raise_for_status()
            whole = reply.json()
            path = f"/v1/records/{whole['metrics']['request_id']}"
            wait_until(lambda: http.get(path).json()["phase"] == "final")
            record = http.get(path).json()
            told = {**record["prefix"], **record["state"], "cached_tokens": record["cached_tokens"]}
            return whole["choices"][0]["message"]["content"], whole["usage"], told

        yield answer


def user(text):
    return {"role": "user", "content": text}


@pytest.mark.parametrize("model", TRIO)
def test_the_second_turn_continues_the_first(ask, model):
    """Same text as without the cache; what was restored is told in usage, answer and record."""
    first = [user(f"{model}: {WORDS * 6}")]
    text, usage, cold = ask(model, first, cache_salt="second turn")
    second = [*first, {"role": "assistant", "content": text}, user("And in the evening?")]
    warm_text, warm_usage, warm = ask(model, second, cache_salt="second turn")
    whole_text, whole_usage, whole = ask(model, second, prefix_cache=False)

    assert warm_text == whole_text
    cached = warm_usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["prompt_tokens"] - 64 < cached < warm_usage["prompt_tokens"]
    assert warm["cached_tokens"] == cached <= warm["matched_tokens"]
    assert warm["restored_from"] == ("kv" if model == TRIO[0] else "snapshot")
    assert warm["restore_ns"] > 0
    assert warm["saved_prefill_ns"] > 0
    assert warm["cache_miss"] is None
    assert cold["snapshot_bytes"] > 0
    assert (cold["cached_tokens"], cold["cache_miss"]) == (0, "no match")
    assert whole_usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert (whole["cache_miss"], whole["matched_tokens"]) == ("bypassed", None)


@pytest.mark.parametrize("model", TRIO)
def test_a_stranger_never_hits(ask, model):
    """Another salt, or none, restores nothing of it and is not told that it is there.

    Without a salt, the first tokens of the template match those of any chat without one.
    """
    conversation = [user(f"secret {model}: {WORDS * 6}")]
    ask(model, conversation, cache_salt="owner")
    for salt in ({"cache_salt": "stranger"}, {}):
        *_, record = ask(model, conversation, **salt)
        assert record["cached_tokens"] == 0
        assert record["matched_tokens"] <= (4 if salt == {} else 0)
    *_, record = ask(model, conversation, cache_salt="owner")
    assert record["matched_tokens"] > 64


def test_arms_of_a_comparison_compute_their_whole_prompt(trio, ask):
    """Unless it asks for the cache: what was asked before favours no arm."""
    conversation = [user(f"compared: {WORDS * 6}")]
    for model in TRIO[:2]:
        ask(model, conversation)
    body = {"messages": conversation, "arms": [{"model": m} for m in TRIO[:2]], "max_tokens": 4}
    found = []
    for fields in ({}, {"prefix_cache": True}, {"prefix_cache": True}):
        whole = httpx.post(f"{trio.base_url}/v1/compare", json=body | fields, timeout=60).json()
        found.append([arm["metrics"]["cached_tokens"] for arm in whole["arms"]])

    assert found[0] == [0, 0]
    assert all(found[2])


def test_the_memory_and_the_metrics_tell_of_it(trio, ask):
    """Bytes by model within the cap, and counts of tokens, stores and evictions."""
    ask(TRIO[1], [user(f"metrics: {WORDS * 6}")])
    memory = httpx.get(f"{trio.base_url}/v1/memory").json()
    page = httpx.get(f"{trio.base_url}/metrics").text

    held = {model["id"]: model["snapshots_bytes"] for model in memory["models"]}
    assert held[TRIO[1]] > 0
    assert 0 < memory["prefix_cache"]["held_bytes"] <= memory["prefix_cache"]["max_bytes"]
    assert 'triptych_prefix_cache_stores_total{kind="snapshot"}' in page
    assert "triptych_prefix_cache_queries_total" in page
