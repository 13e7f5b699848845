"""URLs: other forms of the served ones, such as Azure's, and what the response to one that is not served says."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ftpipe.server.protocol import printable

AZURE = "/openai/"
"""Azure's SDKs put it before each path. Source: openai-python, src/openai/lib/azure.py, 3.57.0, 2026-11-29."""
DEPLOYMENTS = f"{AZURE}deployments/"
DEPLOYMENT_PATHS = ("/chat/completions", "/completions")
"""What has the model's name in its path at Azure."""
DEPLOYMENT_SCOPE_KEY = "ftpipe.deployment"
"""Key of the scope for the model's name in the path; it takes the place of the one in the body, as at Azure."""

_TEXT_ONLY = "the models of this server read and write text only"
_CHATS = "use /v1/chat/completions"
NOT_SERVED = {
    "embeddings": "Embeddings are not served: the models of this server generate text. Use an embedding server.",
    "moderations": "Moderations are not served: there is no moderation model here. "
    "Ask a chat model with a response_format, or use OpenAI's endpoint.",
    "images": f"Images are not served: {_TEXT_ONLY}.",
    "audio": f"Audio is not served: {_TEXT_ONLY}.",
    "videos": f"Videos are not served: {_TEXT_ONLY}.",
    "realtime": f'Realtime sessions are not served: {_TEXT_ONLY}. Use /v1/chat/completions with "stream": true.',
    "assistants": f"Assistants are not served: OpenAI has replaced them, too; {_CHATS}.",
    "threads": f"Threads are not served: OpenAI has replaced them, too; {_CHATS}.",
    "conversations": "Conversations are not served; send all messages to /v1/chat/completions.",
    "vector_stores": "Vector stores are not served: there is no file search here. Put the passages into the messages.",
    "containers": "Containers are not served: no code of clients is run here.",
    "evals": "Evals are not served: OpenAI has shut that API down; `ftpipe evaluate` compares models.",
    "fine-tunes": "This API was replaced; use /v1/fine_tuning/jobs.",
    "engines": "This API was replaced; use /v1/models and /v1/chat/completions.",
    "edits": "This API was replaced; use /v1/chat/completions.",
    "organization": "Organizations are not served: the owners of keys are in the file of --api-key-file.",
    "rerank": "Reranking is not served: the models of this server generate text.",
    "messages": f"Anthropic's API is not served; {_CHATS}.",
}
"""First part of a path below ``/v1`` → why it is not served, and what to use instead."""
OLLAMA = "Ollama's own API is not served: use the server as an OpenAI API, with the base URL …/v1."


class UrlMiddleware:
    """Changes other forms of a URL to the one that has a route: a slash at the end, and the paths of Azure's SDKs.

    ``/openai/v1/…`` and ``/openai/…`` become ``/v1/…``, and ``/openai/deployments/NAME/chat/completions`` a chat with
    the model ``NAME``. The query parameter ``api-version`` has no meaning here.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            path, deployment = served_path(scope["path"])
            scope["path"] = path
            if deployment is not None:
                scope[DEPLOYMENT_SCOPE_KEY] = deployment
        await self._app(scope, receive, send)


def served_path(path: str) -> tuple[str, str | None]:
    """The path in the form that routes have, and the model that it names."""
    if len(path) > 1:
        path = path.removesuffix("/")
    if path.startswith(DEPLOYMENTS):
        rest = path.removeprefix(DEPLOYMENTS)
        suffix = next((each for each in DEPLOYMENT_PATHS if rest.endswith(each)), None)
        if suffix is None:
            return f"/v1/{rest.partition('/')[2]}", None
        return f"/v1{suffix}", rest.removesuffix(suffix) or None
    if path.startswith(f"{AZURE}v1/"):
        return path.removeprefix("/openai"), None
    if path.startswith(AZURE):
        return f"/v1/{path.removeprefix(AZURE)}", None
    return path, None


def unknown_url_message(method: str, path: str) -> str:
    """What the response to a URL without a route says."""
    first, _, rest = path.removeprefix("/").partition("/")
    if first == "api":
        return OLLAMA
    reason = NOT_SERVED.get(rest.partition("/")[0]) if first == "v1" else None
    message = f"Unknown request URL: {printable(f'{method} {path}')}."
    return reason or message + ("" if first == "v1" else " The paths of the API begin with /v1.")
