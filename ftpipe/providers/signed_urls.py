"""Send and fetch bytes at presigned URLs: without the key, over https, and without following redirects."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO
from urllib.parse import SplitResult, urlsplit

import httpx2
import openai

from ftpipe.errors import ConnectionFailedError, InvalidResponseError, ProviderError, RequestRefusedError
from ftpipe.providers.client import CONNECT_SECONDS

CHUNK_BYTES = 1 << 20
MAX_ERROR_BYTES = 1 << 16
"""What is read of an error; its message is at the start."""
MAX_DOWNLOAD_SECONDS = 86_400.0
READ_SECONDS = 300.0
"""How long a storage may be silent."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)\.?", re.IGNORECASE)
"""Hosts that programs read as IPv4 addresses, in whatever notation: ``127.1``, ``0x7f000001``, ``2130706433``."""


def require_signed_url(url: str, *, api_url: str) -> str:
    """Refuse an address that a host could name to reach into the user's network, or to read the data on the way.

    Names are not resolved, so a public name of a private address is not noticed.

    Args:
        url: The presigned URL.
        api_url: Root of the API that named it; if that is on this machine, the URL can be on this machine, too.

    Raises:
        InvalidResponseError: It is not https, or not a public host.
    """
    try:
        parts = urlsplit(url)
        host = httpx2.URL(url).raw_host.decode("ascii").rstrip(".").lower()  # the one that is connected to
    except (ValueError, httpx2.InvalidURL) as exc:
        raise InvalidResponseError("the host named a storage address that is not a URL") from exc
    is_local = _is_loopback(parts) and _is_loopback(urlsplit(api_url))
    is_public = bool(host) and host != "localhost" and not host.endswith((".localhost", ".internal", ".local"))
    if _NUMERIC_HOST.fullmatch(host) or ":" in host:
        try:
            is_public = ipaddress.ip_address(host).is_global
        except ValueError:
            is_public = False
    is_accepted = parts.scheme == "https" and is_public and "@" not in parts.netloc
    if not is_accepted and not (is_local and parts.scheme in ("http", "https")):
        raise InvalidResponseError(f"the host named a storage address that is not a public https host: {host[:100]!r}")
    return url


def put_bytes(url: str, source: BinaryIO, size: int, *, headers: Mapping[str, str] = NO_HEADERS) -> httpx2.Headers:
    """PUT ``size`` bytes; returns the headers of the response.

    Raises:
        RequestRefusedError: The storage refused it; the URL may have expired.
        ProviderError: The storage has a problem.
    """
    with _client(url) as client:
        content = _chunks(source, size)
        response = client.put(url, content=content, headers={**headers, "Content-Length": str(size)})
        _raise_for_status(response)
        return response.headers


def get_file(url: str, target: Path, *, on_bytes: Callable[[int, int | None], None]) -> None:
    """Write what a URL answers into a new file; ``on_bytes`` gets the bytes that arrived and all bytes, if known.

    Raises:
        RequestRefusedError: The storage refused it; the URL may have expired.
        ProviderError: The storage has a problem, or the response was cut off.
    """
    with _client(url) as client, client.stream("GET", url) as response, target.open("xb") as file:
        _raise_for_status(response)
        _save_stream(response, file, on_bytes=on_bytes)


def get_bytes(url: str, *, max_bytes: int) -> bytes:
    """The first ``max_bytes`` of what a URL answers.

    Raises:
        RequestRefusedError: The storage refused it; the file may not be there, or the URL may have expired.
        ProviderError: The storage has a problem.
    """
    data = bytearray()
    with _client(url) as client, client.stream("GET", url) as response:
        _raise_for_status(response)
        for chunk in response.iter_bytes(CHUNK_BYTES):
            data += chunk
            if len(data) >= max_bytes:
                break
    return bytes(data[:max_bytes])


def download(
    client: openai.OpenAI,
    path: str,
    target: Path,
    *,
    query: Mapping[str, str],
    on_bytes: Callable[[int, int | None], None],
) -> None:
    """Write what a path of an API answers into a new file, also if it leads to a presigned URL. Within ``ApiClient``.

    Raises:
        InvalidResponseError: It leads to an address that is not a public https host.
    """
    url = str(client.base_url).rstrip("/") + path
    headers = {"Authorization": f"Bearer {client.api_key}", "User-Agent": str(client.user_agent)}
    with _client(url) as plain, plain.stream("GET", url, params=dict(query), headers=headers) as response:
        if response.status_code in (301, 302, 303, 307, 308):
            address = require_signed_url(response.headers.get("location", ""), api_url=url)
        elif response.status_code >= 400:
            raise openai.APIStatusError(f"HTTP {response.status_code}", response=response, body=_error_body(response))
        else:
            with target.open("xb") as file:
                _save_stream(response, file, on_bytes=on_bytes)
            return
    get_file(address, target, on_bytes=on_bytes)


def _error_body(response: httpx2.Response) -> object:
    """The JSON of an error; ``None`` if it is something else or too large."""
    content = bytearray()
    for chunk in response.iter_raw(MAX_ERROR_BYTES):
        content += chunk
        if len(content) > MAX_ERROR_BYTES:
            return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _save_stream(response: httpx2.Response, file: BinaryIO, *, on_bytes: Callable[[int, int | None], None]) -> None:
    """Write the body of a response, and check its length if it was announced.

    Raises:
        ConnectionFailedError: The response was cut off.
    """
    announced = response.headers.get("content-length", "")
    total = int(announced) if announced.isascii() and announced.isdigit() else None
    done = 0
    for chunk in response.iter_raw(CHUNK_BYTES):
        file.write(chunk)
        done += len(chunk)
        on_bytes(done, total)
    if total is not None and done != total:
        raise ConnectionFailedError(
            f"the download stopped after {done:,} of {total:,} bytes", "check the network, then try again"
        )


@contextmanager
def _client(url: str) -> Iterator[httpx2.Client]:
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    # as for the API's own client: a connection without TLS, as to this machine, needs no trust store
    with httpx2.Client(timeout=timeout, follow_redirects=False, verify=not url.startswith("http://")) as client:
        yield client


def _chunks(source: BinaryIO, size: int) -> Iterator[bytes]:
    done = 0
    while done < size and (data := source.read(min(CHUNK_BYTES, size - done))):
        done += len(data)
        yield data


def _raise_for_status(response: httpx2.Response) -> None:
    """The errors name the host and not the URL, whose signature is a secret."""
    status, host = response.status_code, response.url.host
    if 200 <= status < 300:
        return
    if status >= 500 or status in (408, 429):
        raise ProviderError(f"the storage {host} answered HTTP {status}", "try again later; nothing was paid")
    raise RequestRefusedError(
        f"the storage {host} refused the transfer: HTTP {status}", "its address may have expired: try again"
    )


def _is_loopback(parts: SplitResult) -> bool:
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
