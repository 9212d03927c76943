"""Competitor: vLLM's CPU backend, its engine stepped as `LLM.generate` steps it.

Runs under the Python that has vLLM. A decode step is timed by the tokens that `LLMEngine.step`
brings while all streams run, so that no prefill is in the time.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measurement import WARMUP_STEPS, Tokens, measure


class Vllm:
    """A model behind vLLM's offline interface: no HTTP, no tokenizer."""

    def __init__(self, options: argparse.Namespace) -> None:
        os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
        os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # to ask its worker about threads
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = options.bind
        # The reference models promise 2,048 tokens, and RoPE goes on beyond them.
        os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
        if options.intel_openmp:
            library = Path(sys.prefix) / "lib" / "libiomp5.so"
            os.environ["LD_PRELOAD"] = str(library.resolve(strict=True))
        from vllm import LLM

        self._llm = LLM(
            model=options.path,
            dtype=options.dtype,
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            max_model_len=options.max_tokens,
            max_num_seqs=options.max_streams,
            max_num_batched_tokens=options.batched_tokens,
            kv_cache_memory_bytes=options.cache_mib * 2**20,
            enforce_eager=options.eager,
            seed=0,
            **({"quantization": options.quantization} if options.quantization else {}),
        )
        self._requests = 0
        self.versions = {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}
        self.settings: dict[str, Any] = {
            "compiled": not options.eager,
            "bind": options.bind,
            "intel_openmp": options.intel_openmp,
            "batched_tokens": options.batched_tokens,
            "cache_mib": options.cache_mib,
            "quantization": options.quantization,
            "worker": self._llm.collective_rpc(_describe_worker)[0],
        }

    def greedy(self, prompt: Tokens, new_tokens: int) -> list[int]:
        """The most probable continuation."""
        with self._streams([prompt], new_tokens) as answers:
            while len(answers[0]) < new_tokens:
                self._step(answers)
        return answers[0]

    def decode_s(self, prompts: Sequence[Tokens], steps: int) -> float:
        """Seconds of decode steps after the last prompt has been read."""
        spare = 2 * len(prompts)  # early streams go on while later prompts are read
        with self._streams(prompts, WARMUP_STEPS + steps + spare) as answers:
            while min(len(answer) for answer in answers) < 1 + WARMUP_STEPS:
                self._step(answers)
            before = sum(len(answer) for answer in answers)
            begun = time.perf_counter()
            for _ in range(steps):
                self._step(answers)
            seconds = time.perf_counter() - begun
            tokens = sum(len(answer) for answer in answers) - before
        # Fewer: some streams were set aside because their states do not fit into `--cache-mib`.
        assert tokens == steps * len(prompts), f"{tokens} tokens in {steps} steps"
        return seconds

    @contextmanager
    def _streams(self, prompts: Sequence[Tokens], new_tokens: int) -> Iterator[list[list[int]]]:
        """Requests that run meanwhile; their answers so far, to be filled by `_step`."""
        from vllm import SamplingParams, TokensPrompt

        engine = self._llm.llm_engine
        parameters = SamplingParams(
            temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
        )
        self._first = self._requests
        self._requests += len(prompts)
        ids = [
            engine.add_request(str(number), TokensPrompt(prompt_token_ids=list(prompt)), parameters)
            for number, prompt in enumerate(prompts, start=self._first)
        ]
        yield [[] for _ in prompts]
        engine.abort_request(ids, internal=True)
        while engine.has_unfinished_requests():
            engine.step()

    def _step(self, answers: list[list[int]]) -> None:
        for output in self._llm.llm_engine.step():
            answers[int(output.request_id) - self._first] = list(output.outputs[0].token_ids)


def _describe_worker(_: Any) -> dict[str, Any]:  # noqa: ANN401 - runs in vLLM's worker process
    """Computing threads of the worker, and the cores that its threads are bound to."""
    import torch

    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    kept = ("OMP_", "KMP_", "GOMP_", "LD_PRELOAD")
    return {
        "torch_threads": torch.get_num_threads(),
        "bound_to": sorted({tuple(sorted(os.sched_getaffinity(thread))) for thread in threads}),
        "environment": {k: v for k, v in os.environ.items() if k.startswith(kept)},
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only vLLM can be told."""
    parser.add_argument(
        "--bind", default="auto", help='cores that compute, as "0-1"; auto leaves one to the rest'
    )
    parser.add_argument(
        "--intel-openmp", action="store_true", help="preload libiomp5.so, as vLLM's guide advises"
    )
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--batched-tokens", type=int, default=4096, help="most tokens of one step")
    parser.add_argument(
        "--cache-mib", type=int, default=1024, help="memory for all states; vLLM fills it at once"
    )
    parser.add_argument("--quantization", help="for example int8_per_channel_weight_only")


if __name__ == "__main__":
    measure(Vllm, add_options)
