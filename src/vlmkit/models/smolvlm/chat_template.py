"""How a conversation is written for the language model, as Jinja templates that mark what the assistant says."""

from transformers import PreTrainedTokenizerBase

# The text of a message; `image_token` stands for each image.
_CONTENT = """
{%- macro content_of(message) -%}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' -%}{{- '<image_token>' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
"""

_CHATML = """
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- content_of(message) + '<|im_end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- content_of(message) + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# For language models that have never seen a conversation.
_PLAIN = """
{%- for message in messages -%}
    {{- message['role'] | capitalize + ': ' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- content_of(message) + eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- content_of(message) -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""


def supports_chatml(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has the tokens of ChatML, and its texts end as ChatML's turns do."""
    return tokenizer.eos_token == "<|im_end|>" and "<|im_start|>" in tokenizer.get_vocab()


def chat_template(tokenizer: PreTrainedTokenizerBase, image_token: str) -> str:
    """The template of conversations with images, by what the tokenizer knows.

    Args:
        tokenizer: of a language model that has learnt ChatML, whose end of text is that of a turn (SmolLM-Instruct,
            Qwen-Instruct), or of any other. Generation stops at the end of text.
        image_token: the placeholder.
    """
    turns = _CHATML if supports_chatml(tokenizer) else _PLAIN
    return (_CONTENT + turns).replace("<image_token>", image_token)
