"""API documentation page: Swagger UI, served from an installed package."""

from importlib.metadata import distribution
from pathlib import Path

from litestar import MediaType, Response, Router, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, SkipValidation
from litestar.response import File

from service.api.docs.document import Description

_FOLDER = Path(str(distribution("swagger-ui-py").locate_file("swagger_ui/static")))
_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
#: Swagger UI sets inline styles and draws icons as data URLs; all else comes from this server.
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Triptych API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/page.js"></script>
</body>
</html>
"""
_SCRIPT = """SwaggerUIBundle({
  url: "/schema/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
});
"""


@get("/", include_in_schema=False)
async def page() -> Response[str]:
    """Serve the page."""
    return Response(_PAGE, media_type=MediaType.HTML, headers={"content-security-policy": _POLICY})


@get("/page.js", include_in_schema=False)
async def script() -> Response[str]:
    """Serve the script that starts Swagger UI; the page itself has no inline script."""
    return Response(_SCRIPT, media_type="text/javascript")


@get("/{name:str}", include_in_schema=False)
async def asset(name: FromPath[str]) -> File:
    """Serve a file of Swagger UI; the name is looked up and never becomes a path."""
    if name not in _ASSETS:
        raise NotFoundException
    return File(_FOLDER / name, media_type=_ASSETS[name], content_disposition_type="inline")


@get("/schema/openapi.json", summary="OpenAPI document", tags=["operations"])
async def openapi_document(
    description: NamedDependency[SkipValidation[Description]],
) -> Response[bytes]:
    """Return the OpenAPI 3.1 document of this API."""
    return Response(await description.document(), media_type=MediaType.JSON)


docs_router = Router("/docs", route_handlers=[page, script, asset])
