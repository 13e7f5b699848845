"""The number of epochs that a service chooses if none is requested; the cost estimate and local training use it."""

from __future__ import annotations

TARGET_EPOCHS, MIN_EPOCHS, MAX_EPOCHS = 3, 1, 25
MIN_TRAINED_EXAMPLES, MAX_TRAINED_EXAMPLES = 100, 25_000
"""Examples times epochs."""


def auto_epochs(examples: int) -> int:
    """3; more if that is fewer than 100 examples in all, fewer if it is more than 25,000.

    Source: OpenAI cookbook ``Chat_finetuning_data_prep``, read 2026-11-24; fits 10 examples → 10 epochs and 101 → 3,
    as users reported.
    """
    if examples * TARGET_EPOCHS < MIN_TRAINED_EXAMPLES:
        return min(MAX_EPOCHS, MIN_TRAINED_EXAMPLES // max(1, examples))
    if examples * TARGET_EPOCHS > MAX_TRAINED_EXAMPLES:
        return max(MIN_EPOCHS, MAX_TRAINED_EXAMPLES // examples)
    return TARGET_EPOCHS
