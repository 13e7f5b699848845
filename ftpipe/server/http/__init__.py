"""The HTTP side of the server: everything that knows starlette and uvicorn."""

from ftpipe.server.http.app import create_app
from ftpipe.server.http.serve import serve
from ftpipe.server.services import ServerOverrides
from ftpipe.server.settings import ServeSettings

__all__ = ["ServeSettings", "ServerOverrides", "create_app", "serve"]
