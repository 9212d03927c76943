"""Model cards: what chat tools read, from memory, also during a load."""

import time

from service.core.routes.route import Arm, FallbackRoute


def cards(live, path="/v1/models"):
    return {card["id"]: card for card in live.get(path).json()["data"]}


def test_a_card_has_what_clients_read(live):
    """OpenAI's four, vLLM's context, LibreChat's prices, llama.cpp's status."""
    card = cards(live)["echo"]
    assert (card["object"], card["owned_by"], card["root"]) == ("model", "triptych", "echo")
    assert isinstance(card["created"], int)
    assert card["max_model_len"] == card["context_length"] == 4096
    assert card["pricing"] == {"prompt": "0", "completion": "0"}
    assert card["status"]["value"] == "loaded"
    assert (card["family"], card["dtype"]) == ("transformer", "float32")
    assert card["variants"] == ["echo:half"]


def test_every_entry_passes_librechats_schema(live):
    """One entry without a price or a context and it takes none."""
    for card in cards(live).values():
        assert isinstance(card["context_length"], int)
        assert isinstance(card["pricing"]["prompt"], str)
        assert card["name"]


def test_variants_are_entries_with_a_parent(live):
    """Addressed as `model:variant`."""
    card = cards(live)["echo:half"]
    assert (card["parent"], card["root"], card["dtype"]) == ("echo", "echo", "float16")


def test_routes_are_listed_with_their_arms(live):
    """Their context is what every arm can hold."""
    card = cards(live)["half-half"]
    assert card["route"]["policy"] == "weighted"
    arms = [(arm["model"], arm["weight"]) for arm in card["route"]["arms"]]
    assert arms == [("echo", 1.0), ("other", 1.0)]
    assert card["context_length"] == 64


def test_a_route_shows_which_of_its_arms_cannot_be_loaded(live):
    """The route's own `loaded`, of its best arm, hid the broken one."""
    live.chat(model="broken")
    broken, echo = cards(live)["chain"]["route"]["arms"]
    assert (broken["model"], broken["weight"]) == ("broken", None)
    assert (broken["status"]["value"], broken["status"]["failed"]) == ("unloaded", True)
    assert broken["status"]["error"] == "no memory for it"
    assert echo["status"]["value"] == "loaded"


def test_only_what_can_be_served_here_is_listed(live):
    """The catalogue's other models would only clutter a chat tool's menu."""
    assert "phi-3.5-mini-instruct" not in cards(live)
    everything = cards(live, "/v1/models?all=true")
    missing = everything["phi-3.5-mini-instruct"]
    assert (missing["status"]["value"], missing["status"]["state"]) == ("unloaded", "unavailable")
    assert "triptych models pull phi-3.5-mini-instruct" in missing["status"]["error"]


def test_a_route_is_listed_where_one_of_its_arms_can_answer(serve):
    """A chat tool's menu has no entry that could only fail."""
    missing, here = Arm(model="phi-3.5-mini-instruct"), Arm(model="echo")
    live = serve(
        routes={"gone": FallbackRoute(arms=(missing,)), "half": FallbackRoute(arms=(missing, here))}
    )

    assert {"gone", "half"} & set(cards(live)) == {"half"}
    assert {"gone", "half"} <= set(cards(live, "/v1/models?all=true"))


def test_a_card_tells_the_layer_mix(live):
    """From the catalogue's numbers, also for a model that is not here."""
    card = live.get("/v1/models/jamba-1.5-mini").json()
    assert card["family"] == "hybrid"
    assert card["architecture"]["model_type"] == "jamba"
    assert card["architecture"]["layers"]["full_attention"] == 4


def test_there_is_an_alias_at_the_root(live):
    """For tools whose base address has no `/v1`."""
    assert set(cards(live, "/models")) == set(cards(live))


def test_one_model_is_found_by_its_id(live):
    """Also a variant and a route."""
    for name in ("echo", "echo:half", "chain"):
        assert live.get(f"/v1/models/{name}").json()["id"] == name


def test_an_id_with_slashes_is_a_404_of_ours(live):
    """Not of the router: the error names the model."""
    response = live.get("/v1/models/meta-llama/Llama-3")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_the_list_is_quick_during_a_load(serve):
    """It waits for nothing, and says that the model is loading."""
    live = serve(preload=("echo", "heavy"), probe=False)
    started = time.monotonic()
    status = cards(live)["heavy"]["status"]
    assert time.monotonic() - started < 0.5
    assert (status["value"], status["state"]) == ("loading", "loading")
    live.until(lambda: cards(live)["heavy"]["status"]["value"] == "loaded")


def test_a_failed_load_is_on_the_card(live):
    """With the reason."""
    assert live.chat(model="broken").status_code == 424
    status = cards(live)["broken"]["status"]
    assert (status["value"], status["state"], status["failed"]) == ("unloaded", "failed", True)
    assert status["error"] == "no memory for it"


def test_a_probed_model_says_so(live):
    """Verified, with what the probe found."""
    card = cards(live)["echo"]
    assert card["verified"] is True
    assert card["verification"] == "copies agree; alone and together agree"


def test_a_model_that_failed_its_probe_is_served_unverified(live):
    """An engine that fails in every answer cannot pass."""
    live.chat(model="dead")
    card = cards(live)["dead"]
    assert (card["status"]["state"], card["verified"]) == ("unverified", False)


def test_a_model_whose_engine_is_in_trouble_is_not_loaded(serve):
    """Its host died: the card says why, and health is degraded."""
    live = serve()
    live.application.pool.models["echo"].engine.trouble = lambda: "the host restarts"
    status = cards(live)["echo"]["status"]
    assert (status["value"], status["error"]) == ("unloaded", "the host restarts")
    assert live.get("/health").json()["status"] == "degraded"
