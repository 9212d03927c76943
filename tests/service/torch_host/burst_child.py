"""An engine loop after a burst of requests: prints resident MiB before, at its end, and later."""

import sys
import threading
import time
from types import SimpleNamespace

import psutil
import torch

from service.core.chat import ChatRequest, Sampling, TokenPrompt
from service.core.events import ModelBuild, ModelMemory, StateBytes
from service.engines.text.codec import TextCodec
from service.engines.torch.protocol.messages import MemoryReport
from service.torch_host.loop import EngineLoop
from service.torch_host.sequence import Sequence
from support import tiny_text

REQUESTS, SLOT_BYTES, LIMIT_S = 24, 6 * 2**20, 15.0


class Model:
    """Only what the loop needs: each slot holds memory, which it frees when it is released."""

    resolved = SimpleNamespace(id="m")
    build = ModelBuild(
        weights_sha256=None,
        dtype="float32",
        quantization=None,
        engine="test",
        engine_version="0",
        device="cpu",
        kernel_path="none",
    )
    context_tokens, vocabulary_tokens, slots_total = 64, 300, REQUESTS

    def __init__(self):
        self.held = {}

    def take(self, **_lengths):
        slot = len(self.held)
        self.held[slot] = torch.ones(SLOT_BYTES, dtype=torch.uint8), torch.ones(100)
        return slot

    def release(self, slot):
        # What stays of a slot keeps the heap from shrinking by itself.
        self.held[slot] = self.held[slot][1]

    def must_restart(self, slot):
        return False

    def prefill(self, slot, token_ids, *, every_logit=False):
        return torch.zeros(self.vocabulary_tokens)

    def decode(self, slots, token_ids):
        return torch.zeros(len(slots), self.vocabulary_tokens)

    def state_bytes(self, slot):
        return StateBytes()

    def memory(self):
        return ModelMemory(slots_used=sum(isinstance(held, tuple) for held in self.held.values()))


def resident():
    return psutil.Process().memory_info().rss // 2**20


def main():
    idle = threading.Event()
    busiest = 0

    def emit(message):
        nonlocal busiest
        busiest = max(busiest, resident())
        if isinstance(message, MemoryReport) and message.memory.slots_used == 0:
            idle.set()

    codec = TextCodec(tiny_text.byte_level(), named={}, template=None, eos_ids=(2,))
    loop = EngineLoop(emit)
    loop.add_model(Model(), chunk_tokens=8)
    before = resident()
    for number in range(REQUESTS):
        request = ChatRequest(
            request_id=str(number),
            model="m",
            prompt=TokenPrompt((5, 6)),
            sampling=Sampling(temperature=0, max_tokens=20, ignore_eos=True),
            accepted_ns=0,
            accepted_at_ns=0,
        )
        loop.submit(
            Sequence(
                request, codec, model_id="m", queued_ns=0, context_tokens=64, vocabulary_tokens=300
            )
        )
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert idle.wait(LIMIT_S)
    kept = resident()
    deadline = time.monotonic() + LIMIT_S
    while resident() > before + 50 and time.monotonic() < deadline:
        time.sleep(0.05)
    sys.stdout.write(f"{before} {busiest} {kept} {resident()}\n")
    loop.stop()
    thread.join()


main()
