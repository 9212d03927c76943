"""Who holds how much memory."""

from litestar import get
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from service.api.services import Services
from service.serving.memory_report import MemoryReport

Deps = NamedDependency[SkipValidation[Services]]


@get("/v1/memory", summary="Who holds how much memory", tags=["operations"])
async def show_memory(services: Deps) -> MemoryReport:
    """The budget, what each model holds of it, and the processes; unknown is null."""
    return await services.memory()
