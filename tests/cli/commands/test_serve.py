"""``ftpipe serve``: which keys it takes, and what it tells clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.cli.commands.serve import ServeOptions, client_lines, key_file_of, settings_of
from ftpipe.errors import UsageError
from ftpipe.grading import python_grader
from ftpipe.grading.python_grader import SandboxError
from ftpipe.paths import server_dir
from tests.cli.cli_runner import CliEnvironment


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_serve_on_loopback_takes_one_key(tmp_path: Path, host: str) -> None:
    """It is made at the first start, and other users of the machine cannot read it."""
    path = key_file_of(ServeOptions(host=host), tmp_path / "new")
    assert path == tmp_path / "new" / "token"
    key = path.read_text()
    assert len(key.strip()) >= 32
    assert path.stat().st_mode & 0o077 == 0
    assert key_file_of(ServeOptions(host=host), tmp_path / "new") == path
    assert path.read_text() == key


def test_serve_keys_are_given_or_turned_off(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert key_file_of(ServeOptions(api_key_file=keys), tmp_path / "new") == keys
    assert key_file_of(ServeOptions(no_key=True), tmp_path / "new") is None
    assert key_file_of(ServeOptions(host="0.0.0.0"), tmp_path / "new") is None  # refused without keys
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="--no-key"):
        key_file_of(ServeOptions(api_key_file=keys, no_key=True), tmp_path)


def test_serve_tells_clients_address_and_key(tmp_path: Path) -> None:
    url = "http://127.0.0.1:8321/v1"
    assert client_lines(url, server_dir() / "token", server_dir())[1:] == [
        f"  export OPENAI_BASE_URL={url}",
        "  export OPENAI_API_KEY=$(ftpipe serve key)",
    ]
    assert f"serve key --data-dir {tmp_path})" in client_lines(url, tmp_path / "token", tmp_path)[-1]
    assert str(tmp_path / "keys") in client_lines(url, tmp_path / "keys", tmp_path)[-1]
    assert "OPENAI_API_KEY=none" in client_lines(url, None, tmp_path)[-1]


def test_serve_key_is_that_of_the_background_server(cli: CliEnvironment) -> None:
    """``ftpipe train`` starts it with the same file."""
    from ftpipe.providers.local import local_key
    from ftpipe.providers.profiles import find_profile

    printed = cli.run("serve", "key").out.strip()
    assert printed == local_key(find_profile("local"), {})
    assert cli.run("serve", "key", "--json").document["key"] == printed


@pytest.mark.parametrize(
    ("value", "message"),
    [("old", "is not OLD=NEW"), ("old=no-such-model", "no model 'no-such-model'"), ("old=azure:x", "AZURE_OPENAI")],
)
def test_serve_refuses_route_that_cannot_work(cli: CliEnvironment, value: str, message: str) -> None:
    """Before it listens."""
    ran = cli.run("serve", "--route", value)
    assert ran.code in (2, 4)
    assert message in ran.err


@pytest.mark.parametrize(
    ("routes", "pair"),
    [
        (("old=local:new",), "old=new"),
        (("old=local:new",), "old=local:new"),
        (("old=local:new", "other=local:new"), "old=other"),
        (("old=local:new",), "new=old"),
    ],
)
def test_serve_refuses_to_compare_a_model_with_itself(cli: CliEnvironment, routes: tuple[str, ...], pair: str) -> None:
    """The route answers the callers of the old name by the new model."""
    options = [word for route in routes for word in ("--route", route)]
    result = cli.run("serve", *options, "--shadow", pair)
    assert result.code == 2
    assert f"--route {routes[0]}, --shadow {pair} would compare a model with itself" in " ".join(result.err.split())
    assert not (server_dir() / "server.json").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--upstream", "openai"), "without a limit"),
        (("--upstream", "openai", "--max-cost", "1"), "without a limit"),
        (("--upstream", "local", "--max-total-cost", "1"), "on this machine"),
        (("--max-total-cost", "1"), "needs --upstream"),
        (("--no-cost-limit",), "needs --upstream"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_serve_gateway_needs_a_total_cost_limit(cli: CliEnvironment, argv: tuple[str, ...], message: str) -> None:
    """Before it listens."""
    ran = cli.run("serve", *argv)
    assert ran.code == 2
    assert message in ran.err


def test_serve_refuses_code_of_graders_that_it_cannot_limit(
    cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it starts, with what is missing."""

    def refuse() -> None:
        raise SandboxError("python graders cannot be run on this system: it needs Linux")

    monkeypatch.setattr(python_grader, "require_sandbox", refuse)
    ran = cli.run("serve", "--allow-python-graders")
    assert ran.code != 0
    assert "it needs Linux" in ran.err


def test_serve_hands_the_permission_of_code_to_the_server(tmp_path: Path) -> None:
    """Off by default."""
    for options in (ServeOptions(no_key=True), ServeOptions(no_key=True, allow_python_graders=True)):
        settings = settings_of(options, tmp_path, None)
        assert settings.allow_python_graders is options.allow_python_graders
    assert not ServeOptions().allow_python_graders
