"""Default chat templates in Jinja, which mark the text of the assistant for computing labels."""

from transformers import PreTrainedTokenizerBase

# The text of a message, with `image_token` in place of each image.
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

# For language models that were not trained on conversations.
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
    """Return whether a tokenizer has the tokens of ChatML and uses its end of turn as end of text."""
    return tokenizer.eos_token == "<|im_end|>" and "<|im_start|>" in tokenizer.get_vocab()


def chat_template(tokenizer: PreTrainedTokenizerBase, image_token: str) -> str:
    """Return the default chat template for a tokenizer.

    Args:
        tokenizer: Tokenizer of the language model. The template is ChatML if the tokenizer supports it, as those of
            SmolLM-Instruct and Qwen-Instruct do, and otherwise lines of "User: " and "Assistant: ". Replies end with
            the end-of-text token.
        image_token: Placeholder of an image.
    """
    turns = _CHATML if supports_chatml(tokenizer) else _PLAIN
    return (_CONTENT + turns).replace("<image_token>", image_token)
