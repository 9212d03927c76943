"""`triptych compare` against a running service."""

import json
import subprocess
import sys


def compare(*arguments):
    """Run `triptych compare` to its end."""
    command = [sys.executable, "-m", "service", "compare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


ARMS = ("-m", "echo", "-m", "echo-ssm")


def test_it_shows_answers_and_what_they_cost(echo_service):
    """Both answers stand side by side, then the table with its ratios to the first arm."""
    done = compare("one two three", *ARMS, "--url", echo_service.base_url)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("one two three") == 2
    assert "TTFT" in done.stdout
    assert "×)" in done.stdout
    assert "one pair of answers shows no distribution" in done.stdout


def test_json_is_one_document_with_both_records(echo_service):
    """With --json the whole comparison is printed, each arm with the key of its record."""
    done = compare("one two", *ARMS, "--json", "--url", echo_service.base_url)

    arms = json.loads(done.stdout)["arms"]

    assert [arm["model"] for arm in arms] == ["echo", "echo-ssm"]
    assert len({arm["request_id"] for arm in arms}) == 2


def test_an_answer_may_hold_any_line_separator(echo_service):
    """U+2028 and U+0085 end no event; a reader of text lines once broke the JSON at them."""
    done = compare("one\u2028two\u0085three", *ARMS, "--json", "--url", echo_service.base_url)

    assert done.returncode == 0, done.stderr
    assert [arm["text"].strip() for arm in json.loads(done.stdout)["arms"]] == [
        "one\u2028two\u0085three"
    ] * 2


def test_a_model_that_does_not_exist_is_an_error_in_its_column(echo_service):
    """The other arm answers all the same, and the exit status says that one failed."""
    done = compare("one", "-m", "echo", "-m", "nobody", "--url", echo_service.base_url)

    assert done.returncode == 1
    assert "`nobody` does not exist" in done.stdout


def test_a_service_that_is_not_there_is_named(tmp_path):
    """The error names the address and how to start a service."""
    done = compare("one", *ARMS, "--url", "http://127.0.0.1:9")

    assert done.returncode == 1
    assert "triptych serve" in done.stderr


def test_one_model_is_no_comparison():
    """Naming fewer than two models is refused before anything is sent."""
    done = compare("one", "-m", "echo")

    assert done.returncode == 2
    assert "at least two" in done.stderr
