"""Compute the loss of every row under a base model and its adapters: ``python -m ftpipe.training.row_losses``.

It runs as a process, so that neither a job nor a chat waits for it and its memory is freed when it ends. Its argument
is one JSON object. It writes JSON lines to standard output: progress, then the rows, or an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json
from ftpipe.errors import FtpipeError, MissingExtraError
from ftpipe.modeling.base_facts import BaseFacts
from ftpipe.modeling.device import DeviceConfig, select_device, use_passive_omp_wait
from ftpipe.training.batching import REFUSE_BAD_ROWS, BadRows
from ftpipe.training.hyperparameters import DEFAULT_CONTEXT
from ftpipe.training.job_directory import JobDirectory

INSTALL = "pip install 'ftpipe[local]'"


@dataclass(frozen=True)
class ScoringRequest:
    """The data and the models to compute losses for.

    Attributes:
        data: A JSONL file of chat records.
        base: Name of the base, as ``resolve_base`` takes it.
        adapters: Folder of each model's adapter; ``None`` for the base alone.
        models_dir: The models directory.
    """

    data: Path
    base: str
    adapters: tuple[Path | None, ...]
    models_dir: Path

    def as_json(self) -> str:
        """For the command line."""
        adapters = [None if adapter is None else str(adapter) for adapter in self.adapters]
        paths = {"data": str(self.data), "models_dir": str(self.models_dir)}
        return json.dumps({**paths, "base": self.base, "adapters": adapters})

    @classmethod
    def from_json(cls, text: str) -> ScoringRequest:
        """The request that ``as_json`` wrote."""
        raw = json.loads(text)
        adapters = tuple(None if adapter is None else Path(adapter) for adapter in raw["adapters"])
        return cls(Path(raw["data"]), raw["base"], adapters, Path(raw["models_dir"]))


@dataclass(frozen=True)
class RowLosses:
    """One row of a dataset under several models.

    Attributes:
        line: 1-based line in the file.
        tokens: Its trained tokens.
        losses: Mean cross-entropy in nats over its trained tokens, one for each model, in the order of the request.
    """

    line: int
    tokens: int
    losses: tuple[float, ...]


def score_models(
    request: ScoringRequest, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[RowLosses]:
    """Every row's loss under every model, with the loss mask and the truncation of training.

    Args:
        request: The data and the models.
        on_progress: Called with the number of sequences done and in total, over all models.

    Raises:
        DatasetError: Rows that cannot be scored.
        NotFoundError: The base or an adapter is missing.
    """
    from ftpipe.modeling.base_models import resolve_base
    from ftpipe.modeling.chat_tokenizer import ChatTokenizer
    from ftpipe.modeling.loading import load_adapter, load_base
    from ftpipe.training.batching import read_rows
    from ftpipe.training.causal_lm import LanguageModel
    from ftpipe.training.loss import LossStats, evaluate_rows

    base_dir = resolve_base(request.base, models_dir=request.models_dir)
    device_config, limit, bad_rows = training_settings(base_dir, request.adapters)
    rows = read_rows(request.data, ChatTokenizer.load(base_dir), limit=limit, bad_rows=bad_rows)
    total = len(rows.examples) * len(request.adapters)
    on_progress(0, total)
    model = base = load_base(base_dir, device_config)
    columns: list[list[LossStats]] = []
    for index, adapter in enumerate(request.adapters):
        if adapter is not None:
            model = load_adapter(model, adapter, name=f"adapter{index}")
            model.set_adapter(f"adapter{index}")
        previous = index * len(rows.examples)

        def on_row(done: int, previous: int = previous) -> None:
            on_progress(previous + done, total)

        without_adapter = adapter is None and model is not base
        with model.disable_adapter() if without_adapter else nullcontext():
            columns.append(evaluate_rows(LanguageModel(model), rows.examples, on_row))
    return list(by_line(rows.lines, columns))


def by_line(lines: Sequence[int], columns: Sequence[Sequence[Any]]) -> Iterator[RowLosses]:
    """The losses of sequences as those of rows; a conversation that was split into several sequences counts once.

    Args:
        lines: The line of each sequence.
        columns: One list per model, with the ``LossStats`` of each sequence.
    """
    from ftpipe.training.loss import LossStats

    sums: dict[int, list[LossStats]] = {}
    for index, line in enumerate(lines):
        row = sums.setdefault(line, [LossStats()] * len(columns))
        sums[line] = [total + column[index] for total, column in zip(row, columns, strict=True)]
    for line, row in sums.items():
        yield RowLosses(line, row[0].tokens, tuple(round(stats.mean_loss, 5) for stats in row))


def training_settings(base: Path, adapters: Sequence[Path | None]) -> tuple[DeviceConfig, int, BadRows]:
    """Device, sequence length and choice about bad rows of the job that trained the first adapter.

    Its losses are then those of training.

    Args:
        base: The base model's directory; its context is the length if no adapter has a job.
        adapters: Checkpoints in their job directories.
    """
    for adapter in adapters:
        plan = None if adapter is None else JobDirectory.of_checkpoint(adapter).read_plan()
        if plan is not None:
            resolved = plan.hyperparameters
            return select_device(plan.device_config), resolved.max_length, BadRows(resolved.skip_bad_rows)
    context = BaseFacts.of_config(read_json(base / "config.json") or {}).context
    return select_device(), context or DEFAULT_CONTEXT, REFUSE_BAD_ROWS


def write(row: Mapping[str, Any]) -> None:
    """Write one JSON line to the server."""
    sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Compute the losses that the argument requests; 0 if all rows were written, 1 after an error."""
    use_passive_omp_wait()
    try:
        rows = score_models(
            ScoringRequest.from_json(arguments[0]), lambda done, total: write({"done": done, "total": total})
        )
    except ModuleNotFoundError as exc:
        write({"error": {"code": MissingExtraError.code, "message": f"local models need {exc.name}: {INSTALL}"}})
        return 1
    except FtpipeError as exc:
        write({"error": {"code": exc.code, "message": ". ".join(filter(None, [exc.message, exc.hint]))}})
        return 1
    for row in rows:
        write({"line": row.line, "tokens": row.tokens, "losses": row.losses})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
