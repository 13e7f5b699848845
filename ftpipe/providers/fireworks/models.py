"""Models of Fireworks: bases that can be trained, tuned models, their weights, and chat with deployed ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import openai

from ftpipe.catalog.base_models import base_hint
from ftpipe.errors import InvalidResponseError, NotFoundError, ProviderError, RequestRefusedError
from ftpipe.providers.client import ChatAddress
from ftpipe.providers.fireworks.api import RESOURCE_ID, FireworksApi
from ftpipe.providers.fireworks.responses import unix_seconds
from ftpipe.providers.models import ModelsClient, losses_not_supported
from ftpipe.providers.responses import AnswerPiece, ChatCompletion, RemoteModel
from ftpipe.providers.signed_urls import get_file, require_signed_url
from ftpipe.records.row_losses import RowLosses

T = TypeVar("T")

BASE_PARENT = "accounts/fireworks"
"""The account of the bases."""
WEIGHT_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
MAX_DOWNLOAD_SECONDS = 6 * 3600.0


class FireworksModels:
    """The models of an account, and the bases of Fireworks."""

    def __init__(self, fireworks: FireworksApi) -> None:
        self._fireworks = fireworks
        self._api = fireworks.api
        self._openai = ModelsClient(fireworks.api)
        self._chat_names: dict[str, str] = {}

    def names(self) -> list[str]:
        """The tuned models of the account, and the bases that can be trained with LoRA, sorted."""
        return sorted({model.id for model in self.all()})

    def all(self) -> list[RemoteModel]:
        """The tuned models of the account, and the bases that can be trained with LoRA."""
        own_models = f"{self._fireworks.parent}/models"

        def call(client: openai.OpenAI) -> list[RemoteModel]:
            own = self._fireworks.list(client, own_models)
            bases = self._fireworks.list(client, f"{BASE_PARENT}/models")
            listed = [*own, *(fields for fields in bases if is_tunable(fields) is True)]
            return [_listed_model(fields) for fields in listed if isinstance(fields.get("name"), str)]

        return self._api.read("list the models", call, list)

    def tunable_base(self, model: str) -> dict[str, Any]:
        """The fields of a base that can be trained with LoRA.

        Raises:
            NotFoundError: There is no such model.
            RequestRefusedError: It cannot be trained.
        """
        name = base_name(model)
        try:
            fields = self._api.read(f"get model {name}", lambda client: self._fireworks.get(client, name), dict)
        except NotFoundError:
            try:
                names = [each.rsplit("/", 1)[-1] for each in self.names()]
            except ProviderError:
                names = []
            raise NotFoundError(
                f"Fireworks has no base model {model!r}; nothing was sent",
                base_hint(model.rsplit("/", 1)[-1], names),
            ) from None
        if is_tunable(fields) is False:
            raise RequestRefusedError(
                f"Fireworks does not train {name} with LoRA (its supervisedLoraTunable is false)",
                "choose another base with --model; `ftpipe models bases --provider fireworks` lists them",
            )
        return fields

    def require_base(self, model: str) -> None:
        """Refuse a base model that Fireworks does not have or does not train; nothing has been sent before this.

        Raises:
            NotFoundError: There is no such model.
            RequestRefusedError: It cannot be trained.
        """
        self.tunable_base(model)

    def delete(self, model: str) -> None:
        """Delete a tuned model.

        Raises:
            NotFoundError: There is no such model.
        """
        name = self.full_name(model)
        self._api.call_once(
            f"delete model {name}",
            lambda client: self._fireworks.delete(client, name),
            lambda _nothing: None,
        )

    def shutdown_date(self, model: str) -> str | None:  # noqa: ARG002 - a part of every host's models
        """``None``: a base's ``deprecationDate`` ends its serverless deployment only, and tuned models have none.

        Source: fireworks-ai 1.2.30, model.py, deprecation_date, 2026-11-28.
        """
        return None

    def chat(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> ChatCompletion:
        """One chat completion of a base, or of a tuned model that is deployed.

        Raises:
            NotFoundError: The model is not deployed.
        """
        return self._with_chat_name(model, lambda name: self._openai.chat(name, messages, **sampling))

    def stream(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[AnswerPiece]:
        """One chat completion of a base, or of a tuned model that is deployed, piece by piece."""
        yield from self._with_chat_name(model, lambda name: _start(self._openai.stream(name, messages, **sampling)))

    def chat_address(self, model: str) -> ChatAddress:
        """Where chats with a model go; which form of its name is known is found with an answer of one token."""
        if model not in self._chat_names and len(names := self.chat_names(model)) > 1:
            probe: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
            try:
                self._with_chat_name(model, lambda name: self._openai.chat(name, probe, max_tokens=1))
            except ProviderError:
                return self._api.chat_address(names[0])
        return self._api.chat_address(self._chat_names.get(model) or self.chat_names(model)[0])

    def losses(
        self,
        path: Path,  # noqa: ARG002 - a part of every host's models
        models: Sequence[str],  # noqa: ARG002
        *,
        on_rows: Callable[[int, int], None],  # noqa: ARG002
    ) -> list[RowLosses]:
        """Not possible at Fireworks.

        Raises:
            RequestRefusedError: Always.
        """
        raise RequestRefusedError(
            "Fireworks does not compute the loss of single rows", "`ftpipe evaluate` compares answers there"
        )

    def token_logprobs(self, model: str, ids: Sequence[int]) -> list[float | None]:  # noqa: ARG002
        """Refuse: only ftpipe's own server is asked for them."""
        raise losses_not_supported("Fireworks", "tokens")

    def _with_chat_name(self, model: str, call: Callable[[str], T]) -> T:
        """Call with each name that the model can have in chat, until one is known; that one is used from then on."""
        if model in self._chat_names:
            return call(self._chat_names[model])
        names = self.chat_names(model)
        for name in names[:-1]:
            try:
                result = call(name)
            except NotFoundError:
                continue
            self._chat_names[model] = name
            return result
        result = call(names[-1])
        self._chat_names[model] = names[-1]
        return result

    def chat_names(self, model: str) -> list[str]:
        """Names to try in chat for a model, the likeliest first.

        The documentation has both forms for a tuned model, with the path of the deployment and with its id.

        Raises:
            NotFoundError: It is a tuned model that no deployment serves.
        """
        name = self.full_name(model)
        if "#" in model or name.startswith(f"{BASE_PARENT}/"):
            return [model if "#" in model else name]
        collection = f"{self._fireworks.parent}/deployments"
        listed = self._api.read("list the deployments", lambda client: self._fireworks.list(client, collection), list)
        deployments = [
            str(fields.get("name"))
            for fields in listed
            if fields.get("baseModel") == name and fields.get("state") not in ("DELETING", "DELETED", "FAILED")
        ]
        if not deployments:
            raise NotFoundError(
                f"{name} is not deployed, so it does not answer",
                f"start a deployment with `ftpipe deployments create {model}`; it is billed per hour",
            )
        return [form for path in deployments for form in chat_forms(name, path)]

    def download(self, model: str, folder: Path, *, on_bytes: Callable[[int, int | None], None]) -> list[Path]:
        """Download the files of a tuned model into an empty folder: the adapter in PEFT's form.

        Raises:
            LocalStateError: A file exists already.
            ProviderError: The endpoint does not give the weights away.
        """
        name = self.full_name(model)
        urls = self._api.read(
            f"get the download URLs of model {name}",
            lambda client: self._fireworks.get(client, f"{name}:getDownloadEndpoint"),
            lambda fields: fields.get("filenameToSignedUrls"),
        )
        if not isinstance(urls, Mapping) or not urls:
            raise ProviderError(f"{name} has no files to download", "it may still be uploading: try again later")
        files = {_safe_file_name(key): str(url) for key, url in urls.items()}
        done, paths = 0, []
        for file_name, url in sorted(files.items()):
            path = folder / file_name
            self._download_one(url, path, _from(done, on_bytes))
            done += path.stat().st_size
            paths.append(path)
        return paths

    def _download_one(self, url: str, path: Path, on_bytes: Callable[[int, int | None], None]) -> None:
        checked = require_signed_url(url, api_url=self._api.base_url)
        self._api.call_once(
            f"download {path.name}",
            lambda _client: get_file(checked, path, on_bytes=on_bytes),
            lambda _nothing: None,
            seconds=MAX_DOWNLOAD_SECONDS,
        )

    def full_name(self, model: str) -> str:
        """The full name of a model of the account, or a full name as it is, without a deployment.

        Raises:
            NotFoundError: It is neither.
        """
        text = model.partition("#")[0]
        parts = text.split("/")
        if len(parts) == 1:
            parts = [*self._fireworks.parent.split("/"), "models", text]
        return _checked_name(parts, model)


def base_name(model: str) -> str:
    """The full name of a base: ``accounts/fireworks/models/{id}`` for its id alone.

    Raises:
        NotFoundError: It has not the form of a model's name.
    """
    parts = model.split("/")
    return _checked_name(parts if len(parts) > 1 else [*BASE_PARENT.split("/"), "models", model], model)


def _checked_name(parts: list[str], model: str) -> str:
    is_name = len(parts) == 4 and (parts[0], parts[2]) == ("accounts", "models")
    if not is_name or not RESOURCE_ID.fullmatch(parts[1]) or not RESOURCE_ID.fullmatch(parts[3]):
        raise NotFoundError(
            f"{model[:200]!r} is not the name of a model of Fireworks",
            "names are like qwen3-8b or accounts/fireworks/models/qwen3-8b",
        )
    return "/".join(parts)


def is_tunable(fields: Mapping[str, Any]) -> bool | None:
    """Whether a base can be trained with LoRA; ``None`` if the endpoint does not say.

    Source: Fireworks API description, gatewayModel.supervisedLoraTunable, 2026-11-28.
    """
    for name in ("supervisedLoraTunable", "tunable"):
        if isinstance(fields.get(name), bool):
            return bool(fields[name])
    return None


def _listed_model(fields: Mapping[str, Any]) -> RemoteModel:
    name = str(fields["name"])
    created = unix_seconds(fields.get("createTime"))
    return RemoteModel(id=name, created_at=created, owned_by="/".join(name.split("/")[:2]))


def chat_forms(model: str, deployment: str) -> tuple[str, str]:
    """The two forms of the name of a deployed tuned model."""
    return f"{model}#{deployment}", f"{model}#{deployment.rsplit('/', 1)[-1]}"


def _safe_file_name(name: object) -> str:
    """The name of a file of weights, if it cannot leave the folder.

    Raises:
        InvalidResponseError: It has another form.
    """
    text = str(name)
    if not WEIGHT_FILE.fullmatch(text) or PurePosixPath(text).name != text:
        raise InvalidResponseError(
            f"the endpoint names a file {text[:200]!r}, which ftpipe does not write", "download it in the dashboard"
        )
    return text


def _from(before: int, on_bytes: Callable[[int, int | None], None]) -> Callable[[int, int | None], None]:
    """Report the bytes of one file after those of the files before it."""
    return lambda size, _total: on_bytes(before + size, None)


def _start(pieces: Iterator[AnswerPiece]) -> Iterator[AnswerPiece]:
    """The same pieces, the first of them fetched, so that an error of the name is raised here."""
    try:
        first = next(pieces)
    except StopIteration:
        return iter(())

    def rest() -> Iterator[AnswerPiece]:
        yield first
        yield from pieces

    return rest()
