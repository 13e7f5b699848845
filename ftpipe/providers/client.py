"""Makes the calls of the openai SDK: without its own retries and redirects, with deadlines and checked responses."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
from openai.pagination import SyncCursorPage, SyncPage

from ftpipe.errors import (
    ConnectionFailedError,
    FtpipeError,
    InvalidResponseError,
    ResponseTimeoutError,
    StillRunningError,
)
from ftpipe.providers.error_mapping import CallContext, invalid_response, translate
from ftpipe.providers.paging import iter_items
from ftpipe.providers.profiles import Profile
from ftpipe.providers.retry import SAFE_ATTEMPTS, DeadlineExceededError, retry_idempotent, with_deadline

T = TypeVar("T")

CONNECT_SECONDS = 10.0
MIN_KEY_CHARS = 8
"""A shorter key is not a secret, and its characters could occur in any message."""

MIN_READ_SECONDS = 5.0
"""What a call that changes nothing gets even if the time of the command is up."""

SDK_ERRORS = (
    openai.OpenAIError,
    httpx2.HTTPError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    OSError,
    RecursionError,  # a body of nothing but opening brackets
)
"""What the SDK and a broken body can raise; any other exception is a bug in ftpipe and is not translated."""


def build_client(
    *,
    base_url: str,
    api_key: str | Callable[[], str],
    timeout: float,
    organization: str | None = None,
    project: str | None = None,
    has_custom_headers: bool = False,
    user_agent: str = "",
) -> openai.OpenAI:
    """Build a client that never repeats a call by itself and never sends the key to another host after a redirect.

    Args:
        base_url: Root of the API.
        api_key: The key, or what reads it for each call.
        timeout: Seconds for one call.
        organization: The organization at OpenAI.
        project: The project at OpenAI.
        has_custom_headers: Whether to send the headers of ``OPENAI_CUSTOM_HEADERS``, which are meant for OpenAI.
        user_agent: In place of the SDK's.
    """
    limits = httpx2.Timeout(timeout, connect=CONNECT_SECONDS)
    # reading the trust store takes 0.2 s, and a connection without TLS, as to this machine, does not need it
    is_plain = base_url.startswith("http://")
    transport = openai.DefaultHttpx2Client(follow_redirects=False, timeout=limits, verify=not is_plain)
    client = openai.OpenAI(
        base_url=base_url,
        api_key=api_key,
        organization=organization,
        project=project,
        max_retries=0,
        timeout=limits,
        http_client=transport,
        default_headers={"User-Agent": user_agent} if user_agent else None,
    )
    # the SDK takes these from the environment if they are None, and would send them to any host
    client.organization, client.project, client.admin_api_key = organization, project, None
    if not has_custom_headers:
        client._custom_headers = {}  # the SDK has no other way to leave these out
    return client


@dataclass(frozen=True, slots=True)
class ChatAddress:
    """Where a chat goes that is forwarded as it came."""

    url: str
    headers: Mapping[str, str]
    """With the key."""
    key: str
    """The key in the headers, which no message may show."""
    model: str
    """The model's name there."""


class ApiClient:
    """Makes the calls of one endpoint.

    Args:
        profile: The endpoint's profile.
        connect: Builds the SDK's client; called again after ``reconnect`` has returned True.
        base_url: For messages.
        reconnect: Restarts the endpoint if it is the embedded one; returns whether it runs again.
        sleep: Waits between attempts.
        attempts: How often a call that changes nothing is tried.
    """

    def __init__(
        self,
        profile: Profile,
        connect: Callable[[], openai.OpenAI],
        *,
        base_url: str,
        reconnect: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        attempts: int = SAFE_ATTEMPTS,
    ) -> None:
        self.on_retry: Callable[[str], None] = lambda _text: None
        """Is called when a call has failed and is tried again: once until a call succeeds again."""
        self.profile = profile
        self.base_url = base_url
        self._connect = connect
        self._reconnect = reconnect
        self._sleep = sleep
        self._attempts = attempts
        self._has_reported = False
        self._client: openai.OpenAI | None = None
        self._connect_lock = threading.Lock()
        self._in_run = False
        self._reads_end_at = math.inf

    @property
    def client(self) -> openai.OpenAI:
        """The SDK's client, built at the first call."""
        with self._connect_lock:  # several threads can make the first call
            if self._client is None:
                self._client = self._connect()
            return self._client

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def in_run(self, timeout: float | None) -> Iterator[None]:
        """Within this block the calls are steps of a run: the hints of their errors name ``ftpipe resume``.

        Calls that change nothing end, with their retries, ``timeout`` seconds from now; ``None`` sets no limit.
        """
        self._in_run = True
        self._reads_end_at = math.inf if timeout is None else time.monotonic() + timeout
        try:
            yield
        finally:
            self._in_run = False
            self._reads_end_at = math.inf

    def _context(self, what: str, *, writes: bool = False, paid: bool = False) -> CallContext:
        return CallContext(what, self.profile, self.base_url, writes=writes, paid=paid, in_run=self._in_run)

    def chat_address(self, model: str) -> ChatAddress:
        """The address of chats below the root of the API, for a client that is not the SDK's."""
        client = self.client
        client._refresh_api_key()  # one that expires is read for each call; the SDK has no public name for this
        scope = {"OpenAI-Organization": client.organization, "OpenAI-Project": client.project}
        headers = {**client.auth_headers, **{name: value for name, value in scope.items() if value}}
        return ChatAddress(f"{str(client.base_url).rstrip('/')}/chat/completions", headers, client.api_key, model)

    def iter_items(self, page: SyncPage[T] | SyncCursorPage[T]) -> Iterator[T]:
        """The items of a list that is sent in pages; it ends in any case."""
        return iter_items(page, max_seconds=self.profile.request_timeout_seconds)

    def read(
        self,
        what: str,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        *,
        seconds: float | None = None,
        attempts: int | None = None,
    ) -> T:
        """Make a call that changes nothing; it is repeated after transient errors.

        Args:
            what: For messages.
            call: Makes the call.
            parse: Checks the response.
            seconds: Wall-clock limit of one attempt; the default is the profile's.
            attempts: How often the call is made at most; the default is the client's.

        Raises:
            StillRunningError: The time of ``in_run`` is up.
        """
        context = self._context(what)
        end_at = max(self._reads_end_at, time.monotonic() + MIN_READ_SECONDS)
        limit = seconds or self.profile.request_timeout_seconds
        result = retry_idempotent(
            lambda: self._call_and_reconnect(call, parse, context, end_at, limit),
            sleep=lambda seconds: self._sleep(max(0.0, min(seconds, end_at - time.monotonic()))),
            attempts=attempts or self._attempts,
            on_retry=self._report_retry,
        )
        self._has_reported = False
        return result

    def _report_retry(self, error: BaseException) -> None:
        if self._has_reported:
            return
        self._has_reported = True
        host = urlsplit(self.base_url).netloc or self.base_url
        if isinstance(error, ResponseTimeoutError):
            self.on_retry(f"{host} is slow and has not answered in time, trying again …")
        elif isinstance(error, ConnectionFailedError):
            self.on_retry(f"cannot reach {host}, trying again …")
        else:
            self.on_retry(f"{host} has a problem ({error}), trying again …")

    def write(
        self,
        what: str,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        *,
        seconds: float | None = None,
        paid: bool = False,
    ) -> T:
        """Make a call that creates something: exactly one request is sent, whatever happens."""
        return self._once(call, parse, self._context(what, writes=True, paid=paid), seconds)

    def call_once(
        self,
        what: str,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        *,
        seconds: float | None = None,
    ) -> T:
        """Make a call once that does no harm if made twice (cancel, delete): a lost response is an ordinary error."""
        return self._once(call, parse, self._context(what), seconds)

    def stream(self, what: str, call: Callable[[openai.OpenAI], Iterator[T]]) -> Iterator[T]:
        """Make a call whose response is a stream."""
        context = self._context(what)
        try:
            yield from call(self.client)
        except SDK_ERRORS as exc:
            raise _without_key(translate(exc, context), self.client) from exc

    def _call_and_reconnect(
        self,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        context: CallContext,
        end_at: float,
        limit: float,
    ) -> T:
        try:
            return self._once_until(end_at, call, parse, context, limit)
        except ConnectionFailedError:
            if not self._reconnect():
                raise
            self._client = None
            return self._once_until(end_at, call, parse, context, limit)

    def _once_until(
        self,
        end_at: float,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        context: CallContext,
        limit: float,
    ) -> T:
        seconds_left = end_at - time.monotonic()
        try:
            if seconds_left > 0:
                return self._once(call, parse, context, min(seconds_left, limit))
        except ConnectionFailedError:
            if time.monotonic() < end_at:
                raise
        raise StillRunningError(
            f"the time is up, and {self.base_url} has not answered completely (to {context.what})",
            "`ftpipe resume` continues, with more time if --timeout is larger",
        )

    def _once(
        self,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        context: CallContext,
        seconds: float | None,
    ) -> T:
        client = self.client
        try:
            response = with_deadline(seconds or self.profile.request_timeout_seconds, lambda: call(client))
        except InvalidResponseError as exc:
            raise invalid_response(exc.message, context) from exc
        except (*SDK_ERRORS, DeadlineExceededError) as exc:
            raise _without_key(translate(exc, context), client) from exc
        try:
            return parse(response)
        except InvalidResponseError as exc:
            raise invalid_response(exc.message, context) from exc
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as exc:
            raise invalid_response(
                f"the response does not have the form that the API promises ({type(exc).__name__})", context
            ) from exc


def _without_key(error: FtpipeError, client: openai.OpenAI) -> FtpipeError:
    """The same error without the key: some endpoints repeat it in error messages, and the registry stores those."""
    key = getattr(client, "api_key", "")
    if len(key) >= MIN_KEY_CHARS and key in error.message:
        error.message = error.message.replace(key, "***")
        error.args = (error.message, *error.args[1:])
    return error
