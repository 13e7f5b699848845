"""A server with vLLM's or SGLang's adapter routes and oddities, on loopback; it answers with the name of the adapter.

By hand: ``python -m tests.fakes.vllm --port 8000``, then ``ftpipe serve --inference http://127.0.0.1:8000``.

Source: as for ``ftpipe/gateway/inference/client.py``.
"""

from __future__ import annotations

import argparse
import http.server
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from tests.fakes.chat_host import ChatCall, Exchange

BASE = "smollm2-135m-instruct"


@dataclass
class InferenceHost:
    """The server; a context manager that runs it in a thread.

    Attributes:
        max_loaded: SGLang's ``--max-loaded-loras`` of older versions: more adapters are refused.
        loads_adapters: Whether vLLM was started with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING``.
        adapters: The loaded adapters: name → path.
        chats: Requests for answers that have arrived.
        admin: Names of the calls that load and unload, with the adapter's name.
        script: Answers to the next requests for answers; then the usual one.
        before_load: Called before an adapter is loaded.
        redirect: Where the list of models redirects to.
        is_closing: Set when the server stops.
    """

    api: Literal["vllm", "sglang"] = "vllm"
    base: str = BASE
    key: str = ""
    max_loaded: int | None = None
    loads_adapters: bool = True
    port: int = 0
    adapters: dict[str, str] = field(default_factory=dict)
    chats: list[ChatCall] = field(default_factory=list)
    admin: list[tuple[str, str]] = field(default_factory=list)
    script: list[Callable[[Exchange], None]] = field(default_factory=list)
    before_load: Callable[[], object] = lambda: None
    redirect: str = ""
    is_closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host._get(self.path, Exchange(self, {}), dict(self.headers))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
                self.close_connection = True
                host._post(self.path, Exchange(self, body), {name.lower(): text for name, text in self.headers.items()})

            def log_message(self, *_args: object) -> None:
                """Nothing is printed."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """Have no adapter, as after a restart."""
        self.adapters.clear()

    def _get(self, path: str, exchange: Exchange, headers: dict[str, str]) -> None:
        if self._is_refused(exchange, {name.lower(): text for name, text in headers.items()}):
            return
        if path == "/v1/models" and self.redirect:
            exchange.head(307, "text/plain", location=self.redirect)
        elif path == "/v1/models":
            exchange.json({"object": "list", "data": self.cards()})
        elif path == self._admin_path("load") and self.loads_adapters:
            exchange.json({"detail": "Method Not Allowed"}, 405)
        else:
            exchange.json({"detail": "Not Found"}, 404)

    def _post(self, path: str, exchange: Exchange, headers: dict[str, str]) -> None:
        if self._is_refused(exchange, headers):
            return
        if path in ("/v1/chat/completions", "/v1/completions"):
            self.chats.append(ChatCall(path, headers, exchange.body))
            (self.script.pop(0) if self.script else self._answer)(exchange)
        elif path == self._admin_path("load") and self.loads_adapters:
            self.admin.append(("load", exchange.body["lora_name"]))
            self.before_load()
            self._load(exchange)
        elif path == self._admin_path("unload") and self.loads_adapters:
            self.admin.append(("unload", exchange.body["lora_name"]))
            self._unload(exchange)
        else:
            exchange.json({"detail": "Not Found"}, 404)

    def _admin_path(self, verb: str) -> str:
        return f"{'' if self.api == 'sglang' else '/v1'}/{verb}_lora_adapter"

    def _is_refused(self, exchange: Exchange, headers: dict[str, str]) -> bool:
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            exchange.json({"error": "Unauthorized"}, 401)
            return True
        return False

    def cards(self) -> list[dict[str, Any]]:
        """What the list of models has."""
        card = {"object": "model", "created": 1, "owned_by": self.api}
        cards = [{"id": self.base, "root": self.base, "parent": None, **card}]
        if self.api == "vllm":
            cards += [{"id": name, "root": path, "parent": self.base, **card} for name, path in self.adapters.items()]
        return cards

    def _load(self, exchange: Exchange) -> None:
        name, path = exchange.body["lora_name"], exchange.body["lora_path"]
        if name in self.adapters:
            self._refuse(exchange, 400, f"The lora adapter '{name}' has already been loaded.")
        elif self.max_loaded is not None and len(self.adapters) >= self.max_loaded:
            self._refuse(exchange, 400, f"Maximum number of loaded LoRA adapters is {self.max_loaded}.")
        elif not (Path(path) / "adapter_config.json").is_file():
            self._refuse(exchange, 404, f"Loading lora {name} failed: No adapter found for {path}")
        else:
            self.adapters[name] = path
            self._succeed(exchange, f"Success: LoRA adapter '{name}' added successfully.")

    def _unload(self, exchange: Exchange) -> None:
        name = exchange.body["lora_name"]
        if self.adapters.pop(name, None) is None:
            self._refuse(exchange, 404, f"The lora adapter '{name}' cannot be found.")
        else:
            self._succeed(exchange, f"Success: LoRA adapter '{name}' removed successfully.")

    def _succeed(self, exchange: Exchange, text: str) -> None:
        if self.api == "sglang":
            exchange.json({"success": True, "error_message": None, "loaded_adapters": self.adapters})
            return
        exchange.head(200, "text/plain; charset=utf-8")
        exchange.write(text.encode())

    def _refuse(self, exchange: Exchange, status: int, message: str) -> None:
        if self.api == "sglang":
            exchange.json({"success": False, "error_message": message}, 400)
            return
        exchange.json({"error": {"message": message, "type": "Error", "param": None, "code": status}}, status)

    def _answer(self, exchange: Exchange) -> None:
        model = exchange.body["model"]
        adapter = model.partition(":")[2] if self.api == "sglang" else model
        if adapter not in ("", self.base, *self.adapters):
            self._refuse_model(exchange, adapter)
            return
        text = f"answer of {adapter or model}"
        if exchange.body.get("stream"):
            self._stream(exchange, text.split(" "))
            return
        extras = {"system_fingerprint": "vllm-0.26", "kv_transfer_params": None, "prompt_logprobs": None}
        choice = {"index": 0, "finish_reason": "stop", "stop_reason": None, "logprobs": None}
        content = {"text": text} if "prompt" in exchange.body else {"message": {"role": "assistant", "content": text}}
        head = {"id": "cmpl-theirs", "object": self._object(exchange), "created": 1, "model": model}
        usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        exchange.json({**head, "choices": [{**choice, **content}], "usage": usage, **extras})

    def _refuse_model(self, exchange: Exchange, adapter: str) -> None:
        if self.api == "sglang":
            message = f"The following requested LoRA adapters are not loaded: {adapter}\nLoaded adapters: []."
            exchange.json({"object": "error", "message": message, "type": "BadRequest", "code": 400}, 400)
        else:
            self._refuse(exchange, 404, f"The model `{adapter}` does not exist.")

    def _stream(self, exchange: Exchange, words: list[str]) -> None:
        head = {"id": "cmpl-theirs", "object": self._object(exchange), "created": 1, "model": exchange.body["model"]}
        exchange.head(200, "text/event-stream; charset=utf-8")
        for number, word in enumerate(words):
            text = word if number == 0 else f" {word}"
            content = {"text": text} if "prompt" in exchange.body else {"delta": {"content": text}}
            reason = "stop" if number == len(words) - 1 else None
            exchange.event({**head, "choices": [{"index": 0, "finish_reason": reason, **content}]})
        if (exchange.body.get("stream_options") or {}).get("include_usage"):
            exchange.event({**head, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 3}})
        exchange.write(b"data: [DONE]\n\n")

    @staticmethod
    def _object(exchange: Exchange) -> str:
        if "prompt" in exchange.body:
            return "text_completion"
        return "chat.completion.chunk" if exchange.body.get("stream") else "chat.completion"


def main() -> None:
    """Run it until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=8000, help="0 for any free port")
    parser.add_argument("--api", choices=["vllm", "sglang"], default="vllm")
    parser.add_argument("--model", default=BASE, help="name of the base model")
    options = parser.parse_args()
    with InferenceHost(api=options.api, base=options.model, port=options.port) as host:
        print(f"listening on {host.url}", flush=True)  # noqa: T201  # the output of this command
        threading.Event().wait()


if __name__ == "__main__":
    main()
