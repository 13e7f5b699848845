"""Limits of chat templates: a hostile template ends with an error, in a process that is killed if it does not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ftpipe.modeling import template_limits
from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.modeling.template_rendering import render_chat_template
from tests.examples import examples

SECONDS = 300
MAX_STEPS = examples(100_000, template_limits.MAX_STEPS)
DOUBLED = "{% set a = ['x'] %}" + "{% set a = [a, a] %}" * 60
"""Small in memory, and 2⁶⁰ letters as text."""
LONG = "{% set t = 'a' * 1000000 %}"
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
    "list as text": DOUBLED + "{{ a }}",
    "list as JSON": DOUBLED + "{{ a|tojson }}",
    "list joined": DOUBLED + "{{ a|join }}{{ ''.join(a) }}",
    "list in text": DOUBLED + "{{ 'x' ~ a }}{{ '%s' % (a,) }}{{ '{}'.format(a) }}",
    "list compared": DOUBLED + DOUBLED.replace("set a = ", "set b = ").replace("[a, a]", "[b, b]") + "{{ a == b }}",
    "list contained": DOUBLED + DOUBLED.replace("set a = ", "set b = ").replace("[a, a]", "[b, b]") + "{{ a in [b] }}",
    "list raised": DOUBLED + "{{ raise_exception(a) }}",
    "dictionary items": DOUBLED + "{{ {'a': a}.items() }}",
    "namespace": DOUBLED + "{% set n = namespace(a=a) %}{{ n }}",
    "tuple as key": DOUBLED.replace("[", "(").replace("]", ",)") + "{{ {}[a] }}{{ {a: 1} }}",
    "list of texts": LONG + "{{ ([t] * 1000000)|join }}",
    "generator of texts": LONG + "{{ ([t] * 1000000)|select|join }}",
    "texts joined by a method": LONG + "{{ ''.join([t] * 1000000) }}",
    "sorted texts": LONG + "{% set l = [t ~ 'a', t ~ 'b'] * 500000 %}{{ l|sort|first }}",
    "doubled list": "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}",
    "added lists": "{{ ([[1]] * 99999)|sum(start=[])|length }}",
    "replaced text": LONG + "{{ t.replace('a', t)|length }}{{ t|replace('', t) }}",
    "stripped text": LONG + "{% set s = 'b' * 1000000 ~ 'a' %}{{ t.strip(s)|length }}",
    "searched text": LONG + "{% set s = 'b' ~ 'a' * 500000 %}{{ t.rfind(s) }}",
    "split text": LONG + "{% set s = (t ~ t).replace('a', ' a') %}{{ s.split()|length }}",
    "tabulators": "{% set t = '\\t' * 1000000 %}{{ t.expandtabs(1000000)|length }}",
    "many fields": "{{ ('%999999d' * 100000) % ((1,) * 100000) }}",
    "starred field": "{{ ('%*d' * 1000) % ((999999, 1) * 1000) }}",
    "many replacement fields": "{{ ('{0:999999}' * 100000).format(1) }}",
    "nested field": "{{ ('{0:{1}}' * 100000).format(1, 999999) }}",
    "bytes": "{{ ('a'.encode() * 1000000) * 1000000 }}",
    "indented lines": "{{ ('\\n' * 1000000)|indent(1000000)|length }}",
    "indented JSON": "{{ ([1] * 1000000)|tojson(indent=1000000)|length }}",
    "many texts": LONG
    + "{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = n.l + [t ~ i] %}{% endfor %}",
    "links": "{{ ('http://' * 100000)|urlize|length }}",
    "date": "{{ strftime_now('%0999999d' * 10) }}",
    "paragraphs": "{{ lipsum(n=99999) }}",
    "large template": "{{ 1 }}" * 200_000,
    "captured": "{% set t = 'a' * 1000000 %}{% set u %}{% for i in range(99999) %}{{ t }}{% endfor %}{% endset %}",
}


PROGRAM = """
import json, resource, sys
from ftpipe.modeling import template_limits
from ftpipe.modeling.template_rendering import ChatTemplateError, render_chat_template
template_limits.MAX_STEPS = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
for name, source in json.load(sys.stdin).items():
    try:
        result = render_chat_template(source, {})[:99]
    except ChatTemplateError as exc:
        result = "refused: " + exc.message
    print(json.dumps([name, result]), flush=True)
"""


def results() -> dict[str, str]:
    """What became of each template, in a process that is killed if one does not end."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(MAX_STEPS)], input=json.dumps(HOSTILE),
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        output = done.stdout
    except subprocess.TimeoutExpired as exc:
        output = (exc.stdout or b"").decode()
    return dict(json.loads(line) for line in output.splitlines())


@pytest.mark.slow
def test_render_chat_template_limits_hostile_templates() -> None:
    """One test, because each worker would run the process for a part of them."""
    ended = results()
    outcomes = {name: ended.get(name, "not finished") for name in HOSTILE}
    assert {name: outcome for name, outcome in outcomes.items() if not outcome.startswith("refused:")} == {}


def test_render_chat_template_renders_long_conversation() -> None:
    """Ten thousand messages are far from the limits, and limits start anew each time."""
    source = "{% for m in messages %}{{ m.role|upper ~ ': ' ~ m.content|trim }}\n{% endfor %}end"
    messages = [{"role": "user", "content": " x "}] * 10_000
    for _ in range(3):
        assert render_chat_template(source, {"messages": messages}) == "USER: x\n" * 10_000 + "end"


def test_render_chat_template_reports_exception_of_template() -> None:
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        render_chat_template("{{ raise_exception('roles must alternate') }}", {})


def test_render_chat_template_renders_like_jinja() -> None:
    """What templates do with texts, lists and namespaces is not changed by the limits."""
    source = (
        "{% macro show(n, x) %}{{ n.t }}{{ x }}{% endmacro %}{% set n = namespace(t='a', l=[]) %}"
        "{% for m in messages %}{% set n.l = n.l + [m.role] %}{% endfor %}"
        "{{ show(n, n.l) }}{{ messages|map(attribute='role')|join(', ') }}{{ ', '.join(n.l|map('upper')) }}"
        "{{ ' a b '.strip().split(' ') }}{{ 'a%sb' % 1 }}{{ '{:>3}'.format('x') }}{{ 'a\nb'|indent(2) }}"
        "{{ {'k': [1]}|tojson(indent=2) }}{{ n.l == ['user'] }}{{ 'us' in 'user' and 'user' in n.l }}{{ n is defined }}"
        "{{ messages[0].items()|list }}{{ {'a': 1}.a ~ [1] ~ none }}{{ x is defined }}{{ 'a-b'.replace('-', '+') }}"
    )
    messages = [{"role": "user"}]
    expected = (
        "a['user']userUSER['a', 'b']a1b  xa\n  b"
        '{\n  "k": [\n    1\n  ]\n}TrueTrueTrue'
        "[('role', 'user')]1[1]NoneFalsea+b"
    )
    assert render_chat_template(source, {"messages": messages}) == expected
