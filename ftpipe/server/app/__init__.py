"""The HTTP side of the server: everything that knows starlette and uvicorn."""

from ftpipe.server.app.listen import serve
from ftpipe.server.app.routes import create_app
from ftpipe.server.house import ServerOverrides
from ftpipe.server.settings import ServeSettings

__all__ = ["ServeSettings", "ServerOverrides", "create_app", "serve"]
