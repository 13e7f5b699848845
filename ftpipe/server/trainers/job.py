"""One job from its spec to its result: read, resolve, train, and say how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable

from ftpipe.errors import DatasetError, FtpipeError, UsageError
from ftpipe.server.bases import resolve_base
from ftpipe.server.masking import ChatMask, MaskError
from ftpipe.server.trainers.batches import Rows, read_rows
from ftpipe.server.trainers.jobfolder import JobFolder, Spec, write_json
from ftpipe.server.trainers.loop import Loop, Supervised
from ftpipe.server.trainers.lora import (
    LanguageModel,
    Machine,
    add_adapter,
    choose_machine,
    load_base,
    load_tokenizer,
)
from ftpipe.server.trainers.plan import Plan, make_plan
from ftpipe.server.untyped import CausalModel, Tokenizer

METHODS = ("supervised",)


def run_job(folder: JobFolder, pause_wanted: Callable[[], bool] = lambda: False) -> str:
    """Run or go on with the job in ``folder``.

    Args:
        folder: A folder with ``spec.json``.
        pause_wanted: Asked after every step; true makes the run save its state and end.

    Returns:
        ``succeeded``, ``failed`` or ``paused``.
    """
    folder.clean()
    try:
        loop = _prepare(folder, folder.spec(), pause_wanted)
        if not loop.run():
            return "paused"
    except FtpipeError as exc:
        error = {"code": _code(exc), "message": " ".join(filter(None, [exc.message, exc.hint])), "param": _param(exc)}
        folder.event(f"The job failed: {exc.message}", level="error")
        folder.write_result("failed", trained_tokens=0, step=0, error=error)
        return "failed"
    folder.write_result("succeeded", trained_tokens=loop.reached.trained_tokens, step=loop.reached.step)
    return "succeeded"


def _code(exc: FtpipeError) -> str:
    """Source: OpenAI's job errors as seen in public logs, 2026-11-24."""
    if isinstance(exc, DatasetError | MaskError):
        return "invalid_training_file"
    return "invalid_hyperparameters" if isinstance(exc, UsageError) else exc.code


def _param(exc: FtpipeError) -> str | None:
    if isinstance(exc, DatasetError | MaskError):
        return "training_file"
    return "hyperparameters" if isinstance(exc, UsageError) else None


def _prepare(folder: JobFolder, spec: Spec, pause_wanted: Callable[[], bool]) -> Loop:
    if spec.method not in METHODS:
        raise UsageError(
            f"the local engine trains {' and '.join(METHODS)}, not {spec.method}", f"choose the method {METHODS[0]}"
        )
    said = folder.told()[1]

    def say(text: str, level: str = "info") -> None:
        if text not in said:
            folder.event(text, level=level)

    base_folder = resolve_base(spec.base, models_dir=spec.models_dir, say=say)
    machine, kept_plan = _kept(folder)
    base = load_base(base_folder, machine)
    tokenizer = load_tokenizer(base_folder)
    context = int(getattr(base.config.get_text_config(), "max_position_embeddings", None) or 2048)
    rows, plan = _rows_and_plan(spec, base, tokenizer, machine, context, kept_plan)
    valid = _validation(spec, tokenizer, plan)
    _warn(rows, plan, say)
    write_json(folder.path / "plan.json", {"machine": vars(machine), "plan": plan.as_json()})
    model = add_adapter(base, plan, seed=spec.seed)
    objective = Supervised(LanguageModel(model), rows.examples, valid.examples if valid else ())
    return Loop(folder, plan, objective, model, spec.base, spec.seed, pause_wanted)


def _kept(folder: JobFolder) -> tuple[Machine, Plan | None]:
    """Machine and plan of the first start, so that going on does what was begun; fresh ones for a new job."""
    place = folder.path / "plan.json"
    if not place.exists():
        return choose_machine(), None
    row = json.loads(place.read_text(encoding="utf-8"))
    machine, now = Machine(**row["machine"]), choose_machine()
    return (machine if machine.device == now.device else now), Plan.from_json(row["plan"])


def _rows_and_plan(
    spec: Spec, base: CausalModel, tokenizer: Tokenizer, machine: Machine, context: int, kept: Plan | None
) -> tuple[Rows, Plan]:
    asked = spec.hyperparameters
    size = sum(parameter.numel() for parameter in base.parameters())

    def plan_for(examples: int) -> Plan:
        return make_plan(
            asked,
            examples=examples,
            parameters=size,
            longest_context=context,
            on_accelerator=machine.on_accelerator,
            method=spec.method,
        )

    limit = (kept or plan_for(1)).max_length
    rows = read_rows(spec.training_file, ChatMask(tokenizer), limit=limit)
    return rows, kept or plan_for(len(rows.examples))


def _validation(spec: Spec, tokenizer: Tokenizer, plan: Plan) -> Rows | None:
    if spec.validation_file is None:
        return None
    try:
        return read_rows(spec.validation_file, ChatMask(tokenizer), limit=plan.max_length)
    except DatasetError as exc:
        raise DatasetError(f"validation file: {exc.message}", exc.hint) from exc


def _warn(rows: Rows, plan: Plan, say: Callable[..., None]) -> None:
    if rows.cut:
        named = ", ".join(str(line) for line in rows.cut[:10]) + ("…" if len(rows.cut) > 10 else "")
        say(
            f"{len(rows.cut)} rows are longer than {plan.max_length} tokens and were cut at their end: lines {named}",
            "warn",
        )
    if rows.unrolled:
        say(
            "The base's chat template writes earlier turns differently from the last one: "
            f"{rows.unrolled} conversations are trained as one sequence per answer",
            "warn",
        )
