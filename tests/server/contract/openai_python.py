"""Run openai-python's own tests of the API against the server, and show what passes and why the rest does not.

By hand, with a checkout of https://github.com/openai/openai-python, ``pytest-asyncio`` and ``aiohttp``::

    python -m tests.server.contract.openai_python CHECKOUT

The exit code is 1 if a test fails for which ``EXCEPTIONS`` has no reason, or a reason applies to no test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.server.processes import ROOT, ServerProcess

FILES = (
    "responses",
    "test_responses.py",
    "chat",
    "test_completions.py",
    "test_files.py",
    "fine_tuning",
    "test_models.py",
    "test_uploads.py",
    "uploads",
)
EXCEPTIONS = {
    r"test_responses::test_(method|raw_response|streaming_response)_create_overload_[12]\[.*": (
        "the request names neither a model nor an input"
    ),
    r"responses\.test_input_tokens::test_(method|raw_response|streaming_response)_count\[.*": (
        "the request names neither a model nor an input, but a number is expected"
    ),
    r"test_responses::test_\w+_compact\w*\[.*": "compaction is refused by name: its result is encrypted by OpenAI",
    r"test_responses::test_method_create_with_all_params_overload_1\[.*": (
        "stream_options without stream; background, conversation, prompt and moderation, which are refused by name"
    ),
    r"test_responses::test_method_create_with_all_params_overload_2\[.*": (
        "background, conversation, prompt and moderation, which are refused by name"
    ),
    r"responses\.test_input_tokens::test_method_count_with_all_params\[.*": (
        "conversation, personality and reasoning, which are refused by name"
    ),
    r"chat\.test_completions::test_method_create_with_all_params_overload_[12]\[.*": (
        "a limit of 0 tokens, a bias for the token 'foo'; moderation and web_search_options, which are refused by name"
    ),
    r"chat\.completions\.test_messages::test_method_list_with_all_params\[.*": (
        "the cursor 'after' is no message's id: the server makes these ids from the completion's"
    ),
    r"test_completions::test_method_create_with_all_params_overload_[12]\[.*": "best_of is 0, which is less than n",
    r"test_uploads::test_method_complete_with_all_params\[.*": "the MD5 sum 'md5' is not that of the parts",
}
"""Pattern of ``FILE::TEST`` → why it cannot pass."""


@dataclass(frozen=True)
class TestResult:
    """One test with one client."""

    file: str
    name: str
    is_failed: bool
    message: str

    @property
    def reason(self) -> str | None:
        """Why it cannot pass; ``None`` if it should."""
        path = f"{self.file}::{self.name}"
        return next((reason for pattern, reason in EXCEPTIONS.items() if re.fullmatch(pattern, path)), None)


def run(checkout: Path, folder: Path) -> list[TestResult]:
    """Run the tests against a new server."""
    data_dir = folder / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir)
    server.start()
    report = folder / "report.xml"
    paths = [f"tests/api_resources/{name}" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-p", "seed", "-o", "addopts=", "-q", "-n", "0"]
    # warnings of newer versions of the test tools are no errors of the server
    command += ["-W", "default", "--tb=line", f"--junitxml={report}", *paths]
    environment = os.environ | {
        "FTPIPE_DATA_DIR": str(data_dir),
        "TEST_API_BASE_URL": server.note["base_url"],
        # both have a package "tests": that of the checkout comes first, and the plugin is not part of ours
        "PYTHONPATH": os.pathsep.join(map(str, (checkout / "src", checkout, Path(__file__).parent, ROOT))),
    }
    try:
        subprocess.run(command, cwd=checkout, env=environment, check=False)
    finally:
        server.stop()
    return read_report(report)


def read_report(path: Path) -> list[TestResult]:
    """The results in a JUnit file."""
    results = []
    for case in ElementTree.parse(path).iter("testcase"):
        failure = case.find("failure")
        failure = case.find("error") if failure is None else failure
        file = case.attrib["classname"].removeprefix("tests.api_resources.").rpartition(".")[0]
        message = "" if failure is None else failure.attrib.get("message", "")
        results.append(
            TestResult(file, case.attrib["name"], failure is not None, message.splitlines()[0] if message else "")
        )
    return results


def describe(results: list[TestResult]) -> tuple[str, bool]:
    """A table, the exceptions with their reasons, and the other failures; and whether there are none of these."""
    passed = Counter(result.file for result in results if not result.is_failed)
    failed = Counter(result.file for result in results if result.is_failed)
    lines = [f"{'file':44} {'passed':>6} {'failed':>6}"]
    for file in sorted(passed | failed):
        lines.append(f"{file:44} {passed[file]:6} {failed[file]:6}")
    lines.append(f"{'all':44} {passed.total():6} {failed.total():6}")
    by_reason: defaultdict[str, list[TestResult]] = defaultdict(list)
    for result in results:
        if result.is_failed and result.reason is not None:
            by_reason[result.reason].append(result)
    for reason, some in by_reason.items():
        names = sorted({f"{result.file}::{result.name.partition('[')[0]}" for result in some})
        lines.append(f"\n{len(some)} fail: {reason}\n  " + "\n  ".join(names))
    unexplained = [result for result in results if result.is_failed and result.reason is None]
    for result in unexplained:
        lines.append(f"\nfailed: {result.file}::{result.name}\n  {result.message}")
    unused = [reason for reason in EXCEPTIONS.values() if reason not in by_reason]
    for reason in unused:
        lines.append(f"\nno test fails for this reason: {reason}")
    return "\n".join(lines) + "\n", not unexplained and not unused


def main() -> None:
    """Run the tests of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        text, is_as_expected = describe(run(Path(sys.argv[1]).absolute(), Path(folder)))
    sys.stdout.write(text)
    sys.exit(0 if is_as_expected else 1)


if __name__ == "__main__":
    main()
