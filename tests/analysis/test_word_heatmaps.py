import pytest
import torch
from tests import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlmkit.analysis.word_heatmaps import join_words, word_heatmaps

GRID = (2, 3)
BATCH, TEXT, QUERIES, PATCHES = 2, 4, 5, 6


def attention(heads, rows, columns):
    return torch.randn(BATCH, heads, rows, columns).softmax(dim=-1)


def attentions(layers=2, vision_layers=1):
    """Text to queries with two heads, queries to patches with three."""
    blocks = [attention(3, QUERIES, vision_layers * PATCHES) for _ in range(layers)]
    return attention(2, TEXT, QUERIES), blocks


def one_hot(*places, size):
    return torch.eye(size)[list(places)][None, None]


class TestWordHeatmaps:
    def test_follows_the_path_from_word_to_query_to_patch(self):
        words_to_queries = one_hot(1, 0, size=2)  # the first position attends to query 1, the second to query 0
        queries_to_patches = one_hot(4, 2, size=PATCHES)  # query 0 attends to patch 4, query 1 to patch 2
        maps = word_heatmaps(words_to_queries, query_attentions=[queries_to_patches], grid=GRID)
        assert maps.tolist() == [[[[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]]]]

    def test_mixes_the_queries_by_their_weights(self):
        words_to_queries = torch.tensor([[[[0.25, 0.75]]]])
        maps = word_heatmaps(words_to_queries, query_attentions=[one_hot(0, 5, size=PATCHES)], grid=GRID)
        assert maps.tolist() == [[[[0.25, 0, 0], [0, 0, 0.75]]]]

    @pytest.mark.parametrize(
        "options", [{}, {"layer": 0}, {"head": 1}, {"query_head": 2}, {"head": 0, "query_head": 0}]
    )
    def test_each_map_adds_up_to_one(self, options):
        maps = word_heatmaps(*attentions(vision_layers=2), grid=GRID, **options)
        assert maps.shape == (BATCH, TEXT, *GRID)
        torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(BATCH, TEXT))

    def test_layers_and_heads(self):
        text, blocks = attentions()
        last = word_heatmaps(text, query_attentions=blocks, grid=GRID)
        assert torch.equal(last, word_heatmaps(text, query_attentions=blocks, grid=GRID, layer=1))
        assert torch.equal(
            word_heatmaps(text, query_attentions=blocks, grid=GRID, layer=0),
            word_heatmaps(text, query_attentions=blocks[:1], grid=GRID),
        )
        assert not torch.equal(last, word_heatmaps(text, query_attentions=blocks, grid=GRID, layer=0))
        chosen = word_heatmaps(text, query_attentions=blocks, grid=GRID, head=1, query_head=2)
        torch.testing.assert_close(chosen.flatten(2), text[:, 1] @ blocks[1][:, 2])
        every = [
            word_heatmaps(text, query_attentions=blocks, grid=GRID, head=h, query_head=q)
            for h in range(2)
            for q in range(3)
        ]
        torch.testing.assert_close(torch.stack(every).mean(dim=0), last)

    def test_vision_layers_are_added_up(self):
        text, (block, _) = attentions(vision_layers=3)
        layers = [word_heatmaps(text, query_attentions=[part], grid=GRID) for part in block.split(PATCHES, dim=3)]
        torch.testing.assert_close(
            word_heatmaps(text, query_attentions=[block], grid=GRID), torch.stack(layers).sum(dim=0)
        )

    def test_half_precision_gives_float32_without_gradients(self):
        text, blocks = attentions()
        text.requires_grad_()
        maps = word_heatmaps(text.bfloat16(), query_attentions=[block.bfloat16() for block in blocks], grid=GRID)
        assert maps.dtype == torch.float32
        assert not maps.requires_grad

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"query_attentions": ()}, r"`query_attentions` must not be empty"),
            ({"layer": 2}, r"`layer` must be from -2 to 1, the index of a block, but got 2"),
            ({"layer": -3}, r"`layer` must be from -2 to 1, the index of a block, but got -3"),
            ({"head": 2}, r"`head` must be from 0 to 1, the index of a head, but got 2"),
            ({"head": -1}, r"`head` must be from 0 to 1, the index of a head, but got -1"),
            ({"query_head": 3}, r"`query_head` must be from 0 to 2, the index of a head, but got 3"),
            ({"grid": (2, 2)}, r"`query_attentions` must have a multiple of 4 vision tokens for a grid of 2 x 2"),
            ({"grid": (3, 4)}, r"`query_attentions` must have a multiple of 12 vision tokens for a grid of 3 x 4"),
            ({"grid": (0, 6)}, "a grid of 0 x 6"),
            ({"cross_attentions": torch.ones(2, 4, 5)}, r"`cross_attentions` must have the shape \(images, heads,"),
            ({"cross_attentions": torch.ones(2, 1, 4, 6)}, r"`cross_attentions` must have the shape \(images,"),
            ({"cross_attentions": torch.ones(1, 1, 4, 5)}, r"`cross_attentions` must have the shape \(images,"),
            ({"query_attentions": [torch.ones(2, 5, 6)]}, r"`cross_attentions` must have the shape \(images, heads,"),
        ],
    )
    def test_errors(self, arguments, message):
        text, blocks = attentions()
        given = {"cross_attentions": text, "query_attentions": blocks, "grid": GRID, **arguments}
        with pytest.raises(ValueError, match=message):
            word_heatmaps(**given)


def tokenizer(pieces, decoder):
    """A vocabulary of these pieces, in this order, and an end token after them."""
    vocab = {piece: row for row, piece in enumerate([*pieces, "<end>"])}
    backend = Tokenizer(models.WordLevel(vocab))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def byte_pieces(*texts):
    """Texts as a byte-level vocabulary writes them: a letter for each byte."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [byte_level.pre_tokenize_str(text)[0][0] for text in texts]


def joined(tok, ids):
    """Each word with the indices of the tokens whose maps it has the mean of."""
    maps = torch.eye(len(ids))[:, None]  # the map of token i is 1 at i
    return [(word, heat_map[0].nonzero().flatten().tolist()) for word, heat_map in join_words(tok, ids, maps=maps)]


class TestJoinWords:
    def test_byte_level(self):
        tok = tokenizer(byte_pieces("A", " skate", "board", "er", " runs", "."), decoders.ByteLevel())
        assert joined(tok, [*range(6), 6]) == [("A", [0]), ("skateboarder", [1, 2, 3]), ("runs.", [4, 5])]

    def test_a_letter_of_several_tokens(self):
        pieces = byte_pieces(" caf", " 🐕")
        tok = tokenizer([pieces[0], *pieces[1], "Ã", "©"], decoders.ByteLevel())
        space, *dog = range(1, 1 + len(pieces[1]))
        e_acute = [len(pieces[1]) + 1, len(pieces[1]) + 2]
        assert joined(tok, [0, *e_acute, space, *dog]) == [("café", [0, 1, 2]), ("🐕", [4, 5, 6, 7])]

    @pytest.mark.parametrize("prepend", ["always", "never", "first"])
    def test_sentencepiece(self, prepend):
        tok = tokenizer(["▁a", "▁sur", "f", "er", "▁", "8"], decoders.Metaspace(prepend_scheme=prepend))
        assert joined(tok, [*range(6), 6]) == [("a", [0]), ("surfer", [1, 2, 3]), ("8", [5])]

    def test_wordpiece(self):
        tok = tokenizer(["a", "surf", "##er", "."], decoders.WordPiece(cleanup=False))
        assert joined(tok, [0, 1, 2, 3]) == [("a", [0]), ("surfer", [1, 2]), (".", [3])]

    def test_word_ends_marked_as_by_clip(self):
        tok = tokenizer(["a</w>", "surf", "er</w>"], decoders.BPEDecoder(suffix="</w>"))
        assert joined(tok, [0, 1, 2, 3]) == [("a", [0]), ("surfer", [1, 2])]

    def test_one_token_per_word(self):
        tok = tiny.tokenizer()
        ids = torch.tensor(tok("the red dog runs")["input_ids"] + [tok.eos_token_id])
        assert joined(tok, ids) == [("the", [0]), ("red", [1]), ("dog", [2]), ("runs", [3])]

    def test_special_tokens_anywhere_and_white_space_are_left_out(self):
        tok = tokenizer(byte_pieces("A", " ", " dog", "\n"), decoders.ByteLevel())
        assert joined(tok, [4, 0, 1, 2, 3, 4, 4]) == [("A", [1]), ("dog", [3])]

    def test_the_same_word_twice(self):
        tok = tokenizer(byte_pieces(" a", " dog"), decoders.ByteLevel())
        assert joined(tok, [0, 1, 0, 1]) == [("a", [0]), ("dog", [1]), ("a", [2]), ("dog", [3])]

    def test_the_map_is_the_mean(self):
        tok = tokenizer(byte_pieces("surf", "er"), decoders.ByteLevel())
        (word,) = join_words(tok, [0, 1], maps=torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]))
        assert word.word == "surfer"
        assert word.heat_map.tolist() == [[0.75, 0.25]]

    def test_nothing_but_special_tokens(self):
        assert join_words(tokenizer(["a"], decoders.ByteLevel()), [1, 1], maps=torch.ones(2, 1, 1)) == []

    @pytest.mark.parametrize(
        ("ids", "shape", "message"),
        [
            ([0, 0], (3, 1, 1), r"`token_ids` must have the shape \(T,\) and `maps` the shape \(T, h, w\), but got"),
            ([[0, 0]], (1, 1, 1), r"`token_ids` must have the shape \(T,\) and `maps` the shape \(T, h, w\), but"),
            ([0], (1, 1), r"`token_ids` must have the shape \(T,\) and `maps` the shape \(T, h, w\), but got \(1,\)"),
        ],
    )
    def test_errors(self, ids, shape, message):
        with pytest.raises(ValueError, match=message):
            join_words(tiny.tokenizer(), ids, maps=torch.ones(shape))
