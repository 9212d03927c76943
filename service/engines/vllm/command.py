"""The command line and the environment that start vLLM for a model."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from model_registry.architecture import read_layers
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.engines.text.chat_template import CHATML
from service.engines.threads import default_threads
from service.engines.vllm.install import VllmInstall
from service.engines.vllm.platform import quantization_argument

LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `--max-lora-rank` (vLLM 0.32, `config/lora.py`)."""

#: The checkpoint's `generation_config.json` still ends answers, but does not choose tokens: what
#: a request leaves open is the plain distribution, on every engine.
_PLAIN_SAMPLING: Final = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}

_NOT_PASSED_ON: Final = (
    *("OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_THREAD_LIMIT"),
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
)


class VllmOptions(Struct, frozen=True, kw_only=True):
    """Options for all models on vLLM: the table `[vllm]`, and what all engines share."""

    data_dir: Path
    """Folder of sockets (`run/`) and logs (`logs/vllm-….log`)."""
    python: str = ""
    """Interpreter that has vLLM; if empty, one is looked for."""
    arguments: tuple[str, ...] = ()
    """More arguments of `vllm serve`, after the service's own."""
    kv_cache_bytes: int = 1 << 30
    """Memory for the state of all requests of one model."""
    max_context_tokens: int = 0
    """Longest context to serve; 0: the model's own."""
    compile: bool = True
    """Compile the model: slower to start, faster to answer."""
    threads: int = 0
    """Threads of a model on the CPU; 0: as many as the torch engine."""
    start_s: float = 900.0
    """Longest time for a start."""
    stall_s: float = 60.0
    """Time without progress on its requests after which a server is killed."""
    slots: int = 32
    """Requests that one model answers at once."""
    max_answer_tokens: int | None = None
    """Longest answer to a request that names no `max_tokens`."""


def served_name(model: ResolvedModel) -> str:
    """The model's name in requests to vLLM."""
    return model.id


def context_tokens(model: ResolvedModel, options: VllmOptions) -> int:
    """Longest context to serve."""
    return min(model.spec.context_tokens, options.max_context_tokens or model.spec.context_tokens)


def command(
    model: ResolvedModel,
    config: Mapping[str, Any],
    install: VllmInstall,
    options: VllmOptions,
    socket: Path,
) -> list[str]:
    """The command line. Raises ModelNotReady for an adapter that cannot be read."""
    # The command line asks for the metadata of a package `vllm`, which the CPU's wheel lacks.
    entry = (
        ["vllm.entrypoints.cli.main", "serve", model.path]
        if install.vllm
        else ["vllm.entrypoints.openai.api_server", "--model", model.path]
    )
    words = [install.python, "-m", *entry, "--uds", str(socket), "--dtype", model.dtype]
    words += ["--max-model-len", str(context_tokens(model, options))]
    words += ["--max-num-seqs", str(options.slots)]
    words += ["--kv-cache-memory-bytes", str(options.kv_cache_bytes)]
    words += ["--override-generation-config", json.dumps(_PLAIN_SAMPLING)]
    words += ["--seed", "0", "--no-enable-prefix-caching"]
    words += ["--enable-per-request-metrics", "--disable-uvicorn-access-log"]
    if not options.compile:
        words += ["--enforce-eager"]
    if any(layer.recurrent for layer in read_layers(config).layers):
        words += ["--mamba-ssm-cache-dtype", "float32"]
    if quantization := quantization_argument(model):
        words += ["--quantization", quantization]
    if model.spec.chat_template == "chatml":
        words += ["--chat-template", CHATML]
    return [*words, *_names(model), *options.arguments]


def _names(model: ResolvedModel) -> list[str]:
    """The names that vLLM serves: of the model, or of its adapter."""
    if model.adapter_path is None:
        return ["--served-model-name", served_name(model)]
    return [
        *("--served-model-name", f"{model.spec.id}:without-adapter", "--enable-lora"),
        *("--lora-modules", f"{served_name(model)}={model.adapter_path}"),
        *("--max-lora-rank", str(_lora_rank(Path(model.adapter_path)))),
    ]


def _lora_rank(adapter: Path) -> int:
    """Smallest `--max-lora-rank` that covers the adapter."""
    file = adapter / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        ranks = [config["r"], *config.get("rank_pattern", {}).values()]
        return min(rank for rank in LORA_RANKS if rank >= max(ranks))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotReady(
            f"{file} does not name a rank `r` of at most {LORA_RANKS[-1]}: {error}"
        ) from error


def environment(install: VllmInstall, options: VllmOptions) -> dict[str, str]:
    """The complete environment; the operator's own settings override the tuning."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_PASSED_ON and not name.lower().endswith("_proxy")
    }
    threads = options.threads or default_threads()
    cores = sorted(os.sched_getaffinity(0))[:threads]
    tuned = {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))} | inherited
    # vLLM's guide for the CPU: twice as fast as GNU's OpenMP where it was measured.
    openmp = Path(install.prefix) / "lib" / "libiomp5.so"
    if install.device == "cpu" and openmp.is_file():
        tuned["LD_PRELOAD"] = ":".join(filter(None, (str(openmp), tuned.get("LD_PRELOAD"))))
    return tuned | {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
