"""Ours: the torch engine in its host process, asked as the service asks it."""

import asyncio
import json
import os
import random
import tempfile
import time
from pathlib import Path

from options import read_options

from model_registry.spec import ModelSpec, ResolvedModel
from service.core.chat import ChatRequest, Sampling, TokenPrompt
from service.core.events import Delta
from service.core.ids import new_request_id
from service.engines import open_engine
from service.engines.torch_host import TorchHost
from service.telemetry.memory import ProcessProbe

label = "triptych torch engine"


async def measure(path: str, streams: int, prompt_tokens: int, new_tokens: int, dtype: str) -> dict:
    """Decode rate while all streams run: tokens sampled after the last stream's first one."""
    spec = ModelSpec(
        id="benchmark",
        family="transformer",
        licence="none",
        context_tokens=2048,
        sources=(),
        dtype=dtype,
        chat_template="none",
    )
    model = ResolvedModel(spec=spec, variant=None, path=path, weights_sha256=None)
    with tempfile.TemporaryDirectory() as folder:
        host = TorchHost(
            Path(folder), slots=streams, threads=int(os.environ.get("OMP_NUM_THREADS", "0"))
        )
        engine = open_engine(model, torch_host=host)
        begun = time.perf_counter()
        await engine.start()
        load_s = time.perf_counter() - begun
        dice = random.Random(0)

        async def stream(tokens: int) -> list[tuple[int, int]]:
            prompt = TokenPrompt(tuple(dice.randrange(3, 1000) for _ in range(prompt_tokens)))
            request = ChatRequest(
                request_id=new_request_id(),
                model=model.id,
                prompt=prompt,
                sampling=Sampling(temperature=0, max_tokens=tokens, ignore_eos=True),
                endpoint="completion",
                accepted_ns=time.monotonic_ns(),
                accepted_at_ns=time.time_ns(),
            )
            return [
                (event.at_ns, len(event.token_ids))
                async for event in engine.generate(request)
                if isinstance(event, Delta) and event.token_ids
            ]

        await stream(4)  # warm-up
        # Prompts are prefilled one after another, so early streams decode alone at first: the
        # window is where all of them run.
        spare_tokens = 4 * streams
        answers = await asyncio.gather(*(stream(new_tokens + spare_tokens) for _ in range(streams)))
        start_ns = max(answer[0][0] for answer in answers)
        end_ns = min(answer[-1][0] for answer in answers)
        tokens = sum(
            count for answer in answers for at_ns, count in answer if start_ns < at_ns <= end_ns
        )
        pid = host.status.pid
        memory = ProcessProbe(pid).read()
        await engine.aclose()
        versions = host.status.engine_version
        await host.aclose()
    return {
        "label": label,
        "decode_tokens_per_s": tokens * 1e9 / (end_ns - start_ns),
        "load_s": load_s,
        "peak_rss_bytes": memory.peak_rss_bytes,
        "versions": {"engine": versions},
    }


def main() -> None:
    """Print one JSON line."""
    options = read_options(__doc__)
    print(json.dumps(asyncio.run(measure(**vars(options)))))


if __name__ == "__main__":
    main()
