"""The command line. ``ftpipe --help`` imports nothing but click; each command is imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from ftpipe import __version__
from ftpipe.cli.group import Group
from ftpipe.cli.main import execute, install_signals

COMMANDS = {
    "prepare": ("ftpipe.cli.commands.prepare:prepare", "Check a dataset, count its tokens, say what training costs."),
    "validate": ("ftpipe.cli.commands.validate:validate", "Check datasets and nothing else; for hooks and CI."),
    "train": ("ftpipe.cli.commands.train:train", "Upload, create the job, watch it, register the model."),
    "status": ("ftpipe.cli.commands.status:status", "How a job or run stands: step, losses, cost, errors."),
    "resume": ("ftpipe.cli.commands.resume:resume", "Go on after any interruption, without paying twice."),
    "chat": ("ftpipe.cli.commands.chat:chat", "Talk to a model, tuned or not."),
    "evaluate": (
        "ftpipe.cli.commands.evaluate:evaluate",
        "Whether a tuned model is better: paired, with intervals and a report.",
    ),
    "advise": ("ftpipe.cli.commands.advise:advise", "Retrieve, prompt or fine-tune: which road, and when it pays."),
    "models": ("ftpipe.cli.commands.models:models", "The registered models and their aliases."),
    "jobs": ("ftpipe.cli.commands.jobs:jobs", "Jobs at a provider: list, events, cancel, pause, adopt."),
    "explain": ("ftpipe.cli.commands.explain:explain", "What a rule or an error code means, and how to mend it."),
    "split": ("ftpipe.cli.commands.split:split", "Set a part of a dataset aside for validation."),
    "convert": ("ftpipe.cli.commands.convert:convert", "Turn other formats into chat JSONL."),
    "serve": ("ftpipe.cli.commands.serve:serve", "The embedded OpenAI-compatible endpoint that really trains."),
    "doctor": ("ftpipe.cli.commands.doctor:doctor", "Whether everything that ftpipe needs is in order."),
    "config": ("ftpipe.cli.commands.config:config", "The settings, and where each of them comes from."),
}

root = Group(
    name="ftpipe",
    help="From a chat JSONL file to a fine-tuned model that answers: on OpenAI and its kin, or on your own machine.",
    lazy=COMMANDS,
    example="ftpipe prepare data/support_desk/train.jsonl\nftpipe train --epochs 3\nftpipe status",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, "--version", prog_name="ftpipe")(root)


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    if "_FTPIPE_COMPLETE" in os.environ:
        root.main(prog_name="ftpipe")
    install_signals()
    sys.exit(execute(root, sys.argv[1:] if argv is None else argv))
