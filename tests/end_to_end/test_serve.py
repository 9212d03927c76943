"""`triptych serve` as an operator meets it."""

import signal
import subprocess
import sys

import httpx

BODY = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


def serve(*options):
    """Run `triptych serve` to its end."""
    command = [sys.executable, "-m", "service", "serve", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_start_says_where_and_what(echo_service):
    """The address, the hosted models with their family, and one command to try are printed."""
    output = echo_service.output()

    assert f"listens on {echo_service.base_url}" in output
    assert "echo-ssm" in output
    assert f"curl {echo_service.base_url}/v1/chat/completions" in output


def test_a_taken_port_is_refused_in_one_line(echo_service, tmp_path):
    """The error names the address and the option that helps."""
    port = echo_service.base_url.rpartition(":")[2]

    done = serve("--port", port, "--data-dir", str(tmp_path))

    assert done.returncode == 2
    assert "--port" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_second_service_on_one_data_folder_is_refused(echo_service):
    """It would take the first one's running requests for orphans."""
    done = serve("--port", "0", "--data-dir", str(echo_service.data_dir))

    assert done.returncode == 2
    assert "in use by another service" in done.stderr


def test_a_damaged_log_is_refused_in_one_line(tmp_path):
    """The error names the file and what to do, where there was a traceback."""
    (tmp_path / "records.db").write_bytes(b"not a database, " * 100)

    done = serve("--port", "0", "--data-dir", str(tmp_path), "--preload", "none")

    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("triptych: ")]
    assert "records.db" in line
    assert "move it away" in line
    assert "Traceback" not in done.stderr


def test_an_unknown_model_to_preload_is_refused(tmp_path):
    """The error names the model and the command that lists them."""
    done = serve("--port", "0", "--data-dir", str(tmp_path), "--preload", "no-such-model")

    assert done.returncode == 2
    assert "no-such-model" in done.stderr
    assert "triptych models list" in done.stderr


def test_ctrl_c_ends_with_status_zero(start_service, echo_options):
    """Ctrl-C closes engines and records and leaves nothing behind."""
    service = start_service(*echo_options)
    service.wait_ready()
    httpx.post(f"{service.base_url}/v1/chat/completions", json=BODY).raise_for_status()

    service.process.send_signal(signal.SIGINT)

    assert service.process.wait(20) == 0
    assert "Stopped." in service.output()


def test_an_answer_that_runs_is_finished_before_the_end(start_service, echo_options, tmp_path):
    """SIGTERM lets a running stream end, refuses new requests meanwhile, and the record is ok."""
    (tmp_path / "slow.toml").write_text("slots = 8\ndrain_s = 20\n")
    service = start_service(*echo_options, "--config", str(tmp_path / "slow.toml"))
    service.wait_ready()
    body = {**BODY, "stream": True, "messages": [{"role": "user", "content": "word " * 400}]}
    url = f"{service.base_url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        service.process.terminate()
        rest = list(lines)

    assert service.process.wait(30) == 0
    assert [line for line in rest if line][-1] == "data: [DONE]"
