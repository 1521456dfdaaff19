"""The built-in template once more, as the Jinja string that exported checkpoints carry."""

__all__ = ["NEMOTRON_CHAT_TEMPLATE"]

# Tags strip all white space around them, so the result does not hang on `trim_blocks` and `lstrip_blocks`.
# Only what Hugging Face, vLLM and llama.cpp all understand is used. Lore passages are `documents` with a `text`.
NEMOTRON_CHAT_TEMPLATE = r"""
{%- set ns = namespace(system='', said=false) -%}
{%- for message in messages -%}
  {%- if message.role == 'system' and message.content -%}
    {%- if ns.system -%}{%- set ns.system = ns.system + '\n\n' -%}{%- endif -%}
    {%- set ns.system = ns.system + message.content -%}
  {%- endif -%}
{%- endfor -%}
{{- '<extra_id_0>System\n' + ns.system + '\n' -}}
{%- if tools or documents -%}{{- '\n' -}}{%- endif -%}
{%- if tools -%}
  {%- for tool in tools -%}
    {%- set function = tool.function if tool.function is defined else tool -%}
    {{- '<tool> ' + (function | tojson) + ' </tool>\n' -}}
  {%- endfor -%}
{%- endif -%}
{%- if documents -%}
  {%- for document in documents -%}
    {{- '<context> ' + document.text + ' </context>\n' -}}
  {%- endfor -%}
{%- endif -%}
{{- '\n' -}}
{%- for message in messages -%}
  {%- if message.role != 'system' -%}
    {{- '<extra_id_1>' + (message.role | capitalize) + '\n' -}}
    {%- if message.content or not message.tool_calls -%}
      {{- (message.content or '') + '\n' -}}
    {%- endif -%}
    {%- if message.tool_calls -%}
      {%- for call in message.tool_calls -%}
        {%- set function = call.function if call.function is defined else call -%}
        {{- '<toolcall> ' + ({'name': function.name, 'arguments': function.arguments} | tojson) + ' </toolcall>\n' -}}
      {%- endfor -%}
    {%- endif -%}
    {%- set ns.said = message.role == 'assistant' -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<extra_id_1>Assistant\n' -}}
{%- elif ns.said -%}
  {{- '<extra_id_1>' -}}
{%- endif -%}
""".strip()
