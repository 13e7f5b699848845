"""A configuration file in the working directory cannot send a key away, and what is printed is what is used."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.errors import ConfigError, LocalStateError
from ftpipe.providers import open_provider
from ftpipe.providers.address import find_address, origin_of, parse_host, remembered_hosts
from ftpipe.registry.database import server_origin
from tests.cli.cli_runner import CommandResult, chat_file
from tests.faults.endpoint import FaultEndpoint

KEY = "sk-canary-0123456789abcdef"
OTHER_KEYS = [
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "HF_TOKEN",
    "NEBIUS_API_KEY",
    "STRIPE_API_KEY",
    "ANTHROPIC_API_KEY",
]
Command = Callable[..., CommandResult]


@pytest.fixture
def endpoint() -> Iterator[FaultEndpoint]:
    """The server of whoever wrote the configuration file."""
    with FaultEndpoint() as running:
        yield running


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], endpoint: FaultEndpoint
) -> Command:
    """Run a command in a folder with a configuration file, as a user who has exported keys."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FTPIPE_HOME", str(tmp_path / "home"))
    for name in ("OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS", "FTPIPE_TRUSTED_HOSTS", "FTPIPE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENAI_API_KEY", *OTHER_KEYS):
        monkeypatch.setenv(name, f"{KEY}-{name}")
    chat_file()

    def run(*argv: str, **providers: dict[str, Any]) -> CommandResult:
        lines = [
            line
            for name, table in providers.items()
            for line in (f"[providers.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()))
        ]
        Path("ftpipe.toml").write_text("\n".join(lines) + "\n")
        capsys.readouterr()
        code = execute(root, argv, CliContext())
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run


def keys_at(endpoint: FaultEndpoint) -> set[str]:
    """The keys that a server has received."""
    return {headers["authorization"] for headers in endpoint.requests if "authorization" in headers}


TRAIN = ("train", "train.jsonl", "--provider", "openai", "--yes", "--detach")
COMMANDS = [
    TRAIN,
    ("jobs", "list", "--provider", "openai"),
    ("chat", "some-model", "--provider", "openai", "--message", "hello"),
    ("evaluate", "some-model", "--baseline", "other", "--provider", "openai", "--data", "train.jsonl"),
    ("train", "train.jsonl", "--evaluate", "train.jsonl", "--provider", "openai", "--yes", "--sweep", "epochs=1,2"),
    ("doctor", "--online", "--provider", "openai"),
    ("doctor", "--repair", "--provider", "openai"),
    ("status", "ftjob-1", "--provider", "openai"),
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv[:2]))
def test_redirected_provider_gets_no_request(command: Command, endpoint: FaultEndpoint, argv: tuple[str, ...]) -> None:
    """Without a terminal every command that would call the provider stops, and says what to do."""
    ran = command(*argv, openai={"base_url": endpoint.base_url})
    assert ran.code in (1, 2)
    assert endpoint.requests == []
    text = " ".join((ran.out + ran.err).split())
    assert f"http://127.0.0.1:{endpoint.port}" in text
    assert f"--trust-host http://127.0.0.1:{endpoint.port}" in text
    assert KEY not in text


@pytest.mark.parametrize(
    "table",
    [
        {"base_url_env": "EVIL_BASE_URL"},
        {"base_url_env": "EVIL_API_KEY"},
        {"base_url_env": "AWS_SECRET_ACCESS_KEY"},
    ],
    ids=str,
)
def test_redirect_through_variable_gets_no_request(
    command: Command, endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch, table: dict[str, Any]
) -> None:
    """Neither a variable that the file names, nor one that ``.env`` sets, is the user's own choice."""
    monkeypatch.setenv("EVIL_BASE_URL", endpoint.base_url)
    Path(".env").write_text(f"OPENAI_BASE_URL={endpoint.base_url}\nEVIL_API_KEY={endpoint.base_url}\n")
    ran = command(*TRAIN, openai=table)
    assert ran.code == 2
    assert endpoint.requests == []
    assert KEY not in ran.out + ran.err


def test_dotenv_sets_no_address(command: Command, endpoint: FaultEndpoint) -> None:
    """``.env`` can hold keys and not addresses."""
    Path(".env").write_text(f"OPENAI_BASE_URL={endpoint.base_url}\nFTPIPE_TRUSTED_HOSTS={endpoint.base_url}\n")
    ran = command(*TRAIN, "--dry-run")
    assert "https://api.openai.com" in ran.err
    assert str(endpoint.port) not in ran.err


def test_local_token_is_not_sent_to_redirect(command: Command, endpoint: FaultEndpoint) -> None:
    """The token of this machine's server is a key, too."""
    ran = command("jobs", "list", "--provider", "local", local={"base_url": endpoint.base_url})
    assert (ran.code, endpoint.requests) == (2, [])


@pytest.mark.parametrize("name", OTHER_KEYS)
@pytest.mark.parametrize("provider", ["openai", "mine"])
def test_key_of_something_else_is_refused(command: Command, endpoint: FaultEndpoint, provider: str, name: str) -> None:
    """Also for a host that is trusted."""
    table = {provider: {"base_url": endpoint.base_url, "key_env": name}}
    for trust in ((), ("--trust-host", endpoint.base_url)):
        ran = command("jobs", "list", "--provider", provider, *trust, **table)
        assert endpoint.requests == []
        assert ran.code == 2
        assert name in ran.err
        assert KEY not in ran.err


def test_trust_host_is_remembered_in_user_folder(command: Command, endpoint: FaultEndpoint, tmp_path: Path) -> None:
    """Once for the host; the project's folder has nothing of it."""
    table = {"base_url": endpoint.base_url}
    listed = ("jobs", "list", "--provider", "openai")
    assert command(*listed, openai=table).code == 2
    assert command(*listed, "--trust-host", endpoint.base_url, openai=table).code == 0
    assert remembered_hosts() == [f"http://127.0.0.1:{endpoint.port}"]
    assert command(*listed, openai=table).code == 0
    assert keys_at(endpoint) == {f"Bearer {KEY}-OPENAI_API_KEY"}
    assert (tmp_path / "home" / "trusted-hosts.json").stat().st_mode & 0o077 == 0
    with FaultEndpoint() as other:
        assert command(*listed, openai={"base_url": other.base_url}).code == 2
        assert other.requests == []


def test_variable_trusts_host(command: Command, endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """For CI and the library."""
    monkeypatch.setenv("FTPIPE_TRUSTED_HOSTS", f"gateway.example.com, {endpoint.base_url}")
    assert command("jobs", "list", "--provider", "openai", openai={"base_url": endpoint.base_url}).code == 0
    assert remembered_hosts() == []


@pytest.mark.parametrize("answer", [True, False])
def test_terminal_asks_once_with_host_and_key(
    command: Command, endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    questions: list[str] = []

    def confirm(text: str, **_options: object) -> bool:
        questions.append(text)
        return answer

    monkeypatch.setattr(CliContext, "can_ask", True)
    monkeypatch.setattr(click, "confirm", confirm)
    table = {"base_url": endpoint.base_url}
    ran = command("jobs", "list", "--provider", "openai", openai=table)
    assert "OPENAI_API_KEY" in ran.err
    assert questions == [f"Trust http://127.0.0.1:{endpoint.port} from now on?"]
    assert (ran.code == 0, bool(endpoint.requests)) == (answer, answer)
    if answer:
        command("jobs", "list", "--provider", "openai", openai=table)
        assert len(questions) == 1


def test_plan_and_question_name_host_that_is_used(
    command: Command, endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENAI_BASE_URL decides, is what is printed, and is the user's own choice."""
    questions: list[str] = []
    monkeypatch.setattr(CliContext, "can_ask", True)

    def confirm(text: str, **_options: object) -> bool:
        questions.append(text)
        return False

    monkeypatch.setattr(click, "confirm", confirm)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    ran = command("train", "train.jsonl", "--provider", "openai", openai={"base_url": "https://elsewhere.example/v1"})
    host = f"127.0.0.1:{endpoint.port}"
    assert f"OpenAI (http://{host})" in " ".join(ran.err.split())
    assert "elsewhere" not in ran.err
    assert questions == [f"Pay for this job at {host}: go ahead?"]
    assert ran.code == 2


def test_plan_names_builtin_and_redirected_host(command: Command) -> None:
    argv = ("train", "train.jsonl", "--provider", "openai", "--dry-run")
    assert "OpenAI (https://api.openai.com)" in " ".join(command(*argv).err.split())
    redirected = command(*argv, openai={"base_url": "https://evil.example/v1"})
    assert "OpenAI (https://evil.example)" in " ".join(redirected.err.split())


def test_doctor_names_host_and_who_chose_it(command: Command) -> None:
    def message(**providers: dict[str, Any]) -> str:
        checks = command("doctor", "--json", **providers).document["checks"]
        return next(str(check["message"]) for check in checks if check["name"] == "openai")

    assert "requests go to https://api.openai.com, named by ftpipe" in message()
    redirected = message(openai={"base_url": "https://evil.example/v1"})
    assert "https://evil.example" in redirected
    assert "not confirmed" in redirected


@pytest.mark.parametrize("url", ["http://gateway.example/v1", "http://10.0.0.7:8321/v1", "http://localhost.example/v1"])
def test_plain_http_beyond_loopback_needs_option(command: Command, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Also if a variable names it; a terminal is not asked."""
    monkeypatch.setattr(CliContext, "can_ask", True)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    ran = command("jobs", "list", "--provider", "openai")
    assert ran.code == 2
    assert "not encrypted" in ran.err
    assert f"--trust-host {origin_of(url)}" in " ".join(ran.err.split())
    env = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}
    with pytest.raises(ConfigError):
        open_provider("openai", env=env)
    open_provider("openai", env=env | {"FTPIPE_TRUSTED_HOSTS": url}).close()
    with pytest.raises(ConfigError):  # https for the name is not http
        open_provider("openai", env=env | {"FTPIPE_TRUSTED_HOSTS": re.sub("^http:", "https:", url)})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8321/v1", "http://localhost:8321/v1", "http://[::1]:8321/v1"])
def test_plain_http_on_this_machine_is_allowed(url: str) -> None:
    open_provider("openai", env={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}).close()


@pytest.mark.parametrize(
    "url",
    ["https://api.openai.com\\@evil.example/v1", "https://evil.example#@api.openai.com", "ftp://x", "https://a b/v1"],
)
def test_ambiguous_url_is_refused(url: str) -> None:
    """Programs differ in which host such a URL has."""
    with pytest.raises(ConfigError):
        find_address("openai", None, {"OPENAI_BASE_URL": url})


def test_configuration_cannot_skip_paid_question(command: Command) -> None:
    """``paid = false`` for a provider that costs money."""
    ran = command("train", "train.jsonl", "--provider", "openai", openai={"paid": False})
    assert ran.code == 2
    assert "cost money" in ran.err


def test_organization_is_sent_to_openai_only(
    command: Command, endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would add OPENAI_ORG_ID to the requests of every host."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-canary")
    monkeypatch.setenv("NEBIUS_BASE_URL", endpoint.base_url)
    assert command("jobs", "list", "--provider", "nebius").code == 0
    assert endpoint.requests
    assert not any(
        "canary" in value for headers in endpoint.requests for name, value in headers.items() if name != "authorization"
    )


def test_custom_headers_are_sent_to_openai_only(
    command: Command, endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would add OPENAI_CUSTOM_HEADERS to the requests of every host, and replace the key by a header."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: canary-gateway\nAuthorization: Bearer canary-header")
    monkeypatch.setenv("NEBIUS_BASE_URL", endpoint.base_url)
    assert command("jobs", "list", "--provider", "nebius").code == 0
    assert keys_at(endpoint) == {f"Bearer {KEY}-NEBIUS_API_KEY"}
    assert not any("canary-" in value.replace(KEY, "") for each in endpoint.requests for value in each.values())
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    assert command("jobs", "list", "--provider", "openai").code == 0
    assert endpoint.requests[-1]["x-gateway"] == "canary-gateway"


@pytest.mark.parametrize("url", ["https://evil.example/v1", "http://192.0.2.1/v1"])
def test_provider_without_key_beyond_this_machine_is_confirmed(command: Command, url: str) -> None:
    """It would get the dataset."""
    ran = command("train", "train.jsonl", "--provider", "mine", "--yes", mine={"base_url": url, "key_env": ""})
    assert ran.code == 2
    assert f"--trust-host {origin_of(url)}" in " ".join(ran.err.split())


def test_provider_without_key_on_this_machine_is_not_confirmed(command: Command, endpoint: FaultEndpoint) -> None:
    table = {"base_url": endpoint.base_url, "key_env": ""}
    assert command("jobs", "list", "--provider", "mine", mine=table).code == 0
    assert endpoint.requests


class DatabaseServer:
    """Counts connections, and closes them at once."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.origin = f"postgresql://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def database() -> Iterator[DatabaseServer]:
    with contextlib.closing(DatabaseServer()) as server:
        yield server


@pytest.mark.needs("psycopg")
@pytest.mark.parametrize("file", ["ftpipe.toml", ".env"])
def test_registry_of_working_directory_is_confirmed_once(
    command: Command, database: DatabaseServer, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """The driver would send it the password in PGPASSWORD."""
    monkeypatch.setenv("PGPASSWORD", "canary-password")

    def run(*argv: str) -> CommandResult:
        command("config", "path")
        line = f'registry = "{database.origin}/x"' if file == "ftpipe.toml" else f"FTPIPE_REGISTRY={database.origin}/x"
        Path(file).write_text(line + "\n", encoding="utf-8")
        return CommandResult(execute(root, argv, CliContext()), "", "")

    for argv in (("models", "list"), ("jobs", "list"), ("status",), ("doctor",), ("doctor", "--repair")):
        assert run(*argv).code in (1, 2), argv
        assert database.connections == 0, argv
    run("doctor", "--trust-host", database.origin)
    assert remembered_hosts() == [database.origin]
    assert database.connections > 0
    assert run("models", "list").code == LocalStateError.exit_code  # the connection failed


@pytest.mark.needs("psycopg")
def test_registry_of_the_user_is_not_confirmed(
    command: Command, database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = LocalStateError.exit_code
    assert command("models", "list", "--registry", f"{database.origin}/x").code == failed
    assert command("config", "set", "registry", f"{database.origin}/y").code == 0
    assert command("models", "list").code == failed
    monkeypatch.setenv("FTPIPE_REGISTRY", f"{database.origin}/x")
    assert command("models", "list").code == failed
    assert database.connections > 0


def test_registry_error_names_host_and_password(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "canary-password")
    command("config", "path")
    Path(".env").write_text("FTPIPE_REGISTRY=postgresql://me:secret@db.example:5432/x\n", encoding="utf-8")
    text = " ".join(command("models", "list").err.split())
    assert (
        "FTPIPE_REGISTRY in .env stores runs and models at postgresql://db.example with the password in PGPASSWORD"
        in text
    )
    assert "ftpipe doctor --trust-host postgresql://db.example" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("postgresql://me:pw@DB.example:5432/x?sslmode=require", "postgresql://db.example"),
        ("postgres://db.example:6543/x", "postgresql://db.example:6543"),
        ("postgresql+psycopg://me@[::1]/x", "postgresql://[::1]"),
        ("postgresql:///x", ""),
        ("registry.db", ""),
        ("sqlite:///registry.db", ""),
    ],
)
def test_server_origin_of_registry_url(url: str, origin: str) -> None:
    assert server_origin(url) == origin
    assert not origin or parse_host(origin.upper().replace("POSTGRESQL", "postgresql")) == origin


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db.example/x?host=evil.example",
        "postgresql://db.example/x?hostaddr=192.0.2.1",
        "postgresql://db.example/x?service=evil",
        "postgresql://db.example/x?sslmode=disable",
        "postgresql://db.example,evil.example/x",
        "postgresql://db.example:port/x",
    ],
)
def test_registry_url_that_hides_its_host_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        server_origin(url)


def test_registry_url_has_the_host_of_the_last_at_sign() -> None:
    """The parser is the one that makes the connection."""
    assert server_origin("postgresql://a@db.example:5432@evil.example/x") == "postgresql://evil.example"
