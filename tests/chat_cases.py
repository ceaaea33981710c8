"""Templates in the manner of published ones, and conversations to try them on."""

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}
{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must take turns: user, assistant, user, …') }}
    {% endif %}
    {% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] if loop.index0 == 0 and system else message['content'] %}
    {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{% endfor %}"""
LLAMA3 = """{{- bos_token }}
{%- set date_string = date_string or strftime_now("%d %b %Y") %}
{#- a comment #}
{%- if tools is not none %}{{- "<|start_header_id|>tools<|end_header_id|>\\n\\n" }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}<|eot_id|>
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- "}" }}<|eot_id|>
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
on {{ date_string }}
"""
MISTRAL = """{%- set ns = namespace(index=0, seen=[]) %}
{{- bos_token }}
{%- for message in messages if message.role != 'system' %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and loop.last %}{{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}{%- set tool = tool.function %}{{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}{{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}{{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " ~ message["content"] ~ "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}{{- "[TOOL_CALLS] " ~ (message.tool_calls|length) }}
    {%- elif message["role"] == "assistant" %}{%- set ns.index = ns.index + 1 %}{{- " " + message["content"]|trim + eos_token }}
    {%- else %}{%- continue %}
    {%- endif %}
{%- else %}{{ 'nothing' }}
{%- endfor %}#{{ ns.index }}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}
{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{% for message in rest %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- elif message['content'] is iterable -%}
    {%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
{%- endif -%}
{{ '<end_of_turn>\n' }}
{% endfor %}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
QWEN = """{%- macro wrap(tag, text) %}<{{ tag }}>
{{ text }}
</{{ tag }}>{% endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}{{- "<|im_end|>\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- generation %}
        {{- '<|im_start|>' + message.role + '\n' }}{%- if loop.index0 > ns.last and thought %}{{- wrap('think', thought.strip('\n')) }}{%- endif %}
        {{- content.lstrip('\n') }}{{- '<|im_end|>\n' }}
        {%- endgeneration %}
        {%- for call in message.tool_calls or [] %}{% filter upper %}{{ call.function.name }}{% endfilter %}{{ ', ' if not loop.last }}{%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n' ~ wrap('tool_response', content) }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- else %}{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"""
ODDS = """{% set x %}a{{ messages[0].content }}b{% endset %}{{ x | upper | replace('A', 'é') }}|{{ 'x%sy' % messages[0].content }}|{{ '{}-{}'.format(1, 'b') }}
{% for k, v in messages[0]|dictsort %}{{ loop.cycle('odd', 'even') }}{{ k }}={{ v }};{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}
{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ none }} {{ undefined_name }} {{ [1, 'a', none] }}
{{ 7 // 2 }} {{ 2 ** 5 }} {{ 7 % 4 }} {{ 3.0 / 2 }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ -3 | abs }} {{ '12' | int + 1 }} {{ 2.567 | round(1) }}
{% macro each(items) %}{% for i in items %}{{ caller(i.role) }}{% endfor %}{% endmacro %}{%- call(item) each(messages) %}<{{ item }}>{% endcall %}
{{ documents | tojson }} {{ '<a & "b">' | e }} {{ 'a\nb' | indent(2) }} {{ '' or 'empty' }} {{ 'Hello world' | title }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}
{% with y = 3 %}{{ y }}{% endwith %}{% raw %}{{ raw }}{% endraw %} {{ 'abc'[1:] }} {{ 'abc'[-1] }} {{ messages[-1]['role'] }} {{ messages[9] is defined }} {{ 'a,b'.split(',') | last }}
{%- for row in [[1, [2, 3]], [4, []]] recursive %}({{ loop.depth }}{% if row is iterable %}{{ loop(row) }}{% else %}{{ row }}{% endif %}){% endfor %}
"""
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "qwen": QWEN, "odds": ODDS}
TOOLS = [{"type": "function", "function": {"name": "wéather", "description": "It's <so>", "parameters": {"type": "object", "properties": {"city": {}}}}}]
TURN = [{"role": "user", "content": " Hi \n"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello  "}, {"role": "user", "content": "日本 <b>?"}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"city": "Zürich", "n": 3}}}]}
CHATS = {
    "turns": TURN,
    "system": [{"role": "system", "content": "Be brief."}, *TURN],
    "tools": [*TURN, CALL, {"role": "tool", "content": "22°"}, {"role": "tool", "content": "23°"}],
    "thought": [TURN[0], {"role": "assistant", "content": "ok", "reasoning": "long\n"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]}],
}
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
HI = [{"role": "user", "content": "Hi"}]
