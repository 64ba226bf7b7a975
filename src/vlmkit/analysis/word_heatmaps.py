"""Where in an image a captioner looks for each word, if its text attends to queries that attend to the image."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmkit.analysis.attention_maps import select_head


class WordMap(NamedTuple):
    """A word and where the model looked for it.

    Args:
        word: as it stands in the caption, with the punctuation that touches it.
        heat_map: `(h, w)`.
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
    """How much each text position attends to each patch, by way of the query tokens.

    The attention of the text to the queries times the attention of the queries to the patches in one block of the
    Q-Former. Row t is what the model looked at when it predicted the token after position t, not the token at t.

    Only this path is followed: that queries exchange what they saw in self-attention, and that later blocks build on
    earlier ones, does not show in the maps.

    Args:
        cross_attentions: `(B, H, T, M)` attention probabilities of T text tokens to M query tokens, a global token
            included.
        query_attentions: `(B, H', M, N)` attention probabilities of the query tokens to the vision tokens, one tensor
            for each block. N is h * w, or a multiple if the patches of several vision layers follow one another; these
            are added up.
        grid: rows h and columns w of patches.
        layer: index into `query_attentions`, by default the last block.
        head: one of the H heads of `cross_attentions`; the mean over all if not given.
        query_head: one of the H' heads of `query_attentions`; the mean over all if not given.

    Returns:
        `(B, T, h, w)` float32, patches row by row. Each map adds up to 1.

    Raises:
        ValueError: there are no `query_attentions`, shapes do not fit each other or the grid, or the layer or a head
            does not exist.

    Example:
        >>> text_to_queries = torch.full((1, 2, 5, 3), 1 / 3)  # two heads, five words, three queries
        >>> queries_to_patches = torch.full((1, 4, 3, 6), 1 / 6)  # four heads, six patches
        >>> word_heatmaps(text_to_queries, query_attentions=[queries_to_patches], grid=(2, 3)).shape
        torch.Size([1, 5, 2, 3])
    """
    if len(query_attentions) == 0:
        raise ValueError("there are no query_attentions; have the model return them, one tensor for each block")
    if not -len(query_attentions) <= layer < len(query_attentions):
        raise ValueError(f"layer is {layer}; query_attentions has {len(query_attentions)} blocks, from 0")
    of_block = query_attentions[layer]
    _check_shapes(cross_attentions, of_block, grid)
    text_to_queries = select_head(cross_attentions.detach().float(), head)
    queries_to_tokens = select_head(of_block.detach().float(), query_head, name="query_head")
    # Vision layers are added up first: it is the smaller of the two tensors.
    queries_to_patches = queries_to_tokens.unflatten(2, (-1, grid[0] * grid[1])).sum(dim=2)
    return (text_to_queries @ queries_to_patches).unflatten(2, grid)


def join_words(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int] | Tensor, *, maps: Tensor) -> list[WordMap]:
    """The words of a caption with a map each: the mean over the tokens of which the word consists.

    Words are what white space divides in the decoded text, whatever marks their beginnings in the vocabulary. Special
    tokens, and those that are nothing but white space, are left out.

    Args:
        tokenizer: any tokenizer that decodes `token_ids`.
        token_ids: `(T,)`, the tokens of the caption.
        maps: `(T, h, w)`, each of the position that predicted the token, which is the position before it. Of an
            image's maps from [`word_heatmaps`], these are `maps[start - 1 : start - 1 + T]` if the first token of the
            caption is at position `start` of the model's input.

    Raises:
        ValueError: there are not as many maps as tokens, or the shapes are others.

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
            f"token_ids {tuple(ids.shape)} and maps {tuple(maps.shape)} do not fit; give the T tokens of one caption "
            "and (T, h, w), the map of the position that predicted each"
        )
    words: dict[int, str] = {}
    maps_of_word: dict[int, list[Tensor]] = {}
    for index, token_id in enumerate(ids.tolist()):
        # A token alone does not tell whether it begins a word: decoders add, strip and replace spaces by context.
        so_far = _decode(tokenizer, ids[: index + 1].tolist()).split()
        if so_far and _decode(tokenizer, [token_id]).strip():
            words[len(so_far)] = so_far[-1]
            maps_of_word.setdefault(len(so_far), []).append(maps[index])
    return [WordMap(words[place], torch.stack(maps_of_word[place]).mean(dim=0)) for place in words]


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    # Cleaning up would join what the tokenizer keeps apart, such as "dog ." and "do n't".
    return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _check_shapes(cross_attentions: Tensor, query_attention: Tensor, grid: tuple[int, int]) -> None:
    text, queries = tuple(cross_attentions.shape), tuple(query_attention.shape)
    if len(text) != 4 or len(queries) != 4 or text[0] != queries[0] or text[3] != queries[2]:
        raise ValueError(
            f"cross_attentions {text} must be (images, heads, text tokens, query tokens) and query_attentions "
            f"{queries} (images, heads, query tokens, vision tokens), of the same images and query tokens"
        )
    num_patches = grid[0] * grid[1]
    if min(grid) < 1 or queries[3] == 0 or queries[3] % num_patches:
        raise ValueError(
            f"query_attentions {queries} have {queries[3]} vision tokens; a grid of {grid[0]} x {grid[1]} needs "
            f"{num_patches} or a multiple of it, without a class token"
        )
