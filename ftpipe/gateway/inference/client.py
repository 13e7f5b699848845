"""Calls to an inference server other than requests for answers: list its models, load an adapter, unload one.

Source, read 2026-11-29:
vLLM: https://docs.vllm.ai/en/latest/features/lora/ and ``vllm/entrypoints/openai/models/serving.py``. Loading answers
200 with a sentence; 400 ``InvalidUserInput`` for a name that is loaded already; 404 if the path has no adapter; 500
with the reason, such as a rank above ``--max-lora-rank``. Without ``VLLM_ALLOW_RUNTIME_LORA_UPDATING`` the route does
not exist: 404 ``{"detail": "Not Found"}``. Unloading answers 404 for an unknown name, and 500 for an adapter that the
engine does not have any more. ``/v1/models`` lists adapters, with ``parent``.
SGLang: https://docs.sglang.io/docs/advanced_features/lora and ``srt/managers/tokenizer_communicator_mixin.py``. Both
calls answer 400 with ``error_message`` for every failure. Older versions refuse an adapter beyond
``--max-loaded-loras``, newer ones drop the one that was not used for the longest time. ``/v1/models`` lists adapters in
newer versions only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import orjson

from ftpipe import __version__
from ftpipe.errors import (
    AuthenticationError,
    ConfigError,
    ConnectionFailedError,
    InvalidResponseError,
    NotFoundError,
    RequestRefusedError,
    ResponseTimeoutError,
)
from ftpipe.gateway.chat_proxy import new_client
from ftpipe.providers.client import ChatAddress
from ftpipe.server.protocol import printable

LIST_SECONDS = 10.0
LOAD_SECONDS = 120.0
"""Maximum time of loading or unloading one adapter; SGLang waits for the requests that still use it."""
MAX_RESPONSE_BYTES = 8 * 1024 * 1024
MAX_REASON_CHARACTERS = 400
NO_FOLDER_PHRASES = ("no such file", "not found", "no adapter found", "repo id must be")
"""In SGLang's reason if it does not see a folder; the last one is huggingface_hub's, which takes it for a hub id."""

Api = Literal["vllm", "sglang"]


class AdapterLimitError(RequestRefusedError):
    """The inference server holds as many adapters as it can."""

    code = "adapter_limit"


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model that the inference server lists."""

    name: str
    root: str
    """The folder or hub id that it was loaded from; often its name again."""
    is_adapter: bool


class InferenceClient:
    """Calls one inference server.

    Args:
        url: Its root, with or without ``/v1``.
        key: Its API key; empty if it needs none. Sent to this server only: redirects are refused.
        key_env: The variable that has the key, for messages.

    Attributes:
        root: The URL without ``/v1``.
        api: What it is; known once its models were listed.
    """

    def __init__(self, url: str, key: str = "", key_env: str = "") -> None:
        self.root = url.rstrip("/").removesuffix("/v1")
        self.api: Api = "vllm"
        self._key = key
        self._key_env = key_env
        self._http: httpx2.AsyncClient | None = None

    @property
    def http(self) -> httpx2.AsyncClient:
        """Makes the requests; must be used in one event loop."""
        self._http = self._http or new_client()
        return self._http

    @property
    def secrets(self) -> tuple[str, ...]:
        """What messages to clients leave out: the key and the host."""
        return tuple(text for text in (self._key, urlsplit(self.root).netloc) if text)

    def address(self, path: str, model: str) -> ChatAddress:
        """Where requests for answers go, as ``/chat/completions``."""
        return ChatAddress(f"{self.root}/v1{path}", self._headers(), self._key, model)

    def model_name(self, base: str, adapter: str | None) -> str:
        """How a request names a base model or one of its adapters."""
        if adapter is None:
            return base
        return f"{base}:{adapter}" if self.api == "sglang" else adapter

    async def models(self) -> list[ListedModel]:
        """The models that it lists.

        Raises:
            ConnectionFailedError: It cannot be reached.
            AuthenticationError: It refuses the key.
            InvalidResponseError: This is not an OpenAI-compatible server.
        """
        status, content = await self._call("GET", "/v1/models", LIST_SECONDS)
        if status != 200:
            raise self._not_compatible(f"GET /v1/models answered {status}")
        cards = _object(content).get("data")
        if not isinstance(cards, list):
            raise self._not_compatible("GET /v1/models did not answer with a list of models")
        cards = [card for card in cards if isinstance(card, Mapping) and isinstance(card.get("id"), str)]
        owners = [card.get("owned_by") for card in cards]
        if "ftpipe" in owners:
            message = f"{self.root} is a server of ftpipe itself"
            raise ConfigError(message, "give the URL of a vLLM or SGLang server, or use --route for its models")
        self.api = "sglang" if "sglang" in owners else "vllm"
        return [_listed(card) for card in cards]

    async def can_load(self) -> bool:
        """Whether it has the route that loads adapters; GET is not one of the route's methods and changes nothing."""
        status, _ = await self._call("GET", self._admin_path("load"), LIST_SECONDS)
        return status != 404

    async def load(self, name: str, path: str) -> None:
        """Load an adapter; one that is loaded already stays.

        Args:
            name: Its name there.
            path: Its folder, as the inference server sees it.

        Raises:
            ConnectionFailedError: The server cannot be reached.
            AdapterLimitError: It holds as many adapters as it can.
            NotFoundError: It does not see the folder.
            RequestRefusedError: It refuses the adapter, or adapters at all.
        """
        fields = {"lora_name": name, "lora_path": path}
        status, content = await self._call("POST", self._admin_path("load"), LOAD_SECONDS, fields)
        reason = _reason(content)
        if status == 200 or (status == 400 and "already" in reason.lower()):
            return
        if status == 404 and not _object(content).get("error"):
            raise self.without_loading()
        if "maximum number" in reason.lower():
            message = f"{self.root} does not load another adapter: {reason}"
            raise AdapterLimitError(message, "start it with a larger --max-loaded-loras")
        if status == 404 or any(phrase in reason.lower() for phrase in NO_FOLDER_PHRASES):
            message = f"{self.root} does not find the adapter in {path}: {reason}"
            raise NotFoundError(message, "let it read that folder, or map the path with --inference-path FROM=TO")
        message = f"{self.root} refuses the adapter in {path} with status {status}: {reason or 'no reason was given'}"
        raise RequestRefusedError(message, self._hint_for(reason))

    async def unload(self, name: str) -> bool:
        """Unload an adapter.

        Returns:
            ``False`` if the server refused, for example because it does not have the adapter.

        Raises:
            ConnectionFailedError: The server cannot be reached.
        """
        status, _ = await self._call("POST", self._admin_path("unload"), LOAD_SECONDS, {"lora_name": name})
        return status == 200

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _admin_path(self, verb: str) -> str:
        return f"{'' if self.api == 'sglang' else '/v1'}/{verb}_lora_adapter"

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    async def _call(
        self, method: str, path: str, seconds: float, fields: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of a response."""
        headers = {**self._headers(), "user-agent": f"ftpipe/{__version__}", "accept-encoding": "identity"}
        content = None if fields is None else orjson.dumps(fields)
        if content is not None:
            headers["content-type"] = "application/json"
        try:
            async with (
                asyncio.timeout(seconds),
                self.http.stream(method, f"{self.root}{path}", headers=headers, content=content) as response,
            ):
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_RESPONSE_BYTES:
                        raise self._not_compatible(
                            f"{method} {path} answered with more than {MAX_RESPONSE_BYTES} bytes"
                        )
        except (TimeoutError, httpx2.TimeoutException) as exc:
            message = f"the inference server {self.root} did not answer {method} {path} in {seconds:g} s"
            raise ResponseTimeoutError(message, f"see its log; `curl {self.root}/v1/models` must answer") from exc
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            message = f"the inference server {self.root} cannot be reached: {str(exc) or type(exc).__name__}"
            raise ConnectionFailedError(message, f"start it; `curl {self.root}/v1/models` must answer") from exc
        if response.status_code in (401, 403):
            where = f"the key in {self._key_env}" if self._key_env else "requests without a key"
            hint = "give its --api-key in a variable, and the variable's name with --inference-key-env NAME"
            raise AuthenticationError(f"the inference server {self.root} refuses {where}", hint)
        if response.is_redirect:
            target = printable(response.headers.get("location", ""))
            message = f"the inference server {self.root} redirects to {target}, and redirects are not followed"
            raise ConfigError(message, "give the URL that it redirects to with --inference")
        return response.status_code, bytes(body)

    def _not_compatible(self, what: str) -> InvalidResponseError:
        message = f"{self.root} does not work as an OpenAI-compatible inference server: {what}"
        return InvalidResponseError(message, "give the root of a vLLM or SGLang server with --inference")

    def without_loading(self) -> RequestRefusedError:
        """The error for a server whose adapters cannot be changed."""
        return RequestRefusedError(f"{self.root} does not load adapters while it runs", self._hint_to_load())

    def _hint_to_load(self) -> str:
        if self.api == "sglang":
            return "start SGLang with --enable-lora, --max-lora-rank and --lora-target-modules"
        return "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora"

    def _hint_for(self, reason: str) -> str:
        text = reason.lower()
        if "rank" in text:
            return "start the inference server with a larger --max-lora-rank"
        if "not enabled" in text:
            return self._hint_to_load()
        return "see the inference server's log"


def _listed(card: Mapping[str, Any]) -> ListedModel:
    root = card.get("root")
    return ListedModel(card["id"], root if isinstance(root, str) else card["id"], bool(card.get("parent")))


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _reason(content: bytes) -> str:
    """What a refusal says: vLLM's error object, SGLang's ``error_message``, or the text itself."""
    body = _object(content)
    error = body.get("error")
    inner = error if isinstance(error, Mapping) else body
    text = inner.get("message") or inner.get("error_message") or inner.get("detail")
    if not isinstance(text, str):
        text = content[: 4 * MAX_REASON_CHARACTERS].decode("utf-8", "replace")
    return printable(" ".join(text.split()), MAX_REASON_CHARACTERS)
