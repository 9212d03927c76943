"""Curves are learned from finished requests."""

import msgspec
import pytest

from service.core.events import ModelBuild, StateBytes
from service.core.metrics import derive
from service.core.record import RequestRecord
from service.core.routes.curves import AskedCost
from service.core.work import Energy
from service.serving.routes.costs.curves import WARM_UP_RECORDS, Curves, latest_answers
from service.serving.routes.costs.model_curves import KEPT_PER_OCTAVE
from service.storage.memory import MemoryRecordStore

MS = 1_000_000


def record(tokens, *, prefill_ms=None, tpot_ms=2.0, answer=11, number=0, **changes):
    """A request of a model whose prefill takes 5 ms and 0.1 ms a token."""
    prefill_ms = 5 + tokens / 10 if prefill_ms is None else prefill_ms
    first_ns = round((1 + prefill_ms) * MS)
    known = {
        "request_id": f"r{number}", "phase": "final", "status": "ok", "endpoint": "chat",
        "stream": False, "requested_model": "m", "model": "m", "accepted_at_ns": number,
        "accepted_ns": 0, "queued_ns": 0, "scheduled_ns": MS, "first_ns": first_ns,
        "last_ns": first_ns + round(tpot_ms * (answer - 1) * MS), "prompt_tokens": tokens,
        "completion_tokens": answer, "co_scheduled": 0, "energy": Energy(energy_uj=tokens * 7),
        "state": StateBytes(
            attention_kv_bytes=100 * (tokens + answer), window_kv_bytes=0, ssm_state_bytes=900,
            conv_state_bytes=100, reserved_bytes=10**9,
        ),
    }  # fmt: skip
    return RequestRecord(**(known | changes))


def curves(*records):
    learned = Curves()
    learned.learn(records)
    return learned


def asked(tokens, **changes):
    known = {"prompt_tokens": tokens, "answer_tokens": 11, "others": 0, "slots": 4, "load_ns": 0}
    return AskedCost(**(known | changes))


LENGTHS = (10, 30, 60, 100, 200, 400, 800)


def test_costs_are_predicted_between_and_beyond_the_lengths_that_were_seen():
    """By a line, as these costs were."""
    learned = curves(*map(record, LENGTHS))
    for tokens in (50, 1600):
        found = learned.predict("m", asked(tokens))
        assert found.prefill_ms == pytest.approx(5 + tokens / 10, rel=0.01)
        assert found.tpot_ms == pytest.approx(2, rel=0.01)
        assert found.wait_ms == pytest.approx(1, rel=0.01)
        assert found.state_bytes == pytest.approx(1000 + 100 * (tokens + 11), rel=0.01)
        assert found.energy_uj == pytest.approx(7 * tokens, rel=0.05)


def test_observations_near_a_length_are_counted():
    """Between half and twice as long."""
    learned = curves(*map(record, LENGTHS))
    assert learned.predict("m", asked(100)).near == 3
    assert learned.predict("m", asked(100)).observations == 7
    assert learned.predict("m", asked(5000)).near == 0


def test_an_unknown_model_has_no_prediction():
    """None, not 0."""
    assert curves().predict("m", asked(10)) is None


@pytest.mark.parametrize(
    "changes",
    [{"status": "failed"}, {"cold": True}, {"completion_tokens": None}, {"prompt_tokens": None},
     {"model": None}],
)  # fmt: skip
def test_requests_that_tell_nothing_are_left_out(changes):
    """Failed ones, those that waited for a load, those without lengths."""
    assert curves(record(50, **changes)).predict("m", asked(50)) is None


def test_a_variant_has_curves_of_its_own():
    """It is another model."""
    learned = curves(*(record(tokens, variant="int8") for tokens in LENGTHS))
    assert learned.predict("m", asked(50)) is None
    assert learned.predict("m:int8", asked(50)) is not None


def test_requests_beside_others_cost_more():
    """As those did that shared their steps."""
    alone = [record(tokens) for tokens in LENGTHS]
    beside = [record(tokens, tpot_ms=5.0, co_scheduled=3) for tokens in LENGTHS]
    learned = curves(*alone, *beside)
    assert learned.predict("m", asked(100, others=3)).tpot_ms == pytest.approx(5, rel=0.05)
    assert learned.predict("m", asked(100)).tpot_ms == pytest.approx(2, rel=0.05)


def test_a_full_model_makes_wait_for_a_slot():
    """A quarter of a request's time for each that is ahead of it, with four slots."""
    learned = curves(*(record(100) for _ in range(5)))
    free, full = (learned.predict("m", asked(100, others=others)) for others in (3, 5))
    assert full.wait_ms - free.wait_ms == pytest.approx(2 * (15 + 20) / 4, rel=0.01)


def test_a_model_that_is_not_loaded_makes_wait_for_its_load():
    """None if it was never loaded: nobody knows how long that takes."""
    learned = curves(*map(record, LENGTHS))
    assert learned.predict("m", asked(100, load_ns=500 * MS)).wait_ms == pytest.approx(501)
    assert learned.predict("m", asked(100, load_ns=None)).wait_ms is None


def test_reused_tokens_are_no_prefill():
    """A long prompt that was mostly restored does not make long prompts look cheap."""
    reused = [record(2000, cached_tokens=1900, prefill_ms=15) for _ in range(20)]
    learned = curves(*map(record, LENGTHS), *reused)
    assert learned.predict("m", asked(2000)).prefill_ms == pytest.approx(205, rel=0.02)


def test_a_flood_of_short_prompts_leaves_what_is_known_of_long_ones():
    """Memory is bounded by lengths, not by time alone."""
    learned = curves(*map(record, LENGTHS), *(record(20) for _ in range(5000)))
    found = learned.predict("m", asked(800))
    assert found.observations <= KEPT_PER_OCTAVE + len(LENGTHS)
    assert found.prefill_ms == pytest.approx(85, rel=0.02)


def test_tokens_of_a_text_are_learned_from_requests_to_routes():
    """Which note the bytes of their prompts."""
    inputs = [{"facts": {"prompt_bytes": 3 * tokens}} for tokens in LENGTHS]
    records = [record(n, route_inputs=each) for n, each in zip(LENGTHS, inputs, strict=True)]
    assert curves(*records).prompt_tokens("m", 300) == 100
    assert curves(*map(record, LENGTHS)).prompt_tokens("m", 300) is None


def test_the_typical_answer_is_the_median_of_all_arms():
    """Arms are compared by the same length."""
    learned = curves(record(10, answer=5), record(10, answer=9, model="n"), record(10, answer=50))
    assert learned.answer_tokens(("m", "n")) == 9
    assert learned.answer_tokens(("nobody",)) is None


def test_a_start_learns_from_the_latest_records():
    """A bounded number of them, in the order of time."""
    store = MemoryRecordStore()
    store.write([record(10, number=n) for n in range(WARM_UP_RECORDS + 700)])
    store.write([record(10, number=9999, status="failed", request_id="failed")])
    found = latest_answers(store)
    assert len(found) == WARM_UP_RECORDS
    assert found[-1].accepted_at_ns == WARM_UP_RECORDS + 699
    assert found[0].accepted_at_ns < found[1].accepted_at_ns


def test_observing_a_request_is_learning_from_its_record():
    """The final record, as recorders give it."""
    learned = Curves()
    for tokens in LENGTHS:
        one = record(tokens)
        learned.started(msgspec.structs.replace(one, phase="accepted"))
        learned.generated(one, 11)
        learned.finished(one, derive(one))
    assert learned.predict("m", asked(100)).observations == len(LENGTHS)


def test_another_kernel_or_device_begins_anew():
    """What took long on the old one says nothing of it; new weights of the same shape do not."""
    build = ModelBuild(
        weights_sha256="1", dtype="float32", quantization=None, engine="torch",
        engine_version="1", device="cpu", kernel_path="eager",
    )  # fmt: skip
    old = [record(tokens, prefill_ms=9000, build=build) for tokens in LENGTHS]
    same = [record(100, prefill_ms=9000, build=msgspec.structs.replace(build, weights_sha256="2"))]
    assert curves(*old, *same).predict("m", asked(100)).observations == len(LENGTHS) + 1
    changed = msgspec.structs.replace(build, kernel_path="compiled")
    learned = curves(*old, *(record(tokens, build=changed) for tokens in LENGTHS))
    assert learned.predict("m", asked(100)).observations == len(LENGTHS)
    assert learned.predict("m", asked(100)).prefill_ms == pytest.approx(15, rel=0.02)
