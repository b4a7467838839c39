"""The page to talk to bots: files that are sent as they are. It does nothing that the interface does not allow."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from gateway.access import GuardedRoute

FOLDER: Final = Path(__file__).parent.parent / "static"
INDEX: Final = "index.html"
FILES: Final = frozenset(path.name for path in FOLDER.iterdir())

HEADERS: Final = {
    # No foreign host, nothing inline, in no frame; `style` by script is the one theme property.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked about: a new release is seen at once
}

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    return FileResponse(FOLDER / INDEX, headers=HEADERS)


@router.get("/static/{name}")
async def file(name: str) -> FileResponse:
    if name not in FILES:
        raise HTTPException(404)
    return FileResponse(FOLDER / name, headers=HEADERS)
