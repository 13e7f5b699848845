"""Options of ``ftpipe serve`` for an inference server that answers in place of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.errors import AuthenticationError, ConnectionFailedError, UsageError
from ftpipe.formatting import sanitize_line

if TYPE_CHECKING:
    from ftpipe.cli.context import CliContext
    from ftpipe.gateway.inference.client import ListedModel
    from ftpipe.gateway.inference.routes import InferenceUpstream
    from ftpipe.gateway.inference.server import InferenceSettings
    from ftpipe.server.routes import ModelRoutes
    from ftpipe.server.settings import ServeSettings

inference_options = shared.combine_options(
    click.option(
        "--inference",
        metavar="URL",
        help="Let this vLLM or SGLang server answer chats and completions, with the adapters that are trained here.",
    ),
    click.option(
        "--inference-model",
        "inference_models",
        multiple=True,
        metavar="BASE=NAME",
        help="Name that a base model has there.  [default: the one in its /v1/models that fits]  Repeatable.",
    ),
    click.option(
        "--inference-path",
        "inference_paths",
        multiple=True,
        metavar="FROM=TO",
        help="Folder of this machine, and where the inference server sees it, as in a container. Repeatable.",
    ),
    click.option("--inference-key-env", metavar="NAME", help="Environment variable with the key of that server."),
    click.option(
        "--inference-adapters",
        type=click.IntRange(1, 100_000),
        metavar="N",
        help="Adapters that it holds at the same time; others are unloaded.  [default: 64]",
    ),
)


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Options of an inference server."""

    inference: str | None = None
    inference_models: tuple[str, ...] = ()
    inference_paths: tuple[str, ...] = ()
    inference_key_env: str | None = None
    inference_adapters: int | None = None


def inference_settings(options: InferenceOptions, environment: Mapping[str, str]) -> InferenceSettings | None:
    """Which inference server answers; ``None`` without ``--inference``.

    Raises:
        UsageError: An option cannot be used, or needs another one.
        AuthenticationError: The variable of the key is not set.
    """
    if options.inference is None:
        for field in fields(InferenceOptions):
            if getattr(options, field.name):
                name = field.name.replace("_", "-").removesuffix("s") + ("s" if "adapters" in field.name else "")
                raise UsageError(f"--{name} needs --inference", "add --inference URL")
        return None
    from ftpipe.gateway.inference.adapters import parse_path_map
    from ftpipe.gateway.inference.bases import parse_base_names
    from ftpipe.gateway.inference.server import MAX_LOADED_ADAPTERS, InferenceSettings
    from ftpipe.providers.address import origin_of

    origin_of(options.inference)
    if "@" in options.inference or "?" in options.inference:
        raise UsageError("--inference has a password or a query in its URL", "use --inference-key-env NAME for a key")
    key_env = options.inference_key_env or ""
    if key_env and not environment.get(key_env):
        raise AuthenticationError(f"{key_env} is not set", f"export {key_env}=… (or put it into .env)")
    return InferenceSettings(
        url=options.inference,
        key=environment[key_env] if key_env else "",
        key_env=key_env,
        base_names=parse_base_names(options.inference_models),
        paths=parse_path_map(options.inference_paths),
        max_loaded_adapters=options.inference_adapters or MAX_LOADED_ADAPTERS,
    )


def open_inference(
    context: CliContext, inference: InferenceSettings, settings: ServeSettings, routes: ModelRoutes | None
) -> InferenceUpstream:
    """Look at the inference server, so that a wrong key or name is an error at once.

    One that does not answer yet is only a warning: it may be starting, and jobs can be trained meanwhile.

    Raises:
        FtpipeError: It cannot be used.
    """
    from ftpipe.gateway.inference.bases import find_base, refuse_unlisted
    from ftpipe.gateway.inference.routes import InferenceUpstream
    from ftpipe.providers.address import is_plain, origin_of

    if inference.key and is_plain(origin_of(inference.url)):
        context.warn_once(f"the key in {inference.key_env} goes to {inference.url} without encryption")
    upstream = InferenceUpstream(settings, inference, named=routes)
    try:
        listed = asyncio.run(_look(inference))
    except ConnectionFailedError as exc:
        context.warn_once(f"{exc.message}; chats get an error until it answers. Next step: {exc.hint}")
        return upstream
    refuse_unlisted(inference.base_names, listed, inference.url)
    installed = [name for name in upstream.base_models.names() if upstream.base_models.is_known(name)]
    names = {base: find_base(base, listed, inference.base_names) for base in (*inference.base_names, *installed)}
    for base, name in names.items():
        if name is not None:
            context.print_status(
                f"{sanitize_line(base, 100)} → {sanitize_line(name, 150)} at {sanitize_line(inference.url, 200)}"
            )
    if not any(names.values()):
        has = ", ".join(model.name for model in listed if not model.is_adapter)
        example = f"--inference-model {next(iter(installed), 'BASE')}=NAME"
        raise UsageError(
            f"no model of {inference.url} is a base model of this machine; it has {has or 'none'}",
            f"if one of them is, name it: {example}",
        )
    return upstream


async def _look(inference: InferenceSettings) -> list[ListedModel]:
    """The models of the inference server, if it can load adapters."""
    client = inference.client()
    try:
        listed = await client.models()
        if not await client.can_load():
            raise client.without_loading()
        return listed
    finally:
        await client.close()
