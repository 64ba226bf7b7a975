"""The embedding tables of any text model, without the rest of it."""

import copy
import os
import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

# What text models call their table of learned positions: GPT-2 and GPT-Neo, BERT's family, CLIP, OPT and BART.
_POSITION_TABLES = {"wpe", "position_embeddings", "position_embedding", "embed_positions"}


class TokenEmbeddings(PreTrainedModel):
    """Token embeddings plus learned position embeddings (where the text model has such a table).

    Of GPT-2's 124.4M parameters only these 39.4M are built, loaded and saved.

    Args:
        config: the text model's configuration.
        part_of_checkpoint: whether weights are about to be read from a whole text model, whose other weights then
            deserve no warning.
    """

    config: PreTrainedConfig
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _supports_sdpa = True  # there is no attention at all
    _supports_flash_attn = True

    def __init__(self, config: PreTrainedConfig, part_of_checkpoint: bool = False):
        super().__init__(config)
        _, tokens, _, positions = _find_tables(config)
        self.token_embeddings = nn.Embedding(tokens.num_embeddings, tokens.embedding_dim)
        # OPT and RoBERTa leave the first rows of the table unused.
        self.position_offset = 0 if positions is None else _first_position(positions)
        self.position_embeddings = (
            None if positions is None else nn.Embedding(positions.num_embeddings, positions.embedding_dim)
        )
        self.post_init()
        if part_of_checkpoint:  # not on the class: a model hands its class's patterns on to the model around it
            self._keys_to_ignore_on_load_unexpected = {".*"}

    @classmethod
    def from_text_pretrained(
        cls, name_or_path: str | os.PathLike, config: PreTrainedConfig, **kwargs: Any
    ) -> "TokenEmbeddings":
        """Read the tables, and nothing else, from a text model's checkpoint.

        Args:
            name_or_path: a folder or hub id of the text model.
            config: its configuration (the text part, where it has several).
            **kwargs: passed to `from_pretrained`, such as `dtype` or `revision`.

        Raises:
            ValueError: the checkpoint holds no such table.
        """
        tokens_name, _, positions_name, _ = _find_tables(config)
        renames = {rf"^(?:.+\.)?{re.escape(tokens_name)}\.weight$": "token_embeddings.weight"}
        if positions_name is not None:
            renames[rf"^(?:.+\.)?{re.escape(positions_name)}\.weight$"] = "position_embeddings.weight"
        model, report = cls.from_pretrained(
            name_or_path,
            config=config,
            key_mapping=renames,
            part_of_checkpoint=True,
            output_loading_info=True,
            **kwargs,
        )
        if report["missing_keys"]:
            raise ValueError(
                f"{name_or_path} holds no weights for {sorted(report['missing_keys'])} (looked for {tokens_name!r} and "
                f"{positions_name!r}); use text_features='encoder'"
            )
        return model

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table."""
        return self.token_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token table."""
        self.token_embeddings = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=getattr(self.config, "initializer_range", None) or 0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Look tokens up.

        Args:
            input_ids: `(B, T)`, padding (if any) on the right.
            attention_mask: ignored: tokens do not see each other.
            **kwargs: ignored.

        Returns:
            `last_hidden_state (B, T, D)`.

        Raises:
            ValueError: there are more tokens than learned positions.
        """
        embeddings = self.token_embeddings(input_ids)
        if self.position_embeddings is not None:
            end = self.position_offset + input_ids.shape[1]
            if end > self.position_embeddings.num_embeddings:
                limit = self.position_embeddings.num_embeddings - self.position_offset
                raise ValueError(f"{input_ids.shape[1]} tokens exceed the {limit} learned positions; truncate the text")
            embeddings = embeddings + self.position_embeddings.weight[self.position_offset : end]
        return BaseModelOutput(last_hidden_state=embeddings)


def _find_tables(config: PreTrainedConfig) -> tuple[str, nn.Embedding, str | None, nn.Embedding | None]:
    """Names and shapes of the token and position tables of a text model, which is built without memory to look.

    Raises:
        ValueError: it is no text model.
    """
    config = copy.deepcopy(config)  # building a model writes into its configuration
    config._attn_implementation = "eager"  # which every model has
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    tokens = model.get_input_embeddings()
    if not isinstance(tokens, nn.Embedding):
        raise ValueError(f"{config.model_type} has no table of token embeddings; give a text model")
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for module, name in names.items():
        same_width = module.embedding_dim == tokens.embedding_dim
        if module is not tokens and same_width and name.rpartition(".")[2] in _POSITION_TABLES:
            return names[tokens], tokens, name, module
    return names[tokens], tokens, None, None


def _first_position(table: nn.Embedding) -> int:
    """The row of the first token's position: OPT and BART keep an offset, RoBERTa counts from its padding row."""
    if table.padding_idx is not None:
        return table.padding_idx + 1
    return getattr(table, "offset", 0)
