"""``ftpipe models export``: write a model that was trained on this machine for other programs, and check it."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.cli.output.progress import Progress, item_progress
from ftpipe.errors import ExportCheckError, FtpipeError, LocalStateError, NotFoundError, UsageError
from ftpipe.formatting import format_bytes, plural, sanitize_line
from ftpipe.paths import models_dir, server_dir
from ftpipe.records import Model, Run

if TYPE_CHECKING:
    from ftpipe.modeling.export.check import Prompt
    from ftpipe.modeling.export.export_model import ExportFormat, ExportResult
    from ftpipe.modeling.export.hub import Hub, HubTarget
    from ftpipe.modeling.export.model_card import ModelFacts

SKIP_QUESTION_HINT = "add --yes to skip the question"
MAX_ROWS_FOR_PROMPTS = 2000
"""Rows of a file from which the prompts of the check are taken."""


@click.command(
    cls=Command,
    example="ftpipe models export support-bot@production -o export/\n"
    "ftpipe models export support-bot@production -o merged/ --merged\n"
    "ftpipe models export support-bot@production -o gguf/ --gguf\n"
    "ftpipe models export support-bot@production --push-to-hub my-org/support-bot",
)
@click.argument("model")
@click.option("-o", "--output", type=shared.FOLDER, metavar="DIR", help="New folder.  [default: named after the model]")
@click.option("--merged", is_flag=True, help="Complete weights, for vLLM or transformers, and not the adapter alone.")
@click.option("--gguf", is_flag=True, help="A GGUF file for llama.cpp, with a Modelfile for Ollama.")
@click.option(
    "--push-to-hub",
    "repository",
    metavar="ORG/NAME",
    help="Also send the export to this repository of the Hugging Face hub; it is made private.",
)
@click.option("--public", is_flag=True, help="With --push-to-hub: everybody can see a new repository.")
@click.option("-y", "--yes", is_flag=True, help="Send to the hub without asking.")
@pass_cli_context
def export(
    context: CliContext,
    model: str,
    output: Path | None,
    merged: bool,
    gguf: bool,
    repository: str | None,
    public: bool,
    yes: bool,
) -> None:
    """Write MODEL, which was trained on this machine, to a folder for other programs.

    By default that is the LoRA adapter with tokenizer, chat template and model card, which peft and vLLM load onto its
    base model.

    The export answers 20 prompts, and its answers are compared with those of the trained model. If they
    differ, the exit code is 1, and the folder's name ends with -failed-check.
    """
    registry = context.registry()
    record = registry.models.get(model)
    if merged and gguf:
        raise UsageError("--merged and --gguf are two exports", "run the command once with each")
    form: ExportFormat = "merged" if merged else "gguf" if gguf else "adapter"
    if public and not repository:
        raise UsageError("--public needs --push-to-hub", "add --push-to-hub ORG/NAME")
    folder = output or default_folder(record, form)
    upload = HubUpload.prepare(context, repository, public=public, yes=yes) if repository else None
    with context.interruptible("interrupted; nothing was written"):
        result = export_local(context, record, registry.runs.find(record.id), folder, form)
    size = show(context, record, form, result)
    if upload is not None:
        upload.send(context, record, result.folder, size)


def export_local(context: CliContext, model: Model, run: Run | None, folder: Path, form: ExportFormat) -> ExportResult:
    """Write the weights of a model to a folder, and check them.

    Raises:
        UsageError: The model is at a hosted provider, which does not give out weights.
        NotFoundError: The weights are not in the server's data folder any more.
    """
    if model.provider != "local":
        raise UsageError(
            f"{model.id} is at {model.provider}, which does not give out weights",
            "only models trained with --provider local can be exported",
        )
    base, adapter, hyperparameters = _weights(model)
    from ftpipe.modeling.export.export_model import ExportRequest, export_model

    context.print_status(f"exporting to {sanitize_line(folder, 300)}")
    request = ExportRequest(
        base=base,
        adapter=adapter,
        output=folder,
        format=form,
        models_dir=models_dir(),
        facts=_facts(model, run, base, hyperparameters),
        prompts=_prompts(run),
    )

    def progress(label: str, unit: str) -> AbstractContextManager[Progress]:
        return item_progress(context, label, unit=unit)

    return export_model(request, progress)


@dataclass(frozen=True)
class HubUpload:
    """An export that will be sent to the hub."""

    hub: Hub
    target: HubTarget
    yes: bool

    @classmethod
    def prepare(cls, context: CliContext, repository: str, *, public: bool, yes: bool) -> HubUpload:
        """Look up account and repository, and say where the model will go, before anything is computed."""
        from ftpipe.modeling.export.hub import Hub

        if not yes and not context.can_ask:
            raise UsageError("--push-to-hub sends the model, and there is no terminal to ask", SKIP_QUESTION_HINT)
        if context.quiet or context.json:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        hub = Hub(context.environment())
        target = hub.find_target(repository, public=public)
        context.print_status(f"after its check the export is sent to {sanitize_line(target.description, 300)}")
        return cls(hub, target, yes)

    def send(self, context: CliContext, model: Model, folder: Path, size: str) -> None:
        """Ask, and send all files of the folder."""
        if not self.yes:
            context.confirm(
                f"Send {size} to {self.target.description}?", reason="this sends the model", undone="the export is kept"
            )
        with context.interruptible(f"interrupted; the hub shows no file of it, and the export is in {folder}"):
            url = self.hub.upload(folder, self.target, message=f"Upload {model.id}")
        context.add(hub={**asdict(self.target), "url": self.target.url, "commit_url": url})
        context.print_result(self.target.url)


def show(context: CliContext, model: Model, form: ExportFormat, result: ExportResult) -> str:
    """Announce a good export; raise for one that failed its check.

    Returns:
        Number and size of the files.

    Raises:
        ExportCheckError: It does not give the answers of the trained model.
    """
    from ftpipe.modeling.export.model_card import check_sentence

    files = sorted(file for file in result.folder.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    context.add(
        model=model.id,
        folder=result.folder,
        format=form,
        base=asdict(result.base) if result.base else None,
        check={**asdict(result.check), "passed": result.check.passed},
        notes=result.notes,
        files=[str(file.relative_to(result.folder)) for file in files],
        bytes=size,
    )
    if not result.check.passed:
        raise ExportCheckError(
            f"the export does not give the answers of {model.id}: {'; '.join(result.check.problems)}",
            f"do not use it; for a report it is kept in {result.folder}",
        )
    context.print_status(check_sentence(result.check))
    for note in result.notes:
        context.print_status(f"{context.style_err('warning', 'Note:')} {note}")
    amount = f"{plural(len(files), 'file')} ({format_bytes(size)})"
    context.print_status(f"wrote {amount}")
    context.print_result(str(result.folder))
    return amount


def default_folder(model: Model, form: ExportFormat) -> Path:
    """A folder in the current one that is named after the model and the format."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.id).strip("-.")[:100]
    return Path(name if form == "adapter" else f"{name}-{form}")


def _weights(model: Model) -> tuple[str, Path, dict[str, Any]]:
    """The name of the base model, the adapter of the last step, and the hyperparameters."""
    from ftpipe.server.storage.data_dir import DataDirectory

    directory = DataDirectory(server_dir()).job(model.job_id)
    try:
        base_model = directory.read_spec().base_model
    except LocalStateError as error:
        raise _weights_not_found(model, directory.path) from error
    result = directory.read_result()
    if result is None or result.final_step is None:
        raise _weights_not_found(model, directory.path)
    plan = directory.read_plan()
    return base_model, directory.checkpoint_dir(result.final_step), plan.hyperparameters.as_json() if plan else {}


def _weights_not_found(model: Model, path: Path) -> NotFoundError:
    return NotFoundError(
        f"the weights of {model.id} are not in {path}", "set FTPIPE_HOME to where it was trained, or train again"
    )


def _prompts(run: Run | None) -> list[Prompt]:
    """Prompts of the validation file, else of the training file; none if they are not readable any more."""
    from ftpipe.dataset.reader import iter_valid_lines
    from ftpipe.modeling.export.check import Prompt

    for path in (run.spec.validation, run.spec.data) if run else ():
        if path is None:
            continue
        try:
            records = [record for _, _, record in islice(iter_valid_lines(path), MAX_ROWS_FOR_PROMPTS)]
        except (FtpipeError, OSError):
            continue
        conversations = [record.get("input") or record for record in records]
        return [
            Prompt(messages, conversation.get("tools") or None)
            for conversation in conversations
            if isinstance(conversation, dict) and (messages := _messages_before_answer(conversation.get("messages")))
        ]
    return []


def _messages_before_answer(messages: object) -> list[dict[str, Any]]:
    """The messages up to the last one of a user; empty if they are not a conversation."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return []
    last = max((index for index, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    return messages[: last + 1]


def _facts(model: Model, run: Run | None, base: str, hyperparameters: dict[str, Any]) -> ModelFacts:
    from ftpipe.catalog.hub_models import hub_models
    from ftpipe.modeling.base_models import DEFAULT_BASE, DEFAULT_LICENCE
    from ftpipe.modeling.export.model_card import ModelFacts

    licences = {DEFAULT_BASE: DEFAULT_LICENCE, **{known.name: known.licence for known in hub_models()}}
    return ModelFacts(
        name=model.id,
        method=model.method.value,
        dataset_sha256=model.dataset_sha256,
        rows=run.dataset.examples if run and run.dataset else None,
        hyperparameters={**hyperparameters, **({} if model.seed is None else {"seed": model.seed})},
        metrics=model.metrics.model_dump(exclude={"step", "total_steps"}, exclude_none=True) if model.metrics else {},
        license=licences.get(base, "").lower().replace(" ", ""),  # the hub's ids: apache-2.0, llama3.2
    )
