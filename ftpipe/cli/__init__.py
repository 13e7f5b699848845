"""The command line. ``ftpipe --help`` imports only click; each command is imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from ftpipe import __version__
from ftpipe.cli.group import Group
from ftpipe.cli.main import execute, install_signals, leave

COMMANDS = {
    "prepare": (
        "ftpipe.cli.commands.prepare:prepare",
        "Check a dataset, count its tokens and estimate the training cost.",
    ),
    "plan": (
        "ftpipe.cli.commands.plan:plan",
        "Say whether a base model can be trained here, how long it takes and what it costs.",
    ),
    "validate": ("ftpipe.cli.commands.validate:validate", "Only check datasets, for hooks and CI."),
    "train": ("ftpipe.cli.commands.train:train", "Upload the data, create and watch the job, register the model."),
    "status": ("ftpipe.cli.commands.status:status", "Show the status of a run or job: step, losses, cost, errors."),
    "resume": ("ftpipe.cli.commands.resume:resume", "Continue after any interruption, without paying twice."),
    "chat": ("ftpipe.cli.commands.chat:chat", "Talk to a model."),
    "evaluate": (
        "ftpipe.cli.commands.evaluate:evaluate",
        "Compare models with a baseline, with intervals and gates.",
    ),
    "losses": ("ftpipe.cli.commands.losses:losses", "Rank training rows by loss, to find wrong labels."),
    "advise": (
        "ftpipe.cli.commands.advise:advise",
        "Recommend retrieval, prompting or fine-tuning, with break-even.",
    ),
    "leave": (
        "ftpipe.cli.commands.leave:leave",
        "Move tuned models away from a provider, with a plan, a budget and a report.",
    ),
    "models": ("ftpipe.cli.commands.models:models", "Show the registered models and their aliases."),
    "jobs": ("ftpipe.cli.commands.jobs:jobs", "List and control jobs: events, cancel, pause, adopt."),
    "distill": (
        "ftpipe.cli.commands.distill:distill",
        "Make a training set out of a model's recorded answers.",
    ),
    "deployments": (
        "ftpipe.cli.commands.deployments:deployments",
        "Deploy tuned models where that is billed per hour, and stop them.",
    ),
    "explain": ("ftpipe.cli.commands.explain:explain", "Explain a rule, an error code or an exit code."),
    "split": ("ftpipe.cli.commands.split:split", "Split off a part of a dataset for validation."),
    "convert": ("ftpipe.cli.commands.convert:convert", "Convert other formats to chat JSONL."),
    "serve": ("ftpipe.cli.commands.serve:serve", "Run the embedded OpenAI-compatible server, which trains locally."),
    "ui": ("ftpipe.cli.commands.ui:ui", "Check data, train, chat and compare models in the browser."),
    "init": ("ftpipe.cli.commands.init:init", "Write a commented configuration and an example dataset here."),
    "doctor": ("ftpipe.cli.commands.doctor:doctor", "Check everything that ftpipe needs, and repair the registry."),
    "gc": ("ftpipe.cli.commands.gc:gc", "Delete files of ftpipe that nobody refers to any more."),
    "config": ("ftpipe.cli.commands.config:config", "Show settings and their origin, and set some for all projects."),
}

root = Group(
    name="ftpipe",
    help="Fine-tune models from chat JSONL files, on OpenAI-compatible APIs or on your own machine.",
    lazy=COMMANDS,
    example="ftpipe prepare data/support_desk/train.jsonl\nftpipe train --epochs 3\nftpipe status",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, "--version", prog_name="ftpipe")(root)


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its exit code."""
    if "_FTPIPE_COMPLETE" in os.environ:
        root.main(prog_name="ftpipe")
    install_signals()
    leave(execute(root, sys.argv[1:] if argv is None else argv))
