"""Errors have one shape, whatever went wrong, and give nothing away."""

import httpx
import pytest

from service.api.errors import problem_of, retry_headers, status_of
from service.core import errors
from service.core.errors import Overloaded, TriptychError


def leaves(kind=TriptychError):
    return [kind] + [leaf for child in kind.__subclasses__() for leaf in leaves(child)]


def assert_shape(response, status):
    """OpenAI's error object, with an id for whoever asks about it."""
    assert response.status_code == status
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"].startswith("req-")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/chat/completions/more", "/v1/models/x"])
def test_an_unknown_path_is_404(live, path):
    """Not the framework's own body."""
    assert_shape(live.get(path), 404)


def test_a_wrong_method_is_405_and_names_the_right_ones(live):
    """With `Allow`."""
    response = live.get("/v1/chat/completions")
    assert_shape(response, 405)
    assert "POST" in response.headers["allow"]


def test_a_body_that_is_too_large_is_413(serve):
    """The operator's limit holds before anything is read."""
    live = serve(max_body_bytes=2048)
    assert_shape(live.chat("x" * 3000), 413)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"null",
        b"[]",
        b'"text"',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "n": 1e400}',
        b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 5000
        + b"]" * 5000 + b"}",
        b'{"model": "echo", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "n": NaN}',
    ],
    ids=lambda body: body[:24].decode("ascii", "replace") or "empty",
)  # fmt: skip
def test_a_body_that_is_no_valid_json_is_400(live, body):
    """Never 500, however it is broken."""
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/compare", "/tokenize"):
        assert_shape(post_raw(live, path, body), 400)


def post_raw(live, path, body):
    headers = {"content-type": "application/json"}
    return httpx.post(live.base_url + path, content=body, headers=headers, timeout=20)


def test_a_model_that_is_not_here_is_404_with_the_command(live):
    """It was 503, and clients tried again in vain."""
    response = live.chat(model="phi-3.5-mini-instruct")
    error = assert_shape(response, 404)
    assert error["code"] == "model_not_pulled"
    assert "triptych models pull phi-3.5-mini-instruct" in error["message"]
    assert "retry-after" not in response.headers
    assert live.record(response.headers["x-request-id"])["error_code"] == "model_not_pulled"


def test_a_failed_load_is_424_with_its_reason(live):
    """It was 503, and clients tried again in vain; when it will work nobody knows."""
    response = live.chat(model="broken")
    assert assert_shape(response, 424)["message"] == "no memory for it"
    assert "retry-after" not in response.headers


def test_a_model_that_can_never_fit_is_400(serve):
    """It was 503, as if room would be found."""
    live = serve(memory_budget=1000)
    response = live.chat(model="huge")
    assert assert_shape(response, 400)["code"] == "does_not_fit"
    assert "retry-after" not in response.headers


def test_a_draining_service_is_503(serve):
    """And `/ready` says so, while `/livez` still answers."""
    live = serve()
    live.call(live.application.pool.drain(0))
    assert assert_shape(live.chat(), 503)["code"] == "draining"
    assert live.get("/ready").status_code == 503
    assert live.get("/health").json()["status"] == "draining"
    refused = live.chat()
    assert refused.headers["retry-after"]
    assert refused.headers["connection"] == "close"
    assert live.get("/livez").status_code == 200


def test_a_bug_is_500_and_shows_nothing_from_inside(serve, caplog):
    """The log has it whole, under the id that the client was given."""
    live = serve()
    engine = live.application.pool.models["echo"].engine
    engine.generate = None  # calling it raises TypeError
    response = live.chat()
    error = assert_shape(response, 500)
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert "NoneType" not in response.text
    assert response.headers["x-request-id"] in caplog.text
    assert live.record(response.headers["x-request-id"])["status"] == "failed"


def test_a_bug_in_a_stream_shows_nothing_either(serve):
    """Also after the first byte."""
    live = serve()
    engine = live.application.pool.models["echo"].engine
    honest = engine._answer

    async def answer(*arguments):
        async for event in honest(*arguments):
            yield event
            if type(event).__name__ == "Delta":
                raise ZeroDivisionError("secret")

    engine._answer = answer
    response = live.chat(stream=True)
    assert response.status_code == 200
    assert "internal_error" in response.text
    assert "secret" not in response.text
    assert "[DONE]" not in response.text


STATUSES = {
    "TriptychError": 500,
    "InvalidRequest": 400,
    "UnsupportedField": 400,
    "ContextOverflow": 400,
    "PoisonedRequest": 400,
    "FeatureDisabled": 403,
    "NotFound": 404,
    "ModelNotFound": 404,
    "ModelNotPulled": 404,
    "ModelUnusable": 404,
    "RequestTimeout": 408,
    "Conflict": 409,
    "Unavailable": 503,
    "Overloaded": 503,
    "MachineBusy": 503,
    "ModelNotReady": 424,
    "DoesNotFit": 400,
    "Draining": 503,
    "ShadowSkipped": 503,
    "ShadowYielded": 503,
    "StoreUnavailable": 503,
    "EngineFailed": 503,
    "EngineDied": 503,
    "DeadlineExceeded": 504,
    "QueryCancelled": 500,
    "ConfigError": 500,
}


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_a_code(kind):
    """A new class has to be entered here, and so thought about."""
    assert status_of(kind("x")) == STATUSES[kind.__name__]
    assert problem_of(kind("x")).code == kind.code


@pytest.mark.parametrize("kind", [errors.ModelNotReady, errors.DoesNotFit])
def test_what_passes_by_itself_is_503_with_the_time(kind):
    """The same errors last where they have no time to try again."""
    error = kind("x", retry_after_s=3)
    assert status_of(error) == 503
    assert retry_headers(error)["retry-after"] == "3"


def test_codes_are_distinct():
    """A code names one class."""
    kinds = leaves()
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_a_time_to_come_back_is_given_in_whole_seconds_and_milliseconds():
    """Never 0 s, and never rounded down."""
    headers = retry_headers(Overloaded("x", retry_after_s=1.2))
    assert headers == {"retry-after": "2", "retry-after-ms": "1200"}


def test_a_dead_engine_may_be_tried_again():
    """Its host comes back; the client's own pause is good enough where none is known."""
    assert retry_headers(errors.EngineFailed("x")) == {}


def test_refusals_of_the_request_itself_have_no_retry_header():
    """Nothing would change."""
    assert retry_headers(errors.InvalidRequest("x")) == {}
