"""Which engines compete, with which settings, and how each is started."""

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from models import folder, gguf

from model_registry.footprint import predict
from service.engines.torch import process as host_process

HERE: Final = Path(__file__).parent
#: Read by OpenMP: every engine gets its own and none of the shell's.
THREAD_VARIABLES: Final = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "THP_")


class Contestant(NamedTuple):
    """One engine in one configuration."""

    script: str
    python: Literal["own", "vllm", "llama"] = "own"
    """Which interpreter runs it."""
    arguments: tuple[str, ...] = ()
    gguf: str | None = None
    """The type of GGUF file that it reads instead of the model's folder."""
    weights: str = "bfloat16"
    """What it holds weights in; its limit is that of the format."""


#: The first of those asked for is what the others are compared with.
CONTESTANTS: Final = {
    "triptych": Contestant("triptych_torch.py", arguments=("--kernels", "compiled")),
    "transformers": Contestant("transformers_generate.py"),
    "vllm": Contestant("vllm_cpu.py", "vllm", ("--bind", "{cores}", "--intel-openmp")),
    "llama.cpp": Contestant("llama_cpp_batched.py", "llama", gguf="bf16"),
    "triptych-int8": Contestant(
        "triptych_torch.py", arguments=("--quantization", "int8"), weights="int8"
    ),
    "vllm-int8": Contestant(
        "vllm_cpu.py",
        "vllm",
        (
            *("--bind", "{cores}", "--intel-openmp"),
            *("--quantization", "int8_per_channel_weight_only"),
        ),
        weights="int8",
    ),
    "llama.cpp-q8_0": Contestant("llama_cpp_batched.py", "llama", gguf="q8_0", weights="int8"),
    "triptych-eager": Contestant("triptych_torch.py", arguments=("--kernels", "eager")),
    "vllm-default": Contestant("vllm_cpu.py", "vllm"),
    "vllm-eager": Contestant(
        "vllm_cpu.py", "vllm", ("--bind", "{cores}", "--intel-openmp", "--eager")
    ),
}


class Unavailable(Exception):
    """Why a contestant cannot run a model here."""


def command(name: str, model: str, options: Namespace) -> list[str]:
    """The command of a contestant without its points. Raises Unavailable."""
    contestant = CONTESTANTS[name]
    path = folder(model)
    if contestant.gguf:
        path = gguf(model, contestant.gguf)
        if not path.is_file():
            raise Unavailable(f"no {path.name}; run: python benchmarks/engines/to_gguf.py")
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: options.threads]))
    arguments = [argument.format(cores=cores) for argument in contestant.arguments]
    if contestant.python == "vllm":
        arguments += ["--cache-mib", str(_cache_mib(folder(model), options))]
    return [
        str(_interpreter(contestant, options)),
        str(HERE / contestant.script),
        str(path),
        *("--threads", str(options.threads)),
        *arguments,
    ]


def environment(name: str, cache: Path, threads: int) -> dict[str, str]:
    """What a contestant is started with; `cache` is where it keeps what it compiles."""
    contestant = CONTESTANTS[name]
    shell = {
        key: value for key, value in os.environ.items() if not key.startswith(THREAD_VARIABLES)
    }
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "VLLM_NO_USAGE_STATS": "1"}
    caches = {
        "XDG_CACHE_HOME": str(cache),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    if contestant.script == "triptych_torch.py":
        tuned = host_process.environment(threads, cache)
        quiet |= {key: value for key, value in tuned.items() if key.startswith(THREAD_VARIABLES)}
    elif contestant.python == "own":
        quiet["OMP_NUM_THREADS"] = str(threads)
    return shell | quiet | caches


def _interpreter(contestant: Contestant, options: Namespace) -> Path:
    chosen: Mapping[str, str | None] = {
        "own": sys.executable,
        "vllm": options.vllm_python,
        "llama": options.llama_python,
    }
    python = chosen[contestant.python]
    if not python:
        raise Unavailable(
            f"no interpreter; give --{contestant.python}-python or set "
            f"TRIPTYCH_{contestant.python.upper()}_PYTHON"
        )
    return Path(python)


def _cache_mib(path: Path, options: Namespace) -> int:
    """Memory for the states of all streams, with room for pages that are not full.

    vLLM gives every layer of a hybrid pages of one size, that of the largest state.
    """
    config = json.loads((path / "config.json").read_text())
    streams: int = max(options.streams)
    spare_tokens = options.steps + 4 * streams
    lone = predict(config, context_tokens=max(options.prefill) + spare_tokens)
    many = predict(config, context_tokens=max(options.contexts) + spare_tokens)
    needed_bytes: int = max(lone.state_bytes, streams * many.state_bytes)
    return math.ceil(3 * needed_bytes / 2**20) + 64
