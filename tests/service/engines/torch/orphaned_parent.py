"""Loads a model in a torch host, prints the host's process id, and waits to be killed."""

import asyncio
import sys
from pathlib import Path

import msgspec

from model_registry.spec import ResolvedModel
from service.engines.torch.engine import TorchEngine
from service.engines.torch.host import TorchHost
from service.engines.torch.options import TorchOptions


async def main() -> None:
    model = msgspec.json.decode(sys.argv[2], type=ResolvedModel)
    host = TorchHost(TorchOptions(data_dir=Path(sys.argv[1])))
    await TorchEngine(model, host).start()
    sys.stdout.write(f"{host.status.pid}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main())
