"""No command overwrites a file that ftpipe has not written, and none overwrites what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ftpipe.cli import root
from ftpipe.cli.group import Group
from ftpipe.cli.options import CONTINUED_FILE, FILE, FOLDER, OutputFile
from tests.cli.cli_runner import CliEnvironment, CommandResult, chat_file

MINE = "written by the user"
FOLDERS_OF_THEIR_OWN = {("serve", "--data-dir"), ("models export", "--output")}
"""Refused unless they are new, empty, or made by ftpipe; other tests show it."""
WITHOUT_INPUT = {("models", "inventory")}
"""Commands that read no file, so that --force replaces any that the user names."""


def leaves(group: Group = root, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not a group, with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


OUTPUTS = [
    (words, command, option)
    for words, command in leaves()
    for option in command.params
    if isinstance(option.type, OutputFile)
]
IDS = [" ".join([*words, option.opts[-1]]) for words, _, option in OUTPUTS]


def arguments_of(command: click.Command, data: Path) -> list[str]:
    """A value for every argument that the command needs, and the data where it is an option."""
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    options = [option for option in command.params if isinstance(option, click.Option) and option.type is FILE]
    names = [option.opts[-1] for option in options]
    words = [str(data) for _ in arguments]
    if "--data" in names:
        return [*words, "--data", str(data)]
    return [*words, names[0], str(data)] if names and FILE not in [one.type for one in arguments] else words


def refused(ran: CommandResult, path: Path, content: str) -> bool:
    return (
        ran.code == 2 and path.name in ran.err and "--force" in ran.err and path.read_text(encoding="utf-8") == content
    )


def test_every_path_option_is_an_input_or_an_output() -> None:
    """A new option must say which it is, so that the tests of this module hold for it."""
    unknown = [
        (words, option.opts[-1])
        for words, command in leaves()
        for option in command.params
        if isinstance(option.type, click.Path)
        and option.type not in (FILE, FOLDER, CONTINUED_FILE)
        and option.type is not OUTPUTS[0][2].type
        and (" ".join(words[:1]), option.opts[-1]) not in FOLDERS_OF_THEIR_OWN
    ]
    assert unknown == []
    assert {"prepare --quarantine", "prepare --report", "validate --findings", "convert --output", "losses --csv",
            "evaluate --promptfoo"} <= set(IDS)  # fmt: skip


def test_every_option_that_writes_a_file_is_an_output() -> None:
    """By its help: an output that is not declared as one would not be protected."""
    writes = [
        (words, option.opts[-1])
        for words, command in leaves()
        for option in command.params
        if isinstance(option, click.Option)
        and option.metavar == "FILE"
        and (option.help or "").startswith("Write ")
        and not isinstance(option.type, OutputFile)
    ]
    assert writes == []


@pytest.mark.parametrize(("words", "command", "option"), OUTPUTS, ids=IDS)
def test_output_that_exists_is_refused(
    words: tuple[str, ...], command: click.Command, option: click.Option, cli: CliEnvironment
) -> None:
    data, mine = chat_file(), Path("mine.txt")
    mine.write_text(MINE, encoding="utf-8")
    ran = cli.run(*words, *arguments_of(command, data), option.opts[-1], str(mine))
    assert refused(ran, mine, MINE), ran
    assert option.opts[-1] in ran.err


@pytest.mark.parametrize("kind", ["itself", "symbolic link", "hard link", "other case"])
@pytest.mark.parametrize(("words", "command", "option"), OUTPUTS, ids=IDS)
def test_output_is_never_an_input(
    words: tuple[str, ...], command: click.Command, option: click.Option, kind: str, cli: CliEnvironment
) -> None:
    """Not even with --force."""
    data, other = chat_file(), Path("other.jsonl")
    content = data.read_text(encoding="utf-8")
    if kind == "itself":
        other = data
    elif kind == "symbolic link":
        other.symlink_to(data)
    elif kind == "hard link":
        os.link(data, other)
    else:
        other = Path("Train.JSONL")
    ran = cli.run(*words, *arguments_of(command, data), option.opts[-1], str(other), "--force")
    if any(parameter.type is FILE for parameter in command.params):
        assert refused(ran, data, content), ran
    if words not in WITHOUT_INPUT:
        assert data.read_text(encoding="utf-8") == content


def test_two_outputs_are_never_the_same_file(cli: CliEnvironment) -> None:
    data = str(chat_file())
    for second in ("out.txt", "./OUT.txt"):
        ran = cli.run("prepare", data, "--report", "out.txt", "--findings", second, "--force")
        assert ran.code == 2 and "--findings" in ran.err and "--report" in ran.err
    assert not Path("out.txt").exists()


def test_output_is_never_a_file_of_the_configuration(cli: CliEnvironment) -> None:
    """Neither the dataset that it names nor the file itself."""
    data, held = chat_file("data.jsonl"), chat_file("held.jsonl", first=50)
    Path("ftpipe.toml").write_text('data = "data.jsonl"\nvalidation = "held.jsonl"\n', encoding="utf-8")
    for path in (data, held, Path("ftpipe.toml")):
        content = path.read_text(encoding="utf-8")
        assert refused(cli.run("prepare", "--quarantine", str(path), "--force"), path, content)


def test_losses_never_replaces_the_data_of_the_model(cli: CliEnvironment) -> None:
    """The registry names it, no option does."""
    data = chat_file()
    content = data.read_text(encoding="utf-8")
    assert cli.run("train", str(data), "--provider", "local", "--yes").code == 0
    model = cli.run("models", "list", "--json").document["models"][0]["id"]
    assert refused(cli.run("losses", model, "--csv", str(data), "--force"), data, content)


def test_force_replaces_a_file(cli: CliEnvironment) -> None:
    data = chat_file(extra="not json\n")
    for argv in (
        ("prepare", "--report", "mine.txt"),
        ("prepare", "--findings", "mine.txt"),
        ("prepare", "--quarantine", "mine.txt"),
        ("validate", "--findings", "mine.txt"),
        ("convert", "--output", "mine.txt"),
    ):
        Path("mine.txt").write_text(MINE, encoding="utf-8")
        assert cli.run(argv[0], str(data), *argv[1:], "--force").code in (0, 1)
        assert Path("mine.txt").read_text(encoding="utf-8") not in ("", MINE), argv


def test_convert_does_not_replace_its_default_output(cli: CliEnvironment) -> None:
    data = chat_file()
    mine = Path("train.chat.jsonl")
    mine.write_text(MINE, encoding="utf-8")
    assert refused(cli.run("convert", str(data)), mine, MINE)
    assert cli.run("convert", str(data), "--force").code == 0
    assert mine.read_text(encoding="utf-8").count("\n") == 12


def test_split_replaces_neither_a_file_nor_its_input(cli: CliEnvironment) -> None:
    data = chat_file("all.jsonl", rows=30)
    first = cli.run("split", str(data), "--json").document
    Path(first["train"]).unlink()
    mine = Path(first["validation"])
    mine.write_text(MINE, encoding="utf-8")
    assert refused(cli.run("split", str(data)), mine, MINE)
    assert not Path(first["train"]).exists()
    assert cli.run("split", str(data), "--force").code == 0
    content = data.read_text(encoding="utf-8")
    linked = Path("link.jsonl")
    linked.symlink_to(mine)
    before = mine.read_text(encoding="utf-8")
    mine.unlink()
    os.link(data, mine)
    assert before != content
    assert cli.run("split", str(data), "--force").code == 2
    assert data.read_text(encoding="utf-8") == content


def test_prepare_does_not_replace_its_input_in_the_output_folder(cli: CliEnvironment) -> None:
    """A fixed copy must not take the place of the file that it was made from."""
    data = chat_file("out/train.jsonl", extra='{"messages": []}\n')
    content = data.read_text(encoding="utf-8")
    for argv in (("--quarantine", "bad.jsonl"), ("--split", "0.2"), ("--validation", str(data))):
        cli.run("prepare", str(data), "--output", "out", *argv, "--force")
        assert data.read_text(encoding="utf-8") == content


def test_prepare_spares_a_prepared_file_that_was_edited(cli: CliEnvironment) -> None:
    data, edited = str(chat_file()), Path("out/train.jsonl")
    assert cli.run("prepare", data, "--output", "out").code == 0
    assert cli.run("prepare", data, "--output", "out").code == 0
    edited.write_text(MINE, encoding="utf-8")
    assert refused(cli.run("prepare", data, "--output", "out"), edited, MINE)
    assert cli.run("prepare", data, "--output", "out", "--force").code == 0
    assert edited.read_text(encoding="utf-8") == Path(data).read_text(encoding="utf-8")


def test_prepare_needs_no_force_for_its_own_folder(cli: CliEnvironment) -> None:
    data = str(chat_file(rows=30, extra='{"messages": []}\n'))
    for _ in range(2):
        assert cli.run("prepare", data, "--quarantine", "bad.jsonl", "--split", "0.1", "--force").code == 0
        assert cli.run("prepare", data, "--fix").code == 1


def test_findings_go_to_a_device_without_force(cli: CliEnvironment) -> None:
    assert cli.run("validate", str(chat_file()), "--findings", os.devnull).code == 0
    assert Path(os.devnull).is_char_device()


def test_failed_command_leaves_no_output(cli: CliEnvironment) -> None:
    """Nothing takes the name before it is complete."""
    data = Path("table.csv")
    data.write_text("a,b\n1,2\n", encoding="utf-8")
    assert cli.run("convert", str(data)).code == 1
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["table.csv"]
