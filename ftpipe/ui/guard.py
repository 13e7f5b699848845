"""ASGI middleware in front of every page: Host, Origin, session, CSRF token, and the headers of every response.

What it protects against, each seen in a program of this kind: DNS rebinding without a check of Host (CVE-2025-14279,
CVE-2024-28224), a loose comparison of Origin (CVE-2024-47084, CVE-2026-40110), changes from other sites
(CVE-2025-1473), a cookie that outlives its server (CVE-2026-40934), text that is run as HTML (CVE-2025-46719).
Source: the CVE list at https://www.cve.org, read 2026-11-28.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftpipe.server.auth import HostPolicy
from ftpipe.server.protocol import ApiError
from ftpipe.ui.project import Project
from ftpipe.ui.sessions import TOKEN_PARAMETER, Session, Sessions, cookie_name, set_cookie

MAX_FORM_BYTES = 1024 * 1024
"""Maximum size of a form. Files are sent as other bodies, with the token in a header."""
SAFE_METHODS = frozenset({"GET", "HEAD"})
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"
FORM_TYPE = "application/x-www-form-urlencoded"
STATIC_PREFIX = "/static/"
SIGN_IN_PATH = "/sign-in"

OTHER_OWNER = "These pages show the project of the owner local, and your key belongs to somebody else."
OTHER_OWNER_HINT = (
    "Your files, jobs and models at this server are yours alone, and are not shown here. To see them, run `ftpipe ui` "
    "on your own machine, with this server as a provider in ftpipe.toml: base_url is its address with /v1, and key_env "
    "names the variable with your key."
)
RESTARTED_HINT = (
    "`ftpipe ui` was probably started again, and sessions end with it. Open the new address that it has printed in its "
    "terminal; after that, load this page again."
)
NEW_LINK_HINT = (
    "Choose `Open in another browser` at the bottom of a page that is signed in, or stop `ftpipe ui` with Ctrl-C and "
    "start it again: both make a new link."
)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    # not no-referrer: with it, browsers send "Origin: null" with the forms of these pages themselves
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Of every response that does not set them itself."""


class RefusedRequestError(Exception):
    """A request that no page gets.

    Args:
        status: Status of the response.
        message: Why.
        hint: What to do.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint


class GuardMiddleware:
    """Lets only requests of the pages themselves through, and gives them their session and project.

    Args:
        app: The application behind it.
        sessions: Who is signed in.
        host_policy: Which names of this server are allowed.
        free_port_names: Names behind which another port is allowed, as those of a reverse proxy.
        find_project: The project of an owner; ``None`` if this server shows none to them.
        on_refused: The response to a refused request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        host_policy: HostPolicy,
        free_port_names: frozenset[str],
        find_project: Callable[[str], Project | None],
        on_refused: Callable[[Request, RefusedRequestError], Response],
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._host_policy = host_policy
        self._free_port_names = free_port_names
        self._find_project = find_project
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        send = _with_headers(send)
        scope.setdefault("state", {})
        try:
            self._check_origin(request)
            response = await self._check_session(request)
            if response is None:
                receive = await _checked_form(request)
        except RefusedRequestError as error:
            response = self._on_refused(request, error)
        await (response or self._app)(scope, receive, send)

    def _check_origin(self, request: Request) -> None:
        headers = request.headers
        try:
            self._host_policy.check(headers)
        except ApiError as exc:
            raise RefusedRequestError(403, exc.message) from exc
        name, port = _split_host(headers.get("host", ""))
        server = request.scope.get("server")
        if name not in self._free_port_names and server is not None and port != (server[1] or 80):
            raise RefusedRequestError(403, "The port in the Host header is not that of this server.")
        if request.method in SAFE_METHODS:
            return
        site = headers.get("sec-fetch-site")
        # HostPolicy has compared an Origin that was sent; here, one has to be sent
        if site != "same-origin" and not (site is None and "origin" in headers):
            raise RefusedRequestError(403, "Changes are accepted from the pages of this server only.")

    async def _check_session(self, request: Request) -> Response | None:
        """The response that opens a session; ``None`` if the request goes on, with a session if it needs one."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if path.startswith(STATIC_PREFIX) or path == SIGN_IN_PATH:
            return None
        token = request.query_params.get(TOKEN_PARAMETER)
        if token is not None and request.method == "GET":
            if "prefetch" in request.headers.get("sec-purpose", ""):
                # a browser that guesses the page while its address is typed would use up the link
                # Source: https://http.dev/sec-purpose, read 2026-11-29
                raise RefusedRequestError(503, "This page is not loaded before it is opened.")
            return self._open_session(request, token)
        session = self._sessions.find(request.cookies.get(cookie_name(request)))
        if session is None:
            was_signed_in = cookie_name(request) in request.cookies
            raise RefusedRequestError(401, "You are not signed in.", RESTARTED_HINT if was_signed_in else "")
        project = await run_in_threadpool(self._find_project, session.owner)
        if project is None:
            raise RefusedRequestError(403, OTHER_OWNER, OTHER_OWNER_HINT)
        request.scope["state"] |= {"session": session, "project": project}
        return None

    def _open_session(self, request: Request, token: str) -> Response:
        is_open = self._sessions.find(request.cookies.get(cookie_name(request))) is not None
        cookie = self._sessions.open_with_link(token)
        if cookie is None and not is_open:
            raise RefusedRequestError(
                401, "This link was used before, or belongs to a server that was stopped.", NEW_LINK_HINT
            )
        # a path of two slashes would lead to another host
        response = RedirectResponse(f"/{request.scope['path'].lstrip('/')}", 303)
        if cookie is not None:
            set_cookie(request, response, cookie)
        return response


async def _checked_form(request: Request) -> Receive:
    """Check the token of a change, and keep its form for the handler; returns what yields its body again.

    Raises:
        RefusedRequestError: There is no token, a wrong one, or too large a form.
    """
    session: Session | None = request.scope["state"].get("session")
    is_form = request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM_TYPE
    if request.method in SAFE_METHODS or (session is None and not is_form):
        return request.receive
    receive: Receive = request.receive
    form, token = FormData(), request.headers.get(CSRF_HEADER, "")
    if is_form:
        body = await _read_body(request)
        receive = _replay(body)
        form = await Request(request.scope, _replay(body)).form(max_fields=1000)
        token = token or str(form.get(CSRF_FIELD, ""))
    request.scope["state"]["form"] = form
    if session is not None and not hmac.compare_digest(token.encode(), session.csrf_token.encode()):
        raise RefusedRequestError(403, "This form is out of date.", "Go back, load the page again, and repeat it.")
    return receive


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM_BYTES:
            raise RefusedRequestError(413, "This form is too large.")
    return bytes(body)


def _replay(body: bytes) -> Receive:
    """A receive channel that yields a body that was read before, and then that the client has disconnected."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers


def _split_host(host: str) -> tuple[str, int]:
    """Name and port of a Host header; 80 without a port, and 0 for one that is not a number."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host.lower(), 80
    return name.lower(), int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0


def is_htmx(headers: Headers) -> bool:
    """Whether a part of a page is wanted, not a whole one."""
    return "hx-request" in headers
