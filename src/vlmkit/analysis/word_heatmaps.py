"""Attention maps of each word of a caption, for captioners whose text attends to the image through queries."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmkit.analysis.attention_maps import select_head


class WordMap(NamedTuple):
    """A word of a caption and its attention map.

    Args:
        word: Word as in the caption, with adjacent punctuation.
        heat_map: `(h, w)`, attention to each patch.
    """

    word: str
    heat_map: Tensor


def word_heatmaps(
    cross_attentions: Tensor,
    query_attentions: Sequence[Tensor],
    *,
    grid: tuple[int, int],
    layer: int = -1,
    head: int | None = None,
    query_head: int | None = None,
) -> Tensor:
    """Compute the attention of each text position to each patch through the query tokens.

    The map of a position is the product of the attention of the text to the queries and the attention of the queries to
    the patches in one block of the Q-Former. Row t belongs to the prediction of the token after position t.

    Self-attention among the queries and the composition of several blocks are not included.

    Args:
        cross_attentions: `(B, H, T, M)`, attention weights of T text tokens to M query tokens, including a global
            token.
        query_attentions: `(B, H', M, N)`, attention weights of the query tokens to the vision tokens, one tensor for
            each block. N is h * w, or a multiple for several vision layers, whose patches are summed.
        grid: Rows h and columns w of patches.
        layer: Index into `query_attentions`. Defaults to the last block.
        head: Index of the head of `cross_attentions`, from 0 to H - 1. Defaults to the mean of all heads.
        query_head: Index of the head of `query_attentions`, from 0 to H' - 1. Defaults to the mean of all heads.

    Returns:
        `(B, T, h, w)` float32. The sum over each map is 1.

    Raises:
        ValueError: If `query_attentions` is empty, the shapes do not match each other or the grid, or the layer or a
            head does not exist.

    Example:
        >>> text_to_queries = torch.full((1, 2, 5, 3), 1 / 3)  # two heads, five words, three queries
        >>> queries_to_patches = torch.full((1, 4, 3, 6), 1 / 6)  # four heads, six patches
        >>> word_heatmaps(text_to_queries, query_attentions=[queries_to_patches], grid=(2, 3)).shape
        torch.Size([1, 5, 2, 3])
    """
    if len(query_attentions) == 0:
        raise ValueError("`query_attentions` must not be empty. Pass `output_attentions=True` to the model.")
    if not -len(query_attentions) <= layer < len(query_attentions):
        raise ValueError(
            f"`layer` must be from {-len(query_attentions)} to {len(query_attentions) - 1}, the index of a block, but "
            f"got {layer}."
        )
    of_block = query_attentions[layer]
    _check_shapes(cross_attentions, of_block, grid)
    text_to_queries = select_head(cross_attentions.detach().float(), head)
    queries_to_tokens = select_head(of_block.detach().float(), query_head, name="query_head")
    # Vision layers are summed before the product, in the smaller of the two tensors.
    queries_to_patches = queries_to_tokens.unflatten(2, (-1, grid[0] * grid[1])).sum(dim=2)
    return (text_to_queries @ queries_to_patches).unflatten(2, grid)


def join_words(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int] | Tensor, *, maps: Tensor) -> list[WordMap]:
    """Join the tokens of a caption into words, and average their maps.

    Words are separated by white space in the decoded text, independently of the tokenizer. Special tokens and tokens of
    white space are omitted.

    Args:
        tokenizer: Tokenizer that decodes `token_ids`.
        token_ids: `(T,)`, tokens of the caption.
        maps: `(T, h, w)`, map of the position before each token, which predicts the token. If the caption starts at
            position `start` of the input, pass `maps[i, start - 1 : start - 1 + T]` for image i of the output of
            [`word_heatmaps`].

    Raises:
        ValueError: If the number of maps differs from the number of tokens, or the inputs have other shapes.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> backend = Tokenizer(models.WordLevel({"a": 0, "dog": 1, "<end>": 2}))
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
        >>> [word for word, _ in join_words(tokenizer, [0, 1, 2], maps=torch.rand(3, 7, 7))]
        ['a', 'dog']
    """
    ids = torch.as_tensor(token_ids)
    if ids.ndim != 1 or maps.ndim != 3 or len(ids) != len(maps):
        raise ValueError(
            "`token_ids` must have the shape (T,) and `maps` the shape (T, h, w), but got "
            f"{tuple(ids.shape)} and {tuple(maps.shape)}."
        )
    words: dict[int, str] = {}
    maps_of_word: dict[int, list[Tensor]] = {}
    for index, token_id in enumerate(ids.tolist()):
        # The text so far is decoded, because decoders add, remove and replace spaces depending on the context.
        so_far = _decode(tokenizer, ids[: index + 1].tolist()).split()
        if so_far and _decode(tokenizer, [token_id]).strip():
            words[len(so_far)] = so_far[-1]
            maps_of_word.setdefault(len(so_far), []).append(maps[index])
    return [WordMap(words[place], torch.stack(maps_of_word[place]).mean(dim=0)) for place in words]


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    # Cleaning up would join separate tokens, such as "dog ." and "do n't".
    return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _check_shapes(cross_attentions: Tensor, query_attention: Tensor, grid: tuple[int, int]) -> None:
    text, queries = tuple(cross_attentions.shape), tuple(query_attention.shape)
    if len(text) != 4 or len(queries) != 4 or text[0] != queries[0] or text[3] != queries[2]:
        raise ValueError(
            "`cross_attentions` must have the shape (images, heads, text tokens, query tokens) and `query_attentions` "
            f"the shape (images, heads, query tokens, vision tokens), but got {text} and {queries}."
        )
    num_patches = grid[0] * grid[1]
    if min(grid) < 1 or queries[3] == 0 or queries[3] % num_patches:
        raise ValueError(
            f"`query_attentions` must have a multiple of {num_patches} vision tokens for a grid of {grid[0]} x "
            f"{grid[1]} patches, without a class token, but has {queries[3]}."
        )
