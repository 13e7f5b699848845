"""Limits of chat templates: a hostile template ends with an error, in a process that is killed if it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.modeling.template_rendering import render_chat_template

SECONDS = 120
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "recursion": "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "two calls of each": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "doubled text": "{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "added text": "{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "repeated text": "{{ 'a' * 9999999999 }}",
    "wide text": "{{ 'a'|center(9999999999) }}",
    "wide method": "{{ 'a'.ljust(9999999999) }}",
    "wide format": "{{ '%9999999999d' % 1 }}{{ '{:9999999999}'.format(1) }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "output": "{% set t = 'a' * 1000000 %}{% for i in range(99999) %}{{ t }}{% endfor %}",
    "captured": "{% set t = 'a' * 1000000 %}{% set u %}{% for i in range(99999) %}{{ t }}{% endfor %}{% endset %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_render_chat_template_limits_hostile_template(name: str) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from ftpipe.modeling.template_rendering import ChatTemplateError, render_chat_template\n"
        "try: render_chat_template(sys.argv[1], {})\n"
        "except ChatTemplateError as exc: print('refused:', exc.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, HOSTILE[name]], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.stdout.startswith("refused:"), done.stderr


def test_render_chat_template_renders_long_conversation() -> None:
    """Ten thousand messages are far from the limits, and limits start anew each time."""
    source = "{% for m in messages %}{{ m.role|upper ~ ': ' ~ m.content|trim }}\n{% endfor %}end"
    messages = [{"role": "user", "content": " x "}] * 10_000
    for _ in range(3):
        assert render_chat_template(source, {"messages": messages}) == "USER: x\n" * 10_000 + "end"


def test_render_chat_template_reports_exception_of_template() -> None:
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        render_chat_template("{{ raise_exception('roles must alternate') }}", {})
