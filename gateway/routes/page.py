"""The page to talk to bots, and Swagger UI at `/docs`: files that are sent as they are, none from a foreign host."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from gateway.access import GuardedRouter

FOLDER: Final = Path(__file__).parent.parent / "static"
INDEX: Final = "index.html"
DOCS: Final = "docs.html"
SWAGGER_UI: Final = ("swagger-ui-bundle.js", "swagger-ui.css")
_SWAGGER_FOLDER: Final = Path(str(files("fastapi_offline"))) / "static"
FILES: Final = {path.name: path for path in (*FOLDER.iterdir(), *(_SWAGGER_FOLDER / name for name in SWAGGER_UI))}

HEADERS: Final = {
    # No foreign host, nothing inline, in no frame; `style` by script is the one theme property.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked about: a new release is seen at once
}

# Swagger UI brings pictures and some styles of its own within its files.
DOCS_HEADERS: Final = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

router = GuardedRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    return FileResponse(FOLDER / INDEX, headers=HEADERS)


@router.get("/docs")
async def docs() -> FileResponse:
    return FileResponse(FOLDER / DOCS, headers=DOCS_HEADERS)


@router.get("/static/{name}")
async def file(name: str) -> FileResponse:
    if name not in FILES:
        raise HTTPException(404)
    return FileResponse(FILES[name], headers=HEADERS)
