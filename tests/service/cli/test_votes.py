"""`triptych votes`: imports an export without its texts, and ranks models."""

import json

import pytest
from click.testing import CliRunner

from service.cli import votes as module
from service.cli.main import main
from support.live_service import live, serve

__all__ = ["live", "serve"]


def feedback(number, rating=1, **changes):
    """A feedback of Open WebUI, with a long conversation in its snapshot."""
    messages = {
        "q": {"content": "a secret " * 5_000},
        "a": {"parentId": "q", "model": "one", "content": "a secret answer"},
        "b": {"parentId": "q", "model": "two", "content": "a secret answer"},
    }
    return {
        "id": f"f{number}", "user_id": "u", "type": "rating", "created_at": number,
        "data": {"rating": rating, "model_id": "one", "sibling_model_ids": ["two"]},
        "meta": {"chat_id": f"c{number}", "message_id": "a", "message_index": 1},
        "snapshot": {"chat": {"chat": {"history": {"messages": {
            key if key == "q" else f"{key}{number}": value for key, value in messages.items()
        }}}}},
    } | changes  # fmt: skip


def run(*words):
    return CliRunner().invoke(main, ["votes", *words])


def written(folder, export):
    file = folder / "export.json"
    file.write_text(json.dumps(export))
    return str(file)


def test_an_export_is_imported_once_and_rated(serve, tmp_path, monkeypatch):
    """In batches; what cannot be used is named. The file is larger than a body may be."""
    monkeypatch.setattr(module, "BATCH", 7)
    live = serve()
    export = [feedback(n, -1 if n == 3 else 1) for n in range(30)] + [{"id": "f", "data": {}}]
    file = written(tmp_path, export)
    first = run("import", file, "--url", live.base_url)
    assert first.exit_code == 0, first.output
    assert "30 votes added, 0 replaced, 0 known already" in first.output
    assert "1 not used: no thumb up or down" in first.output
    again = run("import", file, "--url", live.base_url)
    assert "0 votes added, 0 replaced, 30 known already" in again.output

    rated = run("ratings", "--url", live.base_url)
    assert rated.exit_code == 0, rated.output
    (one,) = [line.split() for line in rated.output.splitlines() if line.startswith(" one ")]
    assert one[-4:] == ["29", "1", "0", "0"]
    assert "cannot rank" not in rated.output
    plain = json.loads(run("ratings", "--json", "--url", live.base_url).output)
    assert plain["models"][0]["model"] == "one"


def test_models_that_votes_cannot_tell_apart_are_not_ranked(serve, tmp_path):
    """It says so."""
    live = serve()
    file = written(tmp_path, [feedback(n, 1 if n % 2 else -1) for n in range(8)])
    run("import", file, "--url", live.base_url)
    assert "cannot rank" in run("ratings", "--url", live.base_url).output


def test_no_text_of_a_conversation_is_sent(tmp_path, monkeypatch):
    """The service gets ids, models and thumbs."""
    sent = []

    def note(*_, json, **__):
        sent.extend(json)
        return {"added": 1, "replaced": 0, "known": 0, "not_counted": {}, "unused": {}}

    monkeypatch.setattr(module, "_call", note)
    assert run("import", written(tmp_path, [feedback(1)])).exit_code == 0
    assert "secret" not in json.dumps(sent)
    assert sent[0]["data"]["rating"] == 1


@pytest.mark.parametrize(
    ("content", "words"), [("{", "is not JSON"), ('{"a": 1}', "no feedback export")]
)
def test_a_file_that_is_no_export_is_refused(tmp_path, content, words):
    """Before anything is sent."""
    file = tmp_path / "export.json"
    file.write_text(content)
    result = run("import", str(file), "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert words in result.output


def test_without_a_service_it_says_how_to_start_one(tmp_path):
    """No traceback."""
    result = run("import", written(tmp_path, []), "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "triptych serve" in result.output
