"""`triptych experiment` against a running service."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from service.cli.experiment.plan_file import read_plan, read_prompts
from service.cli.main import main
from support.live_service import live, serve

__all__ = ["live", "serve"]

EXAMPLE = Path(__file__).parents[4] / "docs" / "examples" / "trio.toml"
PLAN = """
name = "two models"
repetitions = {repetitions}
arms = [{{ model = "{model}" }}, {{ model = "other" }}]
prompts = {{ kind = "synthetic", context_tokens = [8, 16], new_tokens = 3 }}
"""


def plan_file(folder, *, model="echo", repetitions=1):
    path = folder / "plan.toml"
    path.write_text(PLAN.format(model=model, repetitions=repetitions))
    return str(path)


def triptych(live, *words):
    return CliRunner().invoke(main, ["experiment", *words, "--url", live.base_url])


def test_a_plan_is_run_to_its_end(live, tmp_path):
    """The id is printed first, then the medians of each arm and context."""
    done = triptych(live, "run", plan_file(tmp_path))

    assert done.exit_code == 0, done.output
    experiment_id = done.stdout.splitlines()[0]
    assert live.get(f"/v1/experiments/{experiment_id}").json()["state"] == "done"
    assert "medians" in done.stdout
    assert [line.split()[:3] for line in done.stdout.splitlines() if line.startswith(" other")] == [
        ["other", "8", "1"],
        ["other", "16", "1"],
    ]


def test_a_report_is_written_in_the_form_of_its_suffix(live, tmp_path):
    """With the run, or later; to a file, or printed as Markdown."""
    page, later = tmp_path / "report.html", tmp_path / "report.json"
    done = triptych(live, "run", plan_file(tmp_path), "--report", str(page))
    experiment_id = done.stdout.splitlines()[0]

    assert page.read_text().lower().startswith("<!doctype html>")
    assert triptych(live, "report", experiment_id, "-o", str(later)).exit_code == 0
    assert [arm["model"] for arm in json.loads(later.read_text())["arms"]] == ["echo", "other"]
    assert triptych(live, "report", experiment_id).stdout.startswith("# ")
    assert triptych(live, "run", plan_file(tmp_path), "--report", "x.pdf").exit_code == 2


def test_experiments_are_listed_shown_and_cancelled(serve, tmp_path):
    """`--detach` returns at once; `show` tells the state, `cancel` ends it."""
    live = serve()
    plan = plan_file(tmp_path, model="slow", repetitions=500)
    experiment_id = triptych(live, "run", plan, "--detach").stdout.strip()

    assert "running" in triptych(live, "list").stdout or "queued" in triptych(live, "list").stdout
    live.until(lambda: live.get(f"/v1/experiments/{experiment_id}").json()["done"] > 1)
    assert triptych(live, "cancel", experiment_id).stdout == "cancelled\n"
    assert "cancelled" in triptych(live, "show", experiment_id).stdout


def test_trials_that_fail_are_an_exit_status(live, tmp_path):
    """`show` has the reasons."""
    done = triptych(live, "run", plan_file(tmp_path, model="broken"))
    experiment_id = done.stdout.splitlines()[0]

    assert done.exit_code == 1
    assert "of its trials failed" in done.stderr
    assert "broken: no memory for it" in triptych(live, "show", experiment_id).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "nobody"), "There is no experiment with this id."),
        (("run", "missing.toml"), "missing.toml: No such file"),
    ],
)
def test_errors_are_one_line(live, words, said):
    """With the reason of the service or of the file."""
    done = triptych(live, *words)

    assert done.exit_code == 1
    assert said in done.stderr


def test_a_service_that_is_not_there_is_named(tmp_path):
    """The error names the address and how to start a service."""
    done = CliRunner().invoke(
        main, ["experiment", "run", plan_file(tmp_path), "--url", "http://127.0.0.1:9"]
    )

    assert done.exit_code == 1
    assert "http://127.0.0.1:9" in done.stderr


def test_ctrl_c_cancels_the_experiment(serve, tmp_path):
    """The service is told, and the exit status is 130, as of any interrupted command."""
    live = serve()
    plan = plan_file(tmp_path, model="slow", repetitions=500)
    command = [sys.executable, "-m", "service", "experiment", "run", plan, "--url", live.base_url]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        live.until(lambda: any(e["done"] > 1 for e in live.get("/v1/experiments").json()["data"]))
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    finally:
        running.kill()

    assert running.returncode == 130
    assert "cancelled after" in errors
    assert live.get("/v1/experiments").json()["data"][0]["state"] == "cancelled"


def test_the_shipped_example_is_a_valid_plan():
    """Three families, from 64 to 1,536 tokens."""
    plan = read_plan(EXAMPLE)

    assert [arm.model.removeprefix("reference-") for arm in plan.arms] == [
        "transformer", "ssm", "hybrid",
    ]  # fmt: skip
    assert plan.prompts.context_tokens == (64, 128, 256, 512, 1024, 1536)


def test_prompts_of_a_file_are_read_beside_the_plan(tmp_path):
    """JSON lines of texts, messages or objects; each line of other files is a text."""
    messages = [{"role": "user", "content": "two"}]
    lines = ["one", messages, {"messages": messages, "id": "x"}, {"text": "three"}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    (tmp_path / "plan.toml").write_text(
        'name = "p"\narms = [{ model = "m" }]\n'
        'prompts = { kind = "file", path = "prompts.jsonl", new_tokens = 9 }\n'
    )
    plan = read_plan(tmp_path / "plan.toml")

    assert plan.prompts.items == ("one", messages, messages, "three")
    assert plan.prompts.new_tokens == 9
    assert read_prompts(tmp_path / "prompts.txt") == ("one", "two")


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 2: "), ("5", "line 2: "), ('{"id": "x"}', "either `text` or `messages`")],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    """With the file and the number of the line."""
    (tmp_path / "prompts.jsonl").write_text(f'"one"\n{line}\n')

    with pytest.raises(click.ClickException, match=said):
        read_prompts(tmp_path / "prompts.jsonl")
