import random

import pytest

from vlmkit.metrics.caption_tokenizer import tokenize


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", ""),
        (" A dog .\n", "a dog"),
        ("a dog - cat -- run... ; \"fast\": `so` 'so' \u2014 \u201cso\u201d\u2026", "a dog cat run fast so so so"),
        ("the dog's, cat\u2019s and girls' toys", "the dog 's cat 's and girls toys"),
        ("I'm sure they're what we've said he'd see", "i 'm sure they 're what we 've said he 'd see"),
        ("it can't, won't and isn't", "it ca n't wo n't and is n't"),
        ("cannot gonna wanna gotta gimme lemme", "can not gon na wan na got ta gim me lem me"),
        ("rock 'n' roll at 5 o'clock in the '90s, ma'am", "rock 'n' roll at 5 o'clock in the '90s ma'am"),
        ("a close-up of a T-shirt, black/white", "a close-up of a t-shirt black/white"),
        ("10,000 people, 5.5 miles at 6:55, 50/50", "10,000 people 5.5 miles at 6:55 50/50"),
        ("parked.A hydrant.", "parked.a hydrant"),
        ("St. Peter on Fort York Blvd. in the U.S., 5 p.m.", "st. peter on fort york blvd. in the u.s. 5 p.m."),
        ("Platform No. 5. No.", "platform no. 5 no"),
        ("a t.v. and a T.V", "a t.v. and a t.v"),
        ("a (red) [green] {blue} box", "a -lrb- red -rrb- -lsb- green -rsb- -lcb- blue -rcb- box"),
        ("#1 fish & chips, 50% off for $5", "# 1 fish & chips 50 % off for $ 5"),
        ("Stop! Really?! Yes?", "stop really ?! yes"),
        ("<unk> a caf\u00e9 \u4e2d\u6587", "<unk> a caf\u00e9 \u4e2d\u6587"),
    ],
)  # fmt: skip
def test_words_are_those_of_the_penn_treebank(caption, words):
    assert " ".join(tokenize(caption)) == words
    assert " ".join(tokenize(words)) == words


def test_words_tokenized_again_stay_as_they_are():
    pieces = [*"abcst  '''`.-,:;!?()[]/&@09$%\u00e9_\"<>\u2019\u2014\n", "n't", "'s", "'ll", "cannot", "gonna", "na"]
    pieces += ["st.", "no.", "u.s.", "ph.d", "-lrb-", "'n'", "'em", "'90s", "<unk>"]
    generator = random.Random(0)
    for _ in range(20_000):
        words = tokenize("".join(generator.choices(pieces, k=generator.randint(1, 9))))
        assert tokenize(" ".join(words)) == words
