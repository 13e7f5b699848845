"""The HTTP side of the server: everything that needs Starlette or uvicorn."""

from ftpipe.server.http.app import create_app
from ftpipe.server.http.serve import serve

__all__ = ["create_app", "serve"]
