"""The dashboard's files, and Plotly's script from its own package. They show nothing that the API does not give."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(str(files("fedcosim.server"))) / "dashboard"
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def add_to(app: FastAPI) -> None:
    """Serve the dashboard at `/`."""

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @app.get("/dashboard/plotly.min.js", include_in_schema=False)
    def plotly() -> Response:
        script = Path(str(files("plotly"))) / "package_data" / "plotly.min.js"
        return FileResponse(script, headers={"Cache-Control": "public, max-age=86400"})

    app.mount("/dashboard", StaticFiles(directory=FOLDER))
