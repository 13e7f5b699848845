"""``ftpipe serve``: run the embedded server in this terminal, or look at the one in the background."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.atomic_files import read_or_create_secret
from ftpipe.cli import options as shared
from ftpipe.cli.base_downloads import fetch_bases
from ftpipe.cli.commands.ui import NoPages, ServerPages
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command, Group
from ftpipe.cli.inference_options import InferenceOptions, inference_options, inference_settings, open_inference
from ftpipe.cli.shadow_options import ShadowOptions, shadow_options, shadow_settings
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.formatting import format_fields, format_time, plural, sanitize_block, sanitize_line
from ftpipe.paths import SERVER_KEY_FILE, data_dir_option, gateway_dir, server_dir

if TYPE_CHECKING:
    from ftpipe.gateway.routes import RegistryRoutes
    from ftpipe.server.routes import ModelRoutes
    from ftpipe.server.services import Upstream
    from ftpipe.server.settings import ServeSettings, ShadowSettings

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the server's files and jobs: a new one, or one that a server made.",
)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ShadowOptions, InferenceOptions):
    """Options of ``ftpipe serve``."""

    host: str = "127.0.0.1"
    port: int = 8321
    data_dir: Path | None = None
    api_key_file: Path | None = None
    no_key: bool = False
    ui: bool = False
    max_jobs: int = 1
    allow_python_graders: bool = False
    engine: str = "process"
    ray_address: str | None = None
    workers: int | None = None
    strategy: str = "auto"
    no_substitute_models: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allow_bases: tuple[str, ...] = ()
    precision: str = "auto"
    max_num_seqs: int = 32
    max_queued_requests: int = 64
    max_queue_seconds: float = 60.0
    routes: tuple[str, ...] = ()
    aliases: bool = False
    upstream: str | None = None
    upstream_model: str | None = None
    max_cost: float | None = None
    max_total_cost: float | None = None
    no_cost_limit: bool = False


@click.group(
    "serve",
    cls=Group,
    groups={
        "Address and keys": ("host", "port", "api_key_file", "no_key", "ui", "allowed_hosts", "allowed_origins"),
        "Training": ("max_jobs", "engine", "ray_address", "workers", "strategy", "allow_python_graders"),
        "Models and data": ("data_dir", "allow_bases", "no_substitute_models", "precision"),
        "Models under other names": ("routes", "aliases", "trusted_hosts"),
        "Training at a provider": ("upstream", "upstream_model", "max_cost", "max_total_cost", "no_cost_limit"),
        "Chats": ("max_num_seqs", "max_queued_requests", "max_queue_seconds"),
        "Answers by an inference server": tuple(field.name for field in fields(InferenceOptions)),
        "Shadow traffic": tuple(field.name for field in fields(ShadowOptions)),
    },
    lazy={
        "status": ("ftpipe.cli.commands.serve:serve_status", "Show whether the server runs, and how to reach it."),
        "stop": ("ftpipe.cli.commands.serve:stop", "Stop the server; jobs continue at the next start."),
        "key": ("ftpipe.cli.commands.serve:key", "Print the API key of the server on this machine."),
        "logs": ("ftpipe.cli.commands.serve:logs", "Show the log of the server."),
    },
    example="ftpipe serve --port 8321\nftpipe serve --workers 4 --strategy fsdp\n"
    "OPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=$(ftpipe serve key) python script.py",
)
@shared.listen_options(ServeOptions.host, ServeOptions.port)
@_data_dir
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with API keys, lines of OWNER:KEY.  [default on loopback: the key of `ftpipe serve key`]",
)
@click.option("--no-key", is_flag=True, help="Need no key: every user of this machine can use the server.")
@click.option("--ui", is_flag=True, help="Also show this project in the browser at /ui, as `ftpipe ui` does.")
@click.option(
    "--max-jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    default=ServeOptions.max_jobs,
    show_default=True,
    help="Maximum concurrent training jobs.",
)
@click.option(
    "--engine",
    type=click.Choice(["process", "ray"]),
    default=ServeOptions.engine,
    show_default=True,
    help="Where jobs are trained: on this machine, or on a Ray cluster.",
)
@click.option(
    "--ray-address", metavar="HOST:PORT", help="Address of the Ray cluster.  [default: the cluster of this machine]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes that train one job together.  [default: one per GPU; on a cluster without GPUs, one per machine]",
)
@click.option(
    "--strategy",
    type=click.Choice(["auto", "ddp", "fsdp"]),
    default=ServeOptions.strategy,
    show_default=True,
    help="What each of them holds: the whole base model (ddp) or a part of it (fsdp). auto: fsdp if ddp does not fit.",
)
@click.option(
    "--allow-python-graders",
    is_flag=True,
    help="Let graders of reinforcement run Python code of clients, in processes with limits (Linux).",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Further name under which clients reach the server, as host.docker.internal. Repeatable.",
)
@click.option(
    "--allow-origin",
    "allowed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let web pages of this origin use the server (CORS), as https://chat.example.com; * for all, with a key. "
    "Repeatable.",
)
@click.option(
    "--allow-base",
    "allow_bases",
    multiple=True,
    metavar="NAME",
    help="Hub id (ORG/NAME) of a base model that clients may use; downloaded first if it is not here. Repeatable.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "int8"]),
    default=ServeOptions.precision,
    show_default=True,
    help="In which answers are computed on a processor; auto is bfloat16 if it is faster here than float32. int8 is "
    "faster and changes answers: 18 of 240 in our test, with up to 4 of 48 fewer right. Training is not affected.",
)
@click.option(
    "--max-num-seqs", type=click.IntRange(1, 256), metavar="N", default=32, show_default=True, help="Chats in a batch."
)
@click.option(
    "--max-queued-requests",
    type=click.IntRange(0, 10_000),
    metavar="N",
    default=ServeOptions.max_queued_requests,
    show_default=True,
    help="Chats that may wait while others are computed; more are refused with status 429.",
)
@click.option(
    "--max-queue-seconds",
    type=shared.NumberRange(0, 3600, min_open=True),
    metavar="SECONDS",
    default=ServeOptions.max_queue_seconds,
    show_default=True,
    help="How long a chat may wait before it is refused with status 429.",
)
@click.option(
    "--no-substitute-models", is_flag=True, help="Refuse OpenAI's base models instead of training the default base."
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="OLD=NEW",
    help="Answer chats with the model OLD by the model NEW: an alias or model of the registry, or PROVIDER:MODEL. "
    "Repeatable.",
)
@click.option(
    "--aliases",
    is_flag=True,
    help="Answer chats under every alias of the registry. Chats with hosted models are paid with your key.",
)
@shared.trust_host
@shadow_options
@inference_options
@click.option(
    "--upstream",
    metavar="PROVIDER",
    help="Train at this provider, not on this machine, and forward chats to it: for scripts written for OpenAI.",
)
@click.option(
    "--upstream-model",
    metavar="MODEL",
    help="Base model there for jobs and chats that name one of OpenAI's.  [default: the provider's default model]",
)
@click.option(
    "--max-cost",
    type=shared.NumberRange(min=0),
    metavar="AMOUNT",
    help="Maximum cost of one job, by its estimate in the provider's currency; others fail before they are created.",
)
@click.option(
    "--max-total-cost",
    type=shared.NumberRange(min=0),
    metavar="AMOUNT",
    help="Maximum cost of all jobs together that the gateway ever creates. Chats do not count.",
)
@click.option("--no-cost-limit", is_flag=True, help="Let clients create jobs at the provider at any cost.")
@click.pass_context
def serve(ctx: click.Context, /, **params: Any) -> None:
    """Run the embedded server: files, fine-tuning jobs, models and chat, compatible with the OpenAI API.

    It listens on 127.0.0.1 by default. There, it takes the key that `ftpipe serve key` prints; so does the server that
    `ftpipe train` starts in the background. Jobs and files survive a restart. Ctrl-C stops it.

    Each job is trained by one process per GPU, or by --workers; with --engine ray on a Ray cluster, each of whose
    machines needs ftpipe[local,ray] and must reach this one. Queue, files and models stay on this machine.

    With --route or --aliases it also answers under other names, such as that of a model that another one has replaced,
    whatever provider the new one is at. The names are looked up for each chat, so `ftpipe models alias` moves the chats
    of a running server.

    With --shadow OLD=NEW a share of the chats with OLD is also answered by NEW when no caller waits; callers get OLD's
    answers. `ftpipe status --shadow` compares them.

    With --inference URL a vLLM or SGLang server, for example one with a GPU, answers in place of this machine; adapters
    are loaded there as they are needed. Keys, names and training stay here.

    With --upstream it is a gateway: scripts for OpenAI's fine-tuning API upload their files to it, and it creates their
    jobs at another provider, each once and within the cost limits. Data and jobs are in a data folder of their own.
    """
    if ctx.invoked_subcommand is not None:
        return
    from ftpipe.grading.python_grader import require_sandbox
    from ftpipe.server.http import serve as run_server
    from ftpipe.server.services import build_context

    options = ServeOptions(**params)
    if options.engine == "ray":
        shared.require_ray()
    elif options.ray_address:
        raise UsageError("--ray-address needs --engine ray", "add --engine ray")
    if options.allow_python_graders:
        require_sandbox()
    shadow = shadow_settings(options)
    data_dir = (options.data_dir or (gateway_dir(options.upstream) if options.upstream else server_dir())).absolute()
    context = ctx.ensure_object(CliContext)
    routes = open_model_routes(context, options, data_dir, shadow)
    settings = settings_of(options, data_dir, shadow)
    upstream = open_upstream(context, options, settings, routes)
    fetch_bases(context, options.allow_bases)
    pages = ServerPages(context, options.host, options.allowed_hosts, options.api_key_file) if options.ui else NoPages()
    with context.interruptible("the server was stopped", "unfinished jobs continue at the next `ftpipe serve`"):
        run_server(
            settings,
            partial(build_context, routes=routes, upstream=upstream),
            mounts=pages.mounts,
            on_listening=lambda url: context.print_status(
                [*client_lines(url, settings.api_key_file, data_dir), *pages.lines(url)]
            ),
            on_stopping=lambda: context.print_status(pages.stop()),
        )


def settings_of(options: ServeOptions, data_dir: Path, shadow: ShadowSettings | None) -> ServeSettings:
    """The settings of the server that these options describe."""
    from ftpipe.server.settings import ServeSettings

    return ServeSettings(
        host=options.host,
        port=options.port,
        data_dir=data_dir,
        api_key_file=key_file_of(options, data_dir),
        max_jobs=options.max_jobs,
        allow_python_graders=options.allow_python_graders,
        allowed_hosts=options.allowed_hosts,
        allowed_origins=options.allowed_origins,
        max_num_seqs=options.max_num_seqs,
        max_queued_requests=options.max_queued_requests,
        max_queue_seconds=options.max_queue_seconds,
        precision=options.precision,
        substitute_models=not options.no_substitute_models,
        engine=options.engine,
        ray_address=options.ray_address,
        workers=options.workers or 0,
        strategy=options.strategy,
        shadow=shadow,
        upstream=options.upstream,
    )


def open_model_routes(
    context: CliContext, options: ServeOptions, data_dir: Path, shadow: ShadowSettings | None
) -> RegistryRoutes | None:
    """Open the routes; ``None`` if there are none.

    Raises:
        UsageError: With the routes, ``--shadow`` would compare a model with itself.
        FtpipeError: A route cannot be used.
    """
    if not options.routes and not options.aliases:
        return None
    from ftpipe.cli.serve_providers import THIS_SERVER, open_routes, refuse_shadow_of_same_model

    routes = open_routes(context, options.routes, with_aliases=options.aliases, data_dir=data_dir)
    if shadow is not None:
        host = options.upstream or THIS_SERVER
        refuse_shadow_of_same_model(routes, options.routes, shadow.pairs, default_host=host)
    return routes


def open_upstream(
    context: CliContext, options: ServeOptions, settings: ServeSettings, routes: ModelRoutes | None
) -> Upstream | None:
    """Open the provider of a gateway, or the inference server; ``None`` if jobs and chats are computed here.

    Raises:
        UsageError: A paid provider has no cost limit, it is this machine, or options exclude each other.
        FtpipeError: The inference server cannot be used.
    """
    inference = inference_settings(options, context.environment())
    if inference is not None and options.precision != "auto":
        raise UsageError(
            "--precision is for answers on this machine, and --inference lets another server answer",
            "leave out --precision; the inference server has an option of its own",
        )
    if inference is not None and options.upstream is not None:
        raise UsageError(
            "--inference and --upstream both say who answers",
            "leave out --upstream to train on this machine, or --inference to chat at the provider",
        )
    if options.upstream is None:
        given = ("upstream_model", "max_cost", "max_total_cost", "no_cost_limit")
        if name := next((name for name in given if getattr(options, name)), None):
            raise UsageError(f"--{name.replace('_', '-')} needs --upstream", "add --upstream PROVIDER")
        return None if inference is None else open_inference(context, inference, settings, routes)
    from ftpipe.cli.serve_providers import provider_upstream

    return provider_upstream(
        context,
        options.upstream,
        model=options.upstream_model,
        max_cost=options.max_cost,
        max_total_cost=options.max_total_cost,
        no_cost_limit=options.no_cost_limit,
        routes=routes,
    )


def key_file_of(options: ServeOptions, data_dir: Path) -> Path | None:
    """The file with the server's keys; on loopback one with a single key, which is made at the first start.

    Raises:
        UsageError: Keys are both given and turned off.
    """
    from ftpipe.server.auth import is_loopback

    if options.no_key and options.api_key_file:
        raise UsageError("--no-key and --api-key-file were given", "leave one of them out")
    if options.api_key_file or options.no_key or not is_loopback(options.host):
        return options.api_key_file
    path = data_dir / SERVER_KEY_FILE
    shared_key(path)
    return path


def shared_key(path: Path) -> str:
    """The key in a file of the data folder, which is made if it does not exist.

    Raises:
        LocalStateError: The folder cannot be written.
    """
    try:
        return read_or_create_secret(path)
    except OSError as exc:
        message = f"the key cannot be written to {path}: {exc.strerror or exc}"
        raise LocalStateError(message, "choose another folder with --data-dir") from exc


def client_lines(url: str, key_file: Path | None, data_dir: Path) -> list[str]:
    """What a client needs: the address and the key."""
    lines = ["for any OpenAI client:", f"  export OPENAI_BASE_URL={url}"]
    if key_file is None:
        return [*lines, "  export OPENAI_API_KEY=none     # any key will do"]
    if key_file != data_dir / SERVER_KEY_FILE:
        return [*lines, f"  export OPENAI_API_KEY=…        # one of the keys in {sanitize_line(key_file, 300)}"]
    return [*lines, f"  export OPENAI_API_KEY=$(ftpipe serve key{sanitize_line(data_dir_option(data_dir), 300)})"]


@click.command("status", cls=Command, example="ftpipe serve status --json")
@_data_dir
@pass_cli_context
def serve_status(context: CliContext, data_dir: Path | None) -> None:
    """Show whether the server runs, and how to reach it. The exit code is 1 if it does not run."""
    from ftpipe.server.process_control import status

    folder = data_dir or server_dir()
    current = status(folder)
    context.add(**asdict(current), data_dir=folder)
    if not current.running:
        context.print_result(f"not running; its data is in {sanitize_line(folder, 300)}")
        context.print_next("ftpipe serve   (`ftpipe train` starts it when it is needed)")
        context.exit_code = 1
        return
    jobs = "unknown" if current.jobs_open is None else f"{current.jobs_running} running, {current.jobs_open} open"
    url = sanitize_line(current.base_url or "starting", 200)
    rows = [
        ("running", url if current.is_responding else f"{url}, but it does not answer"),
        ("process", f"{current.pid}, since {format_time(current.started_at)}"),
        ("jobs", jobs),
        ("data", sanitize_line(folder, 300)),
        ("key", f"in {sanitize_line(current.api_key_file, 300)}" if current.api_key_file else "any, or none"),
    ]
    if (inference := current.inference) is not None:
        state = f"{inference.status}, {plural(inference.adapters, 'adapter')} loaded"
        shown = sanitize_line(inference.message, 400) or state
        rows.append(("answers", f"{sanitize_line(inference.url, 200)}: {shown}"))
        if inference.hint:
            context.print_next(sanitize_line(inference.hint, 400))
    context.print_result(format_fields(rows, style=context.style))


@click.command(cls=Command, example="ftpipe serve key")
@_data_dir
@pass_cli_context
def key(context: CliContext, data_dir: Path | None) -> None:
    """Print the API key of the server on this machine, whether `ftpipe serve` or `ftpipe train` started it.

    A server with --api-key-file has other keys, and one with --no-key needs none.
    """
    value = shared_key((data_dir or server_dir()).absolute() / SERVER_KEY_FILE)
    context.add(key=value)
    context.print_result(value)


@click.command(cls=Command, example="ftpipe serve stop")
@_data_dir
@pass_cli_context
def stop(context: CliContext, data_dir: Path | None) -> None:
    """Stop the running server; unfinished jobs continue when it starts again."""
    from ftpipe.cli.output.progress import spinner
    from ftpipe.server.process_control import stop as stop_server

    with spinner(context, "waiting until the server has stopped"):
        is_stopped = stop_server(data_dir or server_dir())
    context.add(stopped=is_stopped)
    context.print_result("stopped" if is_stopped else "the server was not running")


@click.command(cls=Command, example="ftpipe serve logs --follow")
@_data_dir
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 100_000),
    metavar="N",
    default=50,
    show_default=True,
    help="Lines to show, from the end.",
)
@click.option("-f", "--follow", is_flag=True, help="Continue to show new lines.")
@pass_cli_context
def logs(context: CliContext, data_dir: Path | None, lines: int, follow: bool) -> None:
    """Show the end of the server's log."""
    from ftpipe.server.process_control import logs as read_logs

    log = read_logs(data_dir or server_dir(), lines=lines, follow=follow and not context.json)
    with context.interruptible("no longer following the log"):
        if context.json:
            context.add(lines=list(log))
            return
        for line in log:
            context.print_result(sanitize_block(line))
