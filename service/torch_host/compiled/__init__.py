"""Programs of compiled kernels: how models run on a CPU."""

from service.torch_host.compiled.codegen import debug_mode  # noqa: F401 - before all kernels
from service.torch_host.compiled.codegen.cache import use_cache

use_cache()
