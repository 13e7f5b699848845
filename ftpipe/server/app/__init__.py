"""The HTTP side of the server: everything that knows starlette and uvicorn."""

from ftpipe.server.app.listen import serve
from ftpipe.server.app.routes import create_app
from ftpipe.server.house import Ports
from ftpipe.server.settings import ServeSettings

__all__ = ["Ports", "ServeSettings", "create_app", "serve"]
