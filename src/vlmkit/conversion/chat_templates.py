"""Chat templates of original systems that differ from the chat templates of vlmkit."""

# ChatML as in vlm-training, with the images between the question and the answer.
IMAGE_BEFORE_ANSWER = """
{%- set images = namespace(waiting=0) -%}
{%- for message in messages -%}
    {%- if message['content'] is string -%}
        {%- set text = message['content'] -%}
    {%- else -%}
        {%- set text = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join -%}
        {%- set found = message['content'] | rejectattr('type', 'equalto', 'text') | list | length -%}
        {%- set images.waiting = images.waiting + found -%}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {{- '<image>' * images.waiting -}}
        {%- set images.waiting = 0 -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- generation -%}{{- text + '<|im_end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- '<|im_start|>' + message['role'] + '\\n' + text + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{{- '<image>' * images.waiting -}}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
