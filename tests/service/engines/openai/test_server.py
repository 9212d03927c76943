"""Addresses of a server are for logs."""

import pytest

from service.engines.openai.server import OpenAiServer


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lost http://inner.example/v1.", "lost …"),
        ("lost 10.1.2.3:8000 and 10.1.2.4", "lost … and …"),
        ("at localhost:8000 or db.inner:5432", "at … or …"),
        ("gpu-box refused; gpu-boxes do", "… refused; gpu-boxes do"),
        ("in /srv/models/x.gguf: no file", "in … no file"),
        ("top_k/top_p must be 3/4", "top_k/top_p must be 3/4"),
        ("maximum context length is 2048 tokens: 1000:2000", None),
        ("vLLM 0.32.0 has no torch.bfloat16", None),
    ],
)
def test_addresses_and_paths_are_hidden_and_nothing_else(text, shown):
    """What a client may use of a message stays."""
    server = OpenAiServer(base_url="http://gpu-box:8000/v1", model="far")

    assert server.hide_addresses(text) == (text if shown is None else shown)


def test_over_a_socket_its_path_is_hidden():
    """The host of the URL is then a word like others."""
    server = OpenAiServer(base_url="http://vllm/v1", model="far", uds="/run/vllm.sock")

    assert server.hide_addresses("vllm at /run/vllm.sock") == "vllm at …"
