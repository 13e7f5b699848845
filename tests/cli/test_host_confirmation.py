"""A configuration file in the working directory cannot send a key away, and what is printed is what is used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.errors import ConfigError
from ftpipe.providers import open_provider
from ftpipe.providers.address import find_address, origin_of, remembered_hosts
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
    for name in ("OPENAI_BASE_URL", "FTPIPE_TRUSTED_HOSTS"):
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
    trust = ("--trust-host", endpoint.base_url)
    ran = command(
        "jobs", "list", "--provider", provider, *trust, **{provider: {"base_url": endpoint.base_url, "key_env": name}}
    )
    assert ran.code == 2
    assert endpoint.requests == []
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
