"""What the fault tests of Together start from: the same as those of the OpenAI API, over a local Together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.providers.together.open import open_together
from ftpipe.records import RunSpec
from tests.fakes.records import spec_of
from tests.fakes.together import BASE, TogetherServer
from tests.faults.environment import KEY, FaultEnvironment


def together_at(
    base_url: str, *, key: str = KEY, sleep: Callable[[float], None] = time.sleep, **profile: Any
) -> Provider:
    """The local Together as a provider whose waits are short."""
    table = {
        "base_url": base_url,
        "list_lag_seconds": 0.2,
        "poll_first_seconds": 0.01,
        "poll_max_seconds": 0.05,
        "request_timeout_seconds": 5.0,
        **profile,
    }
    return open_together(find_profile("together", {"together": table}), {"TOGETHER_API_KEY": key}, sleep=sleep)


class TogetherEnvironment(FaultEnvironment):
    """One user's folder, talking to one local Together."""

    endpoint: TogetherServer  # type: ignore[assignment]  # another server with the same fields for what is counted

    def provider(self, sleep: Callable[[float], None], **profile: Any) -> Provider:
        """The local Together as a provider."""
        return together_at(self.base_url, key=self.key, sleep=sleep, **profile)

    def spec(self) -> RunSpec:
        """What is requested."""
        return spec_of(self.dataset).model_copy(update={"provider": "together", "model": BASE, "suffix": "support"})
