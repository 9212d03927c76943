"""The router is a pure function: same request, same routes, same load, same choice."""

from collections import Counter

import msgspec
import pytest

from model_registry.spec import ModelSpec
from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling, TextPrompt, TokenPrompt
from service.core.errors import ModelNotFound
from service.core.model_status import ModelStatus
from service.core.routes.curves import NoCurves
from service.core.routes.decision import read_inputs
from service.core.routes.route import Arm, FallbackRoute, WeightedRoute
from service.serving.routes.gather import estimated_tokens
from service.serving.routes.policies import decide
from service.serving.routes.router import Router


def status(name, **changes):
    spec = ModelSpec(
        id=name, family="ssm", licence="MIT", context_tokens=100, sources=(), engine="echo"
    )
    known = {"state": "ready", "requests": 0, "requests_limit": 4}
    return ModelStatus(id=name, spec=spec, variant=None, **(known | changes))


def request(model, text="hi", **fields):
    return ChatRequest(
        request_id="r", model=model, prompt=TextPrompt(text), accepted_ns=0, accepted_at_ns=0,
        **fields,
    )  # fmt: skip


def choose(request, routes, models, **options):
    return Router(routes, lambda: models).choose(request, **options)


MODELS = {name: status(name) for name in ("a", "b", "c")}
HALVES = {"both": WeightedRoute(arms=(Arm(model="a", weight=1), Arm(model="b", weight=3)))}
CHAIN = {"chain": FallbackRoute(arms=(Arm(model="a"), Arm(model="b"), Arm(model="c")))}


def test_a_model_is_its_own_choice():
    """A request that names a model gets it, with the reason."""
    choice = choose(request("a"), {}, MODELS, random=0)
    assert (choice.arms, choice.policy) == (("a",), "direct")


def test_an_unknown_model_is_refused_by_name():
    """The error names the parameter at fault."""
    with pytest.raises(ModelNotFound, match="`nobody` does not exist") as caught:
        choose(request("nobody"), CHAIN, MODELS, random=0)
    assert caught.value.param == "model"


def test_a_weighted_route_draws_by_weight():
    """Shares of the random number are the weights."""
    drawn = Counter(
        choose(request("both"), HALVES, MODELS, random=step / 100).arms[0] for step in range(100)
    )
    assert drawn == {"a": 25, "b": 75}


def test_a_sticky_client_stays_on_its_arm():
    """The random number does not matter to a client with a key."""
    arms = {
        choose(request("both", sticky_key="ann"), HALVES, MODELS, random=step / 10).arms
        for step in range(10)
    }
    assert len(arms) == 1


def test_sticky_clients_spread_by_weight():
    """Of many keys, each arm gets its share within 3 standard deviations."""
    drawn = Counter(
        choose(request("both", sticky_key=f"user {n}"), HALVES, MODELS, random=0).arms[0]
        for n in range(2000)
    )
    assert abs(drawn["a"] - 500) < 3 * (2000 * 0.25 * 0.75) ** 0.5


def test_a_new_arm_moves_only_the_clients_that_it_gains():
    """Rendezvous hashing: nobody moves between the old arms."""
    more = {"both": WeightedRoute(arms=(*HALVES["both"].arms, Arm(model="c")))}
    keys = [request("both", sticky_key=f"user {n}") for n in range(300)]
    before = [choose(key, HALVES, MODELS, random=0).arms[0] for key in keys]
    after = [choose(key, more, MODELS, random=0).arms[0] for key in keys]
    assert {new for old, new in zip(before, after, strict=True) if new != old} == {"c"}


def test_the_reason_never_shows_the_key():
    """Records must not carry a user's id in words."""
    choice = choose(request("both", sticky_key="ann@example.org"), HALVES, MODELS, random=0)
    assert choice.reason == "sticky"


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"state": "failed", "error": "x", "retry_after_s": 9.0}, "failed to load"),
        ({"state": "unavailable", "error": "x"}, "not on this machine"),
        ({"error": "host died"}, "cannot answer now"),
        ({"requests": 4}, "queue full"),
    ],
)
def test_fallback_passes_over_an_arm_in_trouble(trouble, reason):
    """The arm is tried last instead of first, and the reason says why."""
    choice = choose(request("chain"), CHAIN, MODELS | {"a": status("a", **trouble)}, random=0)
    assert choice.arms == ("b", "c", "a")
    assert choice.reason == f"a: {reason}"


@pytest.mark.parametrize("sticky_key", [None, "ann", "bob", "eve"])
@pytest.mark.parametrize(
    ("trouble", "resting", "reason"),
    [
        ({"state": "failed", "error": "x", "retry_after_s": 9.0}, {}, "failed to load"),
        ({"state": "unavailable", "error": "x"}, {}, "not on this machine"),
        ({"error": "host died"}, {}, "cannot answer now"),
        ({}, {"b": "engine_failed"}, "failed lately (engine_failed)"),
    ],
)
def test_a_weighted_route_leaves_out_an_arm_that_cannot_answer(
    sticky_key, trouble, resting, reason
):
    """It went on to send it its share of the requests, all of which failed."""
    models = MODELS | {"b": status("b", **trouble)}
    for step in range(10):
        asked = request("both", sticky_key=sticky_key)
        choice = choose(asked, HALVES, models, random=step / 10, resting=resting)
        assert choice.arms == ("a",)
        assert choice.reason.endswith(f"; b: {reason}")


def test_a_weighted_route_none_of_whose_arms_can_answer_tries_one():
    """Its error tells more than an empty route."""
    resting = {"a": "model_not_ready", "b": "model_not_ready"}
    assert choose(request("both"), HALVES, MODELS, random=0.9, resting=resting).arms == ("b",)


def test_fallback_tries_an_arm_that_failed_lately_last():
    """As one in trouble."""
    choice = choose(request("chain"), CHAIN, MODELS, random=0, resting={"a": "engine_died"})
    assert choice.arms == ("b", "c", "a")
    assert choice.reason == "a: failed lately (engine_died)"


def test_fallback_tries_a_failed_arm_again_after_its_rest():
    """A failed load is not held against a model for ever."""
    rested = status("a", state="failed", error="x", retry_after_s=None)
    assert choose(request("chain"), CHAIN, MODELS | {"a": rested}, random=0).arms[0] == "a"


def test_fallback_skips_a_context_that_is_too_small():
    """800 bytes are about 200 tokens, more than 100."""
    big = status("b")
    big = msgspec.structs.replace(big, spec=msgspec.structs.replace(big.spec, context_tokens=1000))
    choice = choose(request("chain", "x" * 800), CHAIN, MODELS | {"b": big}, random=0)
    assert choice.arms == ("b", "a", "c")


def test_fallback_counts_the_answer_that_was_asked_for():
    """A short prompt with a long answer does not fit either."""
    wanted = request("chain", sampling=Sampling(max_tokens=150))
    assert choose(wanted, CHAIN, MODELS, random=0).reason.startswith("a: context too small; b:")


def test_a_healthy_chain_begins_with_its_first_arm():
    """All arms are kept, in their order."""
    choice = choose(request("chain"), CHAIN, MODELS, random=0)
    assert (choice.arms, choice.reason) == (("a", "b", "c"), "first arm")


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (TokenPrompt((1, 2, 3)), 3),
        (TextPrompt("eight by"), 2),
        (ChatPrompt((Message(role="user", content="ab"), Message(role="user", content="cd"))), 1),
    ],
)
def test_prompts_are_estimated_without_a_tokenizer(prompt, tokens):
    """Token ids are counted, text is divided by four bytes."""
    assert estimated_tokens(prompt, "a", NoCurves()) == tokens


@pytest.mark.parametrize("asked", ["both", "chain"])
@pytest.mark.parametrize("sticky_key", [None, "ann"])
def test_a_recorded_decision_can_be_computed_again(asked, sticky_key):
    """From the inputs as JSON alone, without models, clock or random numbers."""
    routes, models = HALVES | CHAIN, MODELS | {"a": status("a", requests=4)}
    choice = choose(request(asked, sticky_key=sticky_key), routes, models, random=0.3)
    inputs = read_inputs(msgspec.json.decode(msgspec.json.encode(choice.inputs)))
    again = decide(inputs.definition, inputs.facts)
    assert (again.arms, again.reason) == (choice.arms, choice.reason)
    assert inputs.arms == choice.arms


def test_inputs_never_show_the_key():
    """They have its hash, which differs from route to route."""
    choice = choose(request("both", sticky_key="ann@example.org"), HALVES, MODELS, random=0)
    assert "ann" not in msgspec.json.encode(choice.inputs).decode()


def test_a_request_that_names_a_model_has_no_inputs():
    """Nothing was decided."""
    assert choose(request("a"), {}, MODELS, random=0).inputs is None
