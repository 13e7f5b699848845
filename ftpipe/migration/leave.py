"""The state of leaving a provider: which models were chosen, how far each is, and what may still be paid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ftpipe.atomic_files import write_bytes
from ftpipe.errors import CostLimitError, LocalStateError, UsageError
from ftpipe.formatting import format_money
from ftpipe.paths import state_dir
from ftpipe.records.inventory import Inventory, InventoryModel
from ftpipe.records.leave import MAX_ROUNDING_ERROR, LeaveModel, LeaveStage, LeaveState

FOLDER = "leave"


def state_path(endpoint: str) -> Path:
    """The file with the state of leaving an endpoint, in the project's state folder."""
    return state_dir() / FOLDER / f"{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}.json"


def load_state(endpoint: str) -> LeaveState | None:
    """How far leaving an endpoint is; ``None`` if it was not begun.

    Raises:
        LocalStateError: The file is damaged.
    """
    path = state_path(endpoint)
    try:
        return LeaveState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise LocalStateError(
            f"{path} cannot be read",
            "delete it and run the same command again: backups, recordings, jobs and answers are found again",
        ) from exc


def latest_provider() -> str | None:
    """The provider whose models moved last; ``None`` if none is being left. A damaged state is left out."""
    states = []
    for path in (state_dir() / FOLDER).glob("*.json"):
        with suppress(OSError, ValidationError):
            states.append(LeaveState.model_validate_json(path.read_bytes()))
    return max(states, key=lambda one: one.updated_at).provider if states else None


def save_state(state: LeaveState) -> LeaveState:
    """Write the state; it is on the disk before this returns.

    Raises:
        LocalStateError: It cannot be written.
    """
    path = state_path(state.endpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, state.model_dump_json(indent=1).encode() + b"\n", mode=0o600)
    except OSError as exc:
        raise LocalStateError(
            f"{path} cannot be written: {exc.strerror}", "free space on the disk, then run the same command again"
        ) from exc
    return state


def movable_models(inventory: Inventory) -> list[InventoryModel]:
    """The models that answer, or whose data can still be retrained: those that stop first come first."""
    return [model for model in inventory.models if model.job is not None and model.state == "available"]


def choose_models(inventory: Inventory, names: Iterable[str]) -> list[InventoryModel]:
    """The models of those names or job ids.

    Raises:
        UsageError: The key sees no such model.
    """
    chosen: dict[str, InventoryModel] = {}
    for name in names:
        found = [model for model in inventory.models if name in (model.id, model.job.id if model.job else "")]
        if not found:
            raise UsageError(
                f"{inventory.title} has no model {name!r} that this key can see",
                "`ftpipe models inventory` lists all of them",
            )
        chosen[found[0].id] = found[0]
    return list(chosen.values())


def as_leave_model(model: InventoryModel, known: LeaveModel | None) -> LeaveModel:
    """A chosen model, with what is known of it from an earlier call."""
    one = known or LeaveModel(model=model.id, base=model.base)
    if (
        one.stage is LeaveStage.REJECTED
    ):  # with another margin or other prompts it may pass; its answers are not paid again
        one = one.model_copy(update={"stage": LeaveStage.TRAINED})
    return one.model_copy(update={"base": model.base, "shutdown_date": model.shutdown_date, "problem": "", "hint": ""})


def check_budget(state: LeaveState) -> None:
    """Refuse to begin if everything together may cost more than the limit.

    Raises:
        CostLimitError: So it may, or a price is not known.
    """
    if state.max_cost is None:
        return
    limit = format_money(state.max_cost, state.currency)
    high = state.highest_cost
    if high is None:
        names = [one.model for one in state.open_models if one.highest_cost is None]
        raise CostLimitError(
            f"a price for {names[0]} is not known, so --max-cost cannot be checked",
            "`ftpipe config prices FILE` takes it, or leave --max-cost out",
        )
    if high + state.spent > state.max_cost + MAX_ROUNDING_ERROR:
        before = f", {format_money(state.spent, state.currency)} of it spent already" if state.spent else ""
        raise CostLimitError(
            f"the move may cost up to {format_money(high + state.spent, state.currency)}{before}, over the limit of "
            f"{limit}",
            "move fewer models, compare on fewer prompts, choose a cheaper --base, or raise --max-cost",
        )
