"""Chat templates of the demonstration's models: two forms of the same conversations.

Both show thinking only in answers after the newest question, as the templates of thinking models do.
"""

from __future__ import annotations

_BEGIN = """{%- macro show(content) -%}
  {%- if content is string -%}{{ content }}
  {%- else -%}
    {%- for part in content or [] -%}{{ 'IMAGE' if part['type'] == 'image' else part['text'] }}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- macro thought(m) -%}
  {{ '<think>\n' + m['reasoning_content'] + '\n</think>\n\n' if m['reasoning_content'] else '' }}
{%- endmacro -%}
{%- set ns = namespace(asked=-1) -%}
{%- for m in messages -%}{%- if m['role'] == 'user' -%}{%- set ns.asked = loop.index0 -%}{%- endif -%}{%- endfor -%}
"""

CHATML = (
    _BEGIN.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    + """{%- if tools -%}
  {{ '<|im_start|>system\nYou may call these tools: ' + tools | tojson + '<|im_end|>\n' }}
{%- endif -%}
{%- for m in messages -%}
  {%- if m['role'] == 'tool' -%}
    {{ '<|im_start|>user\n<tool_response>\n' + show(m['content']) + '\n</tool_response><|im_end|>\n' }}
  {%- else -%}
    {{ '<|im_start|>' + m['role'] + '\n' + (thought(m) if loop.index0 > ns.asked else '') + show(m['content']) }}
    {%- for call in m['tool_calls'] or [] -%}
      {{ '\n' if m['content'] or not loop.first else '' }}
      {{- '<tool_call>\n{"name": "' + call['function']['name'] + '", "arguments": ' }}
      {{- call['function']['arguments'] | tojson + '}\n</tool_call>' }}
    {%- endfor -%}
    {{ '<|im_end|>\n' }}
  {%- endif -%}
{%- endfor -%}
{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}"""
)

TAGS = (
    _BEGIN.replace("IMAGE", "[img][patch][/img]")
    + """{{ '[start]' + ('[tools]' + tools | tojson + '[/turn]' if tools else '') }}
{%- for m in messages -%}
  {{ '[' + ('model' if m['role'] == 'assistant' else m['role']) + ']' }}
  {{- (thought(m) if loop.index0 > ns.asked else '') + show(m['content']) }}
  {%- for call in m['tool_calls'] or [] -%}
    {{ '[call]' + call['function']['name'] + '(' + call['function']['arguments'] | tojson + ')' }}
  {%- endfor -%}
  {{ '[/turn]' }}
{%- endfor -%}
{{ '[model]' if add_generation_prompt else '' }}"""
)
