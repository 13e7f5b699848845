"""The ``[checks]`` and ``[[ignore]]`` tables of a configuration as the settings of the dataset checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpipe.config import RunConfig

if TYPE_CHECKING:
    from ftpipe.dataset.settings import CheckSettings


def check_settings(config: RunConfig) -> CheckSettings:
    """Settings of the checks.

    Raises:
        ConfigError: A key, code or value is not one; the hint names the nearest right one.
    """
    from ftpipe.dataset.rules import codes
    from ftpipe.dataset.settings import settings_from

    values = dict(config.checks)
    if config.ignore:
        values["ignores"] = [*values.get("ignores", ()), *config.ignore]
    return settings_from(values, codes())
