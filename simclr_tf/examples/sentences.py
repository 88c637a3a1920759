"""Sentences about one of six topics, made on the spot from a small grammar, as word ids."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LENGTH = 16  # words of a sentence at most
_TOPICS = {
    "sea": (
        "boat sailor harbour wave tide island fish net captain anchor storm gull reef mast shell "
        "current lighthouse ferry whale beach",
        "sails drifts anchors floats dives rows fishes sinks",
        "salty deep stormy blue wooden distant",
    ),
    "kitchen": (
        "cook soup oven knife bread pan recipe salt butter plate onion dough spoon kettle cake "
        "sauce pepper table bowl flour",
        "boils bakes stirs chops fries serves tastes melts",
        "hot sweet fresh sour crisp hungry",
    ),
    "music": (
        "singer guitar drum concert violin choir melody song piano rhythm stage orchestra trumpet "
        "note chord album band tune flute audience",
        "plays sings hums tunes rehearses records composes claps",
        "loud quiet slow gentle famous lively",
    ),
    "sport": (
        "player ball team goal coach match stadium race runner referee medal racket net track fan "
        "league whistle trophy score jersey",
        "runs kicks scores wins trains throws jumps loses",
        "fast strong tired young loud famous",
    ),
    "garden": (
        "gardener rose tree seed soil shovel flower bee fence grass leaf root hedge bush worm pond "
        "apple ladder track bird",
        "grows plants waters digs blooms prunes climbs fades",
        "green fresh wild tall sweet muddy",
    ),
    "office": (
        "clerk desk letter meeting printer report phone manager email file note folder contract "
        "chair table budget invoice stamp score screen",
        "writes prints calls signs types files records waits",
        "busy late quiet tired formal polite",
    ),
}
TOPICS = tuple(_TOPICS)
# Words of every topic.
_COMMON = [
    "man", "woman", "child", "day", "morning", "friend", "thing", "house", "street", "town",
    "story", "idea",
]  # fmt: skip
_PLACES = ["near", "behind", "beside", "without", "after", "before"]
_PATTERNS = (
    "the {adjective} {noun} {verb} {place} the {noun}",
    "a {common} {verb} while the {noun} {verb}",
    "one {common} and one {common} talk of the {adjective} {noun} {place} the {noun}",
    "every {common} knows that the {noun} {verb} {place} a {adjective} {common}",
    "{place} the {common} a {noun} {verb}",
    "it is a {adjective} {common} and the {noun} {verb} {place} the {common}",
)
_STRAY = 0.15  # share of a topic's words that come from any other topic


def _vocabulary() -> list[str]:
    words = {word for kinds in _TOPICS.values() for kind in kinds for word in kind.split()}
    words |= {*_COMMON, *_PLACES}
    words |= {word for pattern in _PATTERNS for word in pattern.split() if "{" not in word}
    return sorted(words)


WORDS = _vocabulary()
"""All words; a word's id is its position and 2: 0 is padding, 1 a masked word."""
MASKED = 1


class Sentences(NamedTuple):
    """Sentences of different lengths, filled up.

    Attributes:
        ids: int32 (N, 16), word ids, 0 after the end.
        mask: float32 (N, 16), 1 where there is a word.
        topics: int64 (N,), positions in `TOPICS`.
        texts: The sentences.
    """

    ids: np.ndarray
    mask: np.ndarray
    topics: np.ndarray
    texts: list[str]

    def inputs(self) -> dict[str, np.ndarray]:
        """Returns what the encoder takes."""
        return {"ids": self.ids, "mask": self.mask}


def make_sentences(count: int, seed: int) -> Sentences:
    """Draws sentences of five to thirteen words; some words belong to two topics, some stray.

    Args:
        count: N.
        seed: Of all draws.

    Example:
        >>> make_sentences(1, seed=3).texts[0]
        'it is a gentle day and the concert rehearses near the man'
    """
    random = np.random.RandomState(seed)
    kinds = [[kind.split() for kind in _TOPICS[topic]] for topic in TOPICS]
    topics = random.randint(len(TOPICS), size=count)
    texts = []
    for topic in topics:
        words = []
        for word in _PATTERNS[random.randint(len(_PATTERNS))].split():
            slot = word.strip("{}")
            if slot in ("noun", "verb", "adjective"):
                own = random.uniform() >= _STRAY
                source = kinds[topic if own else random.randint(len(TOPICS))]
                choices = source[("noun", "verb", "adjective").index(slot)]
            else:
                choices = {"common": _COMMON, "place": _PLACES}.get(slot, [word])
            words.append(choices[random.randint(len(choices))])
        texts.append(" ".join(words))
    known = {word: number for number, word in enumerate(WORDS, 2)}
    ids = np.zeros((count, LENGTH), np.int32)
    for row, text in zip(ids, texts, strict=True):
        words = text.split()
        row[: len(words)] = [known[word] for word in words]
    return Sentences(ids, (ids > 0).astype(np.float32), topics.astype(np.int64), texts)
