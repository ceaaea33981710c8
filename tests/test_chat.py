"""Chat templates: what transformers writes, from a model's own files, within bounds."""

import json
import resource
import time
import tracemalloc

import pytest
from chat_cases import CHATML, TEMPLATES, TOOLS, CHATS, SPECIALS, HI

from pikojax.config import UserError
from pikojax.text.chat import Templates, load_templates, render

jinja2 = pytest.importorskip("jinja2")


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_text_is_that_of_transformers(template, chat):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = CHATS[chat]
    for options in ({}, {"add_generation_prompt": True, "enable_thinking": False}, {"tools": TOOLS, "documents": [{"title": "t", "text": "<x>"}], "date_string": "1 Jan"}):
        try:
            theirs = utils.render_jinja_template(conversations=[messages], chat_template=TEMPLATES[template], **SPECIALS, **options)[0][0]
        except Exception as error:
            theirs = error
        try:
            ours = render(Templates({"default": TEMPLATES[template]}, SPECIALS), messages, **options)
        except UserError as error:
            assert isinstance(theirs, Exception) and template == "llama2", error
        else:
            assert ours == theirs


def test_a_conversation_in_chatml():
    text = render(CHATML, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi  "}], add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


# ---------------------------------------------------------------- files


def test_templates_come_from_the_files_of_a_model_and_newer_files_win(tmp_path):
    with pytest.raises(UserError, match="has no chat template; wanted chat_template.jinja"):
        load_templates(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "oldest"}))
    assert load_templates(tmp_path).sources == {"default": "oldest"}
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ bos_token }}"}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"unk_token": "<unk>", "eos_token": "other"}))
    found = load_templates(tmp_path / "tokenizer_config.json")
    assert found == ({"default": "{{ bos_token }}"}, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    assert render(found, HI) == "<s>"
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {"name": "rag", "template": "c"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    found = load_templates(tmp_path)
    assert [render(found, HI), render(found, HI, tools=TOOLS), render(found, HI, name="rag"), render(found, HI, TOOLS, name="default")] == list("abca")
    with pytest.raises(UserError, match="no chat template is named 'x'; there are: default, tool_use, rag"):
        render(found, HI, name="x")
    (tmp_path / "chat_template.jinja").write_text("newest")
    assert render(load_templates(tmp_path), HI) == "newest"


@pytest.mark.parametrize(
    "content, part",
    [("{", "is not JSON"), ("[]", "no object"), ('{"chat_template": 3}', "neither text nor a list"), ("[" * 100_000, "is not JSON"), ('"\\ud800', "is not JSON")],
)
def test_a_broken_file_is_one_line(tmp_path, content, part):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=part) as error:
        load_templates(tmp_path)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- bounds

HOSTILE = {
    "a long range": "{% for i in range(10**9) %}x{% endfor %}",
    "multiplied text": "{{ 'a' * 10**12 }}",
    "multiplied from the right": "{{ 10**12 * 'a' }}",
    "a multiplied list": "{{ [1] * 10**12 }}",
    "powers": "{{ 10**10**10 }}",
    "powers of powers": "{{ 99**64**64 }}",
    "doubling by ~": "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by set": "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling by macro": "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('ab', 60) }}",
    "lists of a list twice": "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "dictionaries twice": "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x == ns.x }}",
    "center": "{{ 'a'.center(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "a wide %d": "{{ '%1000000000d' % 1 }}",
    "a wide %*d": "{{ '%*d' % (10**9, 1) }}",
    "a wide %d behind %%": "{{ '%%(a%9999999999d' % 1 }}",
    "a wide %d behind brackets": "{{ '%((a))9999999999d' % {'(a)': 1} }}",
    "a precise %f": "{{ '%.1000000000f' % 1.5 }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a wide format from outside": "{{ '{:{}}'.format(1, 10**9) }}",
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "recursive loops": "{% for x in range(100000) recursive %}{% if loop.depth < 4 %}{{ loop(range(100000)) }}{% endif %}{% endfor %}",
    "a macro of itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a macro of itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "round": "{{ 5 | round(-1000000000) }}",
    "tojson": "{{ messages | tojson(indent=1000000000) }}",
    "indent": "{{ ('a\n' * 1000) | indent(10**8) }}",
    "replace": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "replace nothing": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "join": "{{ range(100000) | join('x' * 100000) }}",
    "strip": "{{ ('b' * 4000000).strip('a' * 4000000 ~ 'b') }}",
    "rfind": "{{ ('a' * 4000000).rfind('b' ~ 'a' * 2000000) }}",
    "slices": "{% set ns = namespace(l=[]) %}{% for i in range(99) %}{% set ns.l = [('a' * 1000000)[1:], ns.l] %}{% endfor %}",
    "much text": "{% for i in range(100000) %}" + "a" * 60_000 + "{% endfor %}",
    "much text in a macro": "{% macro f() %}" + "a" * 60_000 + "{% endmacro %}{% for i in range(100000) %}{% set x = f() %}{% endfor %}",
    "a long template": "a" * 100_000,
    "deep brackets": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep lists": "{{ " + "[" * 30_000 + "]" * 30_000 + " }}",
    "deep ifs": "{% if 1 %}" * 3_000 + "{% endif %}" * 3_000,
    "long sums": "{{ " + "1+" * 20_000 + "1 }}",
    "many names and branches": "".join(f"{{%set a{i}=1%}}" for i in range(2300)) + "{%if 1%}{%endif%}" * 1700,
    "lazy filters": "{% set ns = namespace(x=['a']) %}{% for i in range(5000) %}{% set ns.x = ns.x | map('upper') %}{% endfor %}{{ ns.x | list }}",
    "colliding keys": "{{ range(0, 100000 * (2**61 - 1), 2**61 - 1) | unique | list }}",
    "nested keys": "{{ {((1, 2), 3): 1} }}",
    "searching": "{% for i in range(100000) %}{% if 'b' in ('a' * 100000) %}{% endif %}{% endfor %}",
    "splitting": "{% for i in range(100000) %}{% set x = ('a ' * 100000).split() %}{% endfor %}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_template_can_neither_hang_nor_eat_memory(what):
    start_s, before_kb = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="chat template (was stopped|fails)") as error:
        render(HOSTILE[what], HI, max_seconds=0.5)
    assert "\n" not in str(error.value)
    assert time.perf_counter() - start_s < 5 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 400_000


@pytest.mark.parametrize("source", ("{% set x = [0] * 49000000 %}", "{% set x = 49000000 * (0,) %}", "{% set x = ('a' * 9000000).split('a') %}",
                                    "{% set x = ('a\n' * 4000000).splitlines() %}", "{% set x = ('a ' * 4000000).split() %}"))
def test_a_long_list_is_refused_before_it_is_made(source):
    tracemalloc.start()
    start_s = time.perf_counter()
    with pytest.raises(UserError, match="a value of over 500,000 items"):
        render(source, HI, max_seconds=5)
    peak, took_s = tracemalloc.get_traced_memory()[1], time.perf_counter() - start_s
    tracemalloc.stop()
    assert peak < 100e6 and took_s < 5


def test_long_texts_may_be_split_into_few_parts():
    assert render("{{ ('a' * 900000 ~ ' b').split()[1] }}{{ ('a,' * 900000).split(',', 2) | length }}", HI) == "b3"


ESCAPES = (
    "''.__class__.__mro__",
    "messages.__class__.__base__.__subclasses__()",
    "raise_exception.__globals__['json']",
    "self.__init__.__globals__",
    "cycler.__init__.__globals__",
    "'{0.__class__}'.format(1)",
    "'{0.__class__}' | format(1) | attr('__class__')",
    "[''] | map(attribute='__class__') | first | string | upper",
    "dict.mro()",
    "dict.fromkeys([1])",
    "messages.append(1)",
    "messages[0].pop('role')",
    "messages[0].update({'role': 'system'})",
    "namespace(__self__='a', __name__='join')()",
    "namespace.__init__",
    "loop._iterable",
    "'a'.encode()",
    "lipsum(5)",
    "range.__self__",
    "strftime_now.__code__",
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_name_leads_out_of_the_sandbox(escape):
    messages = [dict(HI[0])]
    try:
        text = render("{{ " + escape + " }}", messages)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert text in ("", "UNDEFINED", "0.0"), text
    assert messages == HI


@pytest.mark.parametrize(
    "template, part",
    [
        ("a\n{% if %}", "fails in line 2: Expected an expression"),
        ("\n\n{{ nothing.at.all }}", "fails in line 3: 'nothing' is undefined"),
        ("{{ raise_exception('No\nsystem role') }}", "refuses these messages: No system role"),
        ("{{ 'a' | lipsum }}", "No filter named 'lipsum'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'x' %}", "include has no place"),
        ("{% autoescape true %}{% endautoescape %}", "autoescape has no place"),
    ],
)
def test_what_fails_is_told_in_a_line(template, part):
    with pytest.raises(UserError, match=part) as error:
        render(template, HI)
    assert "\n" not in str(error.value)


def test_messages_are_plain_values():
    for messages, part in (([], "one at least"), (["x"], "list of dictionaries"), ([{"role": open}], "builtin_function"), ([{"n": 1 << 70}], "71 bits")):
        with pytest.raises(UserError, match=part):
            render(CHATML, messages)
    deep = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(UserError, match="nest over 100 deep"):
        render(CHATML, [{"content": deep}])
    long = "x" * 3_000_000
    assert len(render(CHATML, [{"role": "user", "content": long}])) > len(long), "long messages are no hostile template"


def test_without_jinja2_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"pip install 'pikojax\[text\]'"):
        render(CHATML, HI)
