"""Generate texts with the models that requests name: what chats and completions have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

from ftpipe.errors import FtpipeError, UsageError
from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.request import GenerationRequest, LogitBiasError
from ftpipe.modeling.chat_tokenizer import ChatTemplateError
from ftpipe.server.api.answer_streams import CheckCancelled
from ftpipe.server.cancellation import RequestCancelledError
from ftpipe.server.model_resolver import ModelResolver, ResolvedModel
from ftpipe.server.protocol import ApiRequest, bad_request, model_not_found, model_unavailable
from ftpipe.server.shadow.low_priority import CallerCount
from ftpipe.server.storage import Store

SEED_COUNT = 2**63


class GenerationBackend(Protocol):
    """What generates text; can be called from several threads."""

    def load(self, base: str) -> Future[Any]:
        """Load a base model in the background; the future is done at once if it is in memory."""

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """The answer in pieces; the last one has a finish reason and the token counts.

        ``check_cancelled`` is called before each token, and raises an error to end the work.
        """

    def close(self) -> None:
        """Let go of the models; what is being generated fails."""


class TextGenerator:
    """Finds what serves a name, and generates with it.

    Args:
        store: The server's database.
        models: Finds what serves a name.
        engine: Generates the texts.
        callers: Counts the answers that callers wait for.
    """

    def __init__(self, store: Store, models: ModelResolver, engine: GenerationBackend, callers: CallerCount) -> None:
        self._store = store
        self._models = models
        self._engine = engine
        self._callers = callers

    def load_model(self, request: ApiRequest, name: str) -> Future[Any]:
        """Load the base model of a name, so that it is not waited for in the place of other requests."""
        return self._engine.load(self.resolve(request, name).base)

    def resolve(self, request: ApiRequest, name: str) -> ResolvedModel:
        """What serves a name; whoever sets a route lets every owner of a key use its model.

        Raises:
            ApiError: 404 if nothing does.
        """
        with self._store.read() as tx:
            model = self._models.resolve(tx, None if request.alias else request.owner, name)
        if model is None:
            raise model_not_found(request.alias or name)
        return model

    def generate(
        self, request: ApiRequest, model: ResolvedModel, generation: GenerationRequest, check_cancelled: CheckCancelled
    ) -> Iterator[Delta]:
        """One answer in pieces; nothing is computed before the first one is taken.

        Raises:
            ApiError: 400 for a wrong ``logit_bias``, 503 if the model cannot answer.
            UsageError: Something else in the request is wrong.
            ChatTemplateError: The model's template refuses the messages, or the model has none.
        """
        is_interactive = request.priority == "interactive"
        try:
            check_cancelled()
            with self._callers.counted() if is_interactive else nullcontext():
                yield from self._engine.generate(
                    base=model.base, adapter=model.adapter, request=generation, check_cancelled=check_cancelled
                )
        except LogitBiasError as exc:
            raise bad_request(f"Invalid 'logit_bias': {exc.message}.", "logit_bias", exc.code) from exc
        except (RequestCancelledError, UsageError, ChatTemplateError):
            raise
        except FtpipeError as exc:
            raise model_unavailable(exc) from exc
