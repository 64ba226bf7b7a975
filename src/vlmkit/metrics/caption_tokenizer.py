"""Tokenizer of captions in pure Python, which follows the conventions of the Penn Treebank."""

import re

_APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'"})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# Abbreviations, which keep their full stop.
_ABBREVIATIONS = r"""
    mr|mrs|ms|messrs|mme|mlle|dr|prof|ph\.d|rev|hon|pres|gov|sen|rep|supt|gen|adm|cmdr|col|maj|capt|lt|sgt|cpl|pvt|jr|sr
    |st|ave|blvd|rd|sq|ct|mt|ft|bldg|dept|univ|inst|assn|natl|intl|co|corp|inc|ltd|bros|mfg|est|etc|vs|cf|al|tel|ext
    |jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|ariz|calif|colo|conn|fla|ind|penn
    |(?:no|pp|fig|op|art)(?=\.\s*\d)
"""

# Contractions are split in two steps: "is|n't", "dog|'s", then "can|not", "gon|na".
_CLITICS = re.compile(r"(?<=\w)(?=(?:'(?:s|m|d|re|ve|ll)|n't)+(?!\w))")
_COMPOUNDS = re.compile(r"\b(?:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:gim|lem)(?=me\b))")
_TOKENS = re.compile(
    rf"""-[lr][rsc]b-                                           # a bracket, spelt out
    | (?<!\w)'(?:s|m|d|re|ve|ll|t|em|cause|n'|\d\ds?)(?!\w)     # 's, 'em, '90s
    | <[a-z]+>                                                  # <unk>
    | \b(?:[a-z]\.)+(?:[a-z]\b)?                                # u.s., t.v
    | \b(?:{_ABBREVIATIONS})\.(?!\w)                            # blvd., no. 5
    | \w+(?:(?:[-./&@]|(?<!\d)'(?!\d)|(?<=\d)[,:](?=\d))\w+)*   # dog, t-shirt, o'clock, 10,000, 6:55
    | [!?]{{2,}}                                                # single ones are dropped
    | [^\w\s.,:;!?'"`\-\u2010-\u201f\u2026]                     # &, #, % and the like
    """,
    re.VERBOSE,
)


def tokenize(caption: str) -> list[str]:
    """Split an English caption into lower-case words without punctuation.

    The result follows the Penn Treebank tokenizer of pycocoevalcap: clitics are separate words ("dog 's", "do n't"),
    brackets become names ("-lrb-"), and abbreviations keep their full stop. Tokenizing the joined words again does not
    change them.

    Args:
        caption: Caption in English.

    Example:
        >>> tokenize("The dog's T-shirt, at 6:55 on Fort York Blvd., isn't red.")
        ['the', 'dog', "'s", 't-shirt', 'at', '6:55', 'on', 'fort', 'york', 'blvd.', 'is', "n't", 'red']
    """
    divided = _CLITICS.sub(" ", caption.lower().translate(_APOSTROPHES))
    divided = _COMPOUNDS.sub(r"\g<0> ", divided)
    return [_BRACKETS.get(token, token) for token in _TOKENS.findall(divided)]
