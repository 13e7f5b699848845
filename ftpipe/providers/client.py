"""The door to the openai SDK: a client without retries and redirects, calls with deadlines and checked answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai

from ftpipe.errors import ConnectionFailedError, FtpipeError, InvalidResponseError
from ftpipe.providers.error_mapping import CallContext, invalid_response, translate
from ftpipe.providers.profiles import Profile
from ftpipe.providers.retry import SAFE_ATTEMPTS, DeadlineExceededError, retry_idempotent, with_deadline

T = TypeVar("T")

CONNECT_SECONDS = 10.0
SHORTEST_KEY = 8
"""What is shorter is no secret, and could stand in any message."""

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
"""What the SDK and a broken body can raise; everything else is a fault of ours and stays one."""


def build_client(
    *, base_url: str, api_key: str, organization: str | None, project: str | None, timeout: float
) -> openai.OpenAI:
    """A client that never repeats a call by itself and never follows a redirect with the key in hand."""
    limits = httpx2.Timeout(timeout, connect=CONNECT_SECONDS)
    # reading the machine's trust store takes 0.2 s, and a plain connection, as to this machine, never needs it
    is_plain = base_url.startswith("http://")
    transport = openai.DefaultHttpx2Client(follow_redirects=False, timeout=limits, verify=not is_plain)
    return openai.OpenAI(
        base_url=base_url,
        api_key=api_key,
        organization=organization,
        project=project,
        max_retries=0,
        timeout=limits,
        http_client=transport,
    )


class ApiClient:
    """Makes the calls of one endpoint.

    Args:
        profile: The endpoint's profile.
        connect: Makes the client; called again when ``reconnect`` says that the endpoint has moved.
        base_url: For messages.
        reconnect: Brings the endpoint back (the embedded server is started again); False where it cannot.
        sleep: Waits between tries of safe calls.
        attempts: How often a safe call is tried.
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
        """Hears once in each time of trouble that a call has failed and is tried again."""
        self.profile = profile
        self.base_url = base_url
        self._connect = connect
        self._reconnect = reconnect
        self._sleep = sleep
        self._attempts = attempts
        self._in_trouble = False
        self._client: openai.OpenAI | None = None

    @property
    def client(self) -> openai.OpenAI:
        """The SDK's client, made at the first call."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def close(self) -> None:
        """Let go of the connections; the next call makes new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def read(self, what: str, call: Callable[[openai.OpenAI], object], parse: Callable[[Any], T]) -> T:
        """Make a call that changes nothing; it is repeated after passing faults."""
        context = CallContext(what, self.profile, self.base_url)
        found = retry_idempotent(
            lambda: self._again_if_moved(call, parse, context),
            sleep=self._sleep,
            attempts=self._attempts,
            on_retry=self._report_retry,
        )
        self._in_trouble = False
        return found

    def _report_retry(self, failure: BaseException) -> None:
        if self._in_trouble:
            return
        self._in_trouble = True
        host = urlsplit(self.base_url).netloc or self.base_url
        if isinstance(failure, ConnectionFailedError):
            self.on_retry(f"cannot reach {host}, trying again …")
        else:
            self.on_retry(f"{host} has trouble ({failure}), trying again …")

    def write(
        self,
        what: str,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        *,
        seconds: float | None = None,
        paid: bool = False,
    ) -> T:
        """Make a call that creates something: exactly one request, whatever happens."""
        return self._once(call, parse, CallContext(what, self.profile, self.base_url, writes=True, paid=paid), seconds)

    def call_once(self, what: str, call: Callable[[openai.OpenAI], object], parse: Callable[[Any], T]) -> T:
        """Make one call that may be made twice without harm (cancel, delete), so a lost answer is a plain failure."""
        return self._once(call, parse, CallContext(what, self.profile, self.base_url), None)

    def stream(self, what: str, call: Callable[[openai.OpenAI], Iterator[T]]) -> Iterator[T]:
        """Make a call whose answer comes in pieces."""
        context = CallContext(what, self.profile, self.base_url)
        try:
            yield from call(self.client)
        except SDK_ERRORS as exc:
            raise _without_key(translate(exc, context), self.client) from exc

    def _again_if_moved(
        self, call: Callable[[openai.OpenAI], object], parse: Callable[[Any], T], context: CallContext
    ) -> T:
        try:
            return self._once(call, parse, context, None)
        except ConnectionFailedError:
            if not self._reconnect():
                raise
            self._client = None
            return self._once(call, parse, context, None)

    def _once(
        self,
        call: Callable[[openai.OpenAI], object],
        parse: Callable[[Any], T],
        context: CallContext,
        seconds: float | None,
    ) -> T:
        client = self.client
        try:
            answer = with_deadline(seconds or self.profile.request_timeout_seconds, lambda: call(client))
        except (*SDK_ERRORS, DeadlineExceededError) as exc:
            raise _without_key(translate(exc, context), client) from exc
        try:
            return parse(answer)
        except InvalidResponseError as exc:
            raise invalid_response(exc.message, context) from exc
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as exc:
            raise invalid_response(
                f"the answer does not have the shape of the API ({type(exc).__name__})", context
            ) from exc


def _without_key(error: FtpipeError, client: openai.OpenAI) -> FtpipeError:
    """The same error without the key: some endpoints repeat it in refusals, and errors are kept in the registry."""
    key = getattr(client, "api_key", "")
    if len(key) >= SHORTEST_KEY and key in error.message:
        error.message = error.message.replace(key, "***")
        error.args = (error.message, *error.args[1:])
    return error
