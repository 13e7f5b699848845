"""What a job on one's own machine needs, as text: memory, time, price and the settings behind them."""

from __future__ import annotations

from ftpipe.formatting import Styler, duration, format_bytes, format_money, plural, sanitize_line, unstyled
from ftpipe.records.training_estimate import TrainingEstimate

DEVICES = {"cpu": "processor", "cuda": "GPU", "mps": "Apple GPU"}
PARTS = {
    "weights": "base model",
    "activations": "activations",
    "workspace": "workspace",
    "sampling": "sampled answers",
    "libraries": "libraries",
    "adapter": "adapter and optimizer",
}


def estimate_lines(estimate: TrainingEstimate, title: str, style: Styler = unstyled) -> list[str]:
    """An estimate as lines of a label and a text.

    Args:
        estimate: What to show.
        title: The machine.
        style: Styles text for the terminal.
    """
    parts = ", ".join(
        f"{label} {format_bytes(estimate.memory_parts[name])}"
        for name, label in PARTS.items()
        if estimate.memory_parts.get(name)
    )
    rows = [
        ("machine", title),
        ("memory", memory_text(estimate)),
        ("", parts),
        *(("", reason) for reason in estimate.reasons),
        *(("", f"it fits with {remedy}") for remedy in estimate.remedies),
        ("time", time_text(estimate)),
        ("cost", cost_text(estimate)),
        ("settings", settings_text(estimate)),
    ]
    head = style("bold", f"training {sanitize_line(estimate.base, 80)}")
    return [head, *(f"  {label:<9}{text}" for label, text in rows if text)]


def memory_text(estimate: TrainingEstimate) -> str:
    """The peak memory, and whether there is so much."""
    if estimate.memory_bytes is None:
        return "unknown: the architecture of this base model is not described"
    each = f" on each of {estimate.devices} GPUs" if estimate.devices > 1 else ""
    sharded = ", which share the base model's weights" if estimate.is_sharded else ""
    text = f"{format_bytes(estimate.memory_bytes)}{each}{sharded}"
    if estimate.available_bytes is None:
        return text
    verdict = "fits" if estimate.fits else "does not fit"
    return f"{text}; {format_bytes(estimate.available_bytes)} can be used: {verdict}"


def time_text(estimate: TrainingEstimate) -> str:
    """How long it takes, and where the speed comes from."""
    if estimate.tokens_per_second is None:
        return f"unknown: {estimate.speed_source or 'no job has been measured on such a device'}"
    source = f"{estimate.tokens_per_second:,.0f} tokens per second, {estimate.speed_source}"
    if estimate.seconds is None:
        million = duration(1e6 / estimate.tokens_per_second)
        return f"{million} for a million tokens: {source}"
    return f"about {duration(estimate.seconds)}: {source}"


def cost_text(estimate: TrainingEstimate) -> str:
    """The price, if the machine has one."""
    if estimate.price is None:
        return ""
    return format_money(estimate.price, estimate.currency) if estimate.price else "free"


def settings_text(estimate: TrainingEstimate) -> str:
    """The settings that decide about memory and time."""
    epochs = plural(estimate.n_epochs, "epoch")
    parts = [estimate.precision]
    parts += [f"{estimate.quantization} weights"] if estimate.quantization != "none" else []
    parts += ["gradient checkpointing"] if estimate.gradient_checkpointing else []
    parts += [f"batches of {plural(estimate.batch_size, 'row')}, the longest with {estimate.longest_row:,} tokens"]
    return ", ".join([*parts, f"{estimate.micro_batch_tokens:,} tokens at a time", epochs])
