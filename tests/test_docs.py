"""The documentation is true: every command explains itself with an example, and the README shows what there is."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import ftpipe
from ftpipe.cli import COMMANDS, root
from ftpipe.cli.group import Group
from ftpipe.registry import open_registry
from tests.each_file import for_each_file
from tests.fakes.openai_client import FakeOpenAI
from tests.fakes.records import provider_over

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATED = {"commands.md", "errors.md", "rules.md"}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    page for page in (ROOT / "docs").glob("*.md") if page.name not in GENERATED
)
FOREIGN_OPTIONS = {"--strict", "--config-file", "--check", "--help", "--version"}
"""Options of other programs that every page may name."""
PAGES_OTHER_PROGRAMS = {
    "clients.md": {"--apply", "--install", "--key", "--model"},
    "performance.md": {"--rows"},
    "train-local.md": {"--enable-lora", "--jinja", "--quantize"},
    "serve.md": {"--max-lora-rank", "--max-loras", "--max-cpu-loras"},
}
"""Page → options of other programs, such as vLLM, llama.cpp and Ollama, that its text names."""
OTHER_PROGRAMS = {
    "ftpipe/cli/commands/advise.py": {"--no"},
    "ftpipe/cli/main.py": {"--force-reinstall"},
    "ftpipe/doctor/offline_checks.py": {"--query-gpu", "--format", "--error-unmatch", "--cached"},
    "ftpipe/gateway/inference/client.py": {
        *("--enable-lora", "--max-lora-rank", "--lora-target-modules", "--max-loaded-loras", "--api-key"),
    },
    "ftpipe/modeling/base_models.py": {
        *("--no-deps", "--force-reinstall", "--require-hashes", "--disable-pip-version-check"),
        *("--dest", "--requirement", "--hash", "--revision"),
    },
    "ftpipe/modeling/export/export_model.py": {"--jinja"},
    "ftpipe/modeling/machine.py": {"--query-gpu", "--format"},
    "ftpipe/modeling/export/model_card.py": {
        *("--enable-lora", "--max-lora-rank", "--lora-modules", "--tokenizer", "--generation-config"),
        *("--served-model-name", "--jinja", "--revision"),
    },
    "ftpipe/tokenization/bpe_ranks.py": {"--force-reinstall"},
    "ftpipe/training/__main__.py": {"--worker"},
    "ftpipe/training/launcher.py": {"--worker"},
    "ftpipe/training/ray_cluster.py": {"--head"},
}
"""Module → options of other programs, such as pip, git, vLLM and the trainer, that its texts name."""


def commands(group: Group = root, path: str = "ftpipe") -> Iterator[tuple[str, click.Command, str]]:
    """Every command: its full name, itself, and its line in the list of its group."""
    context = click.Context(group)
    for name, (_, line) in group.lazy.items():
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command, line
        if isinstance(command, Group):
            yield from commands(command, f"{path} {name}")


ALL = list(commands())


@pytest.mark.parametrize(("name", "command", "line"), ALL, ids=[name for name, *_ in ALL])
def test_every_command_explains_itself_and_ends_in_an_example(name: str, command: click.Command, line: str) -> None:
    """A sentence, every option said, and a line that can be typed."""
    page = command.get_help(click.Context(command, info_name=name))
    assert command.help
    assert line.endswith(".")
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option.name
    example = page.rstrip().split("Example:\n")[-1].splitlines()
    assert all(typed.strip().startswith(("ftpipe", "OPENAI_BASE_URL", "FTPIPE_")) for typed in example)
    assert page.rstrip().endswith(example[-1])


@pytest.mark.parametrize(("name", "command", "line"), ALL, ids=[name for name, *_ in ALL])
def test_every_option_of_an_example_exists(name: str, command: click.Command, line: str) -> None:
    """Examples are typed as they stand."""
    example = getattr(command, "example", "")
    known = {word for _, other, _ in ALL for option in other.params for word in option.opts}
    for word in re.findall(r"(?<!\S)--[a-z-]+", example):
        assert word in known


def examples(page: Path) -> Iterator[list[str]]:
    """The ``ftpipe`` commands in a page's blocks of shell lines, as words after ``ftpipe``."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:sh|console|yaml)\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            words = re.split(r" #|&&|\|\||[|>]", line)
            for part in words:
                called = re.search(r"(?:^|[\s/])ftpipe ((?![=:])\S.*)", part)
                if called and (line.startswith("$ ") or not block.startswith("$ ")):
                    yield called[1].split()


def called_command(words: list[str]) -> tuple[str, set[str], list[str]]:
    """The command that words call, the options that it has, and the words after its name."""
    command: click.Command = root
    name = "ftpipe"
    while isinstance(command, Group) and words and words[0] in command.lazy:
        found = command.get_command(click.Context(command), words[0])
        assert found is not None
        command, name, words = found, f"{name} {words[0]}", words[1:]
    return (
        name,
        {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)},
        words,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_call_only_commands_and_options_that_exist(page: Path) -> None:
    """No line of a page has become wrong."""
    for words in examples(page):
        name, options, rest = called_command(words)
        if name == "ftpipe":
            assert rest[0] in {"--help", "--version", *COMMANDS}, words
            continue
        given = {word.partition("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)}
        assert given <= options | {"--help"}, words


def test_docs_name_every_command() -> None:
    """What can be typed is shown on a page that somebody wrote, not in the reference alone."""
    written = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"ftpipe {name}" not in written] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_name_only_options_that_exist(page: Path) -> None:
    """Those of the text, too."""
    parameters = [parameter for _, command, _ in ALL for parameter in command.params]
    known = {word for one in parameters for word in (*one.opts, *one.secondary_opts)} | FOREIGN_OPTIONS
    known |= PAGES_OTHER_PROGRAMS.get(page.name, set())
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = "\n".join(re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", spans)) <= known


def literals(path: Path) -> list[str]:
    """The texts that a file may show: string literals of a module with f-strings joined, or the whole file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [text]
    nodes = list(ast.walk(ast.parse(text)))
    joined = [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    return joined + [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


SOURCES = sorted(path for path in (ROOT / "ftpipe").rglob("*") if path.suffix in {".py", ".toml", ".j2"})


@for_each_file(SOURCES)
def test_messages_name_only_options_that_exist(path: Path) -> None:
    """No hint sends anyone to an option that is not there; options of other programs are listed by name."""
    parameters = [parameter for _, command, _ in ALL for parameter in command.params]
    known = {word for one in parameters for word in (*one.opts, *one.secondary_opts)} | FOREIGN_OPTIONS
    known |= OTHER_PROGRAMS.get(path.relative_to(ROOT).as_posix(), set())
    named = {flag for text in literals(path) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)}
    assert named - known == set()


@for_each_file(SOURCES)
def test_messages_call_only_commands_that_exist(path: Path) -> None:
    """A command in back-ticks or at the start of a line exists, with the options that follow it."""
    called = r"(?:`|^)ftpipe ((?!import\b)[a-z][^`\n;,]*)"
    for line in {line.strip() for text in literals(path) for line in text.splitlines()}:
        for words in (match.split() for match in re.findall(called, line)):
            name, options, rest = called_command(words)
            assert name != "ftpipe", line
            given = {word.partition("=")[0].rstrip(".)`'\"") for word in rest if re.match(r"--[a-z]", word)}
            assert given <= options | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_name_only_paths_that_exist(page: Path) -> None:
    """The map of the code is the code."""
    named = set(re.findall(r"`((?:ftpipe|tests|configs|data|docs|\.github|\.ci)/[\w./-]*)`", page.read_text("utf-8")))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_readme_library_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The ten lines work as they stand, against an endpoint and a registry in memory; the docs show the same lines."""
    block = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert block is not None
    assert block[0] in (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    registry = open_registry(tmp_path / "registry.db")
    provider = provider_over(FakeOpenAI(statuses=["succeeded"]), last_day_to_create=None)
    monkeypatch.setattr(ftpipe, "open_registry", lambda: registry, raising=False)
    monkeypatch.setattr(ftpipe, "open_provider", {"local": provider}.__getitem__, raising=False)
    printed: list[str] = []
    exec(compile(block[1], "README.md", "exec"), {"print": printed.append})
    assert len(printed) == 1
    assert printed[0].startswith("ft:")


def test_the_version_is_the_same_everywhere() -> None:
    """The package's own ``__version__`` is the one source, and the changelog has a place for what comes next."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["hatch"]["version"] == {"path": "ftpipe/__init__.py"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", ftpipe.__version__)
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_public_face_gives_what_it_lists() -> None:
    """Every name can be imported, and a wrong one is an ordinary error."""
    for name in ftpipe.__all__:
        assert getattr(ftpipe, name) is not None
    with pytest.raises(AttributeError):
        _ = ftpipe.nothing
