"""Token and position embeddings of a text model, without its layers."""

import copy
import os
import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

# Names of the position embeddings in GPT-2 and GPT-Neo, BERT-like models, CLIP, and OPT and BART.
_POSITION_TABLES = {"wpe", "position_embeddings", "position_embedding", "embed_positions"}


class TokenEmbeddings(PreTrainedModel):
    """Token embeddings of a text model, plus its learned position embeddings if it has any.

    Only these weights are built, loaded and saved: 39.4M of the 124.4M parameters of GPT-2.

    Args:
        config: Configuration of the text model.
        part_of_checkpoint: Whether the weights are about to be loaded from the checkpoint of a whole text model, whose
            other weights must not cause a warning.
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
        if part_of_checkpoint:  # not a class attribute, because transformers applies those to the outer model
            self._keys_to_ignore_on_load_unexpected = {".*"}

    @classmethod
    def from_text_pretrained(
        cls, name_or_path: str | os.PathLike, config: PreTrainedConfig, **kwargs: Any
    ) -> "TokenEmbeddings":
        """Load the embeddings from the checkpoint of a text model.

        Args:
            name_or_path: Folder or Hub id of the text model.
            config: Configuration of the text model, or the text part of a model with two towers.
            **kwargs: Passed to `from_pretrained`, such as `dtype` or `revision`.

        Raises:
            ValueError: If the checkpoint does not contain the embeddings.
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
                f"The checkpoint {name_or_path} must contain {tokens_name!r} and {positions_name!r}, but "
                f"{sorted(report['missing_keys'])} is missing. Use `text_features='encoder'`."
            )
        return model

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embeddings."""
        return self.token_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.token_embeddings = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=getattr(self.config, "initializer_range", None) or 0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Embed tokens.

        Args:
            input_ids: `(B, T)`, padded on the right.
            attention_mask: Not used, because tokens do not attend to each other.
            **kwargs: Not used.

        Returns:
            `last_hidden_state (B, T, D)`.

        Raises:
            ValueError: If there are more tokens than learned positions.
        """
        embeddings = self.token_embeddings(input_ids)
        if self.position_embeddings is not None:
            end = self.position_offset + input_ids.shape[1]
            if end > self.position_embeddings.num_embeddings:
                limit = self.position_embeddings.num_embeddings - self.position_offset
                raise ValueError(
                    f"`input_ids` must have at most {limit} tokens, the number of learned positions, but got "
                    f"{input_ids.shape[1]}. Truncate the texts."
                )
            embeddings = embeddings + self.position_embeddings.weight[self.position_offset : end]
        return BaseModelOutput(last_hidden_state=embeddings)


def _find_tables(config: PreTrainedConfig) -> tuple[str, nn.Embedding, str | None, nn.Embedding | None]:
    """Return names and modules of the token and position embeddings of a text model, on the meta device.

    Raises:
        ValueError: If the model has no token embeddings.
    """
    config = copy.deepcopy(config)  # building a model writes into its configuration
    config._attn_implementation = "eager"  # supported by every model
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    tokens = model.get_input_embeddings()
    if not isinstance(tokens, nn.Embedding):
        raise ValueError(f"Model type {config.model_type!r} has no token embeddings. Use a text model.")
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for module, name in names.items():
        same_width = module.embedding_dim == tokens.embedding_dim
        if module is not tokens and same_width and name.rpartition(".")[2] in _POSITION_TABLES:
            return names[tokens], tokens, name, module
    return names[tokens], tokens, None, None


def _first_position(table: nn.Embedding) -> int:
    """Return the row of the first position. OPT and BART have an offset, and RoBERTa counts from its padding row."""
    if table.padding_idx is not None:
        return table.padding_idx + 1
    return getattr(table, "offset", 0)
