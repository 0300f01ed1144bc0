"""The content of a data set: balance of classes, what occurs together, copies. A data card's rows.

Datasheets for datasets (Gebru et al. 2021, arXiv 1803.09010) ask for these numbers, since a model
repeats what is rare, one-sided or twice in its data.
"""

import collections
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.data.conditions.attributes import KIND
from experiments.data.dataset import Dataset
from experiments.data.inspection.measure import HASHED, copies, digests

SHOWN = 5  # pairs and words in a row
LEAST = 5  # captions with a pair of words, at least, for the pair to be shown
MOST_WORDS = 200  # frequent words whose pairs are counted
MOST_CAPTIONS = 100_000  # the first ones, whose words are counted
WORD = re.compile(r"[^\W_]+", re.UNICODE)


class Balance(NamedTuple):
    """The balance of classes.

    Attributes:
        counts: samples of each class that occurs, by label.
        ratio: the largest count over the smallest.
        effective: exp of the entropy of the shares: n for n classes of one size.
    """

    counts: dict[int, int]
    ratio: float
    effective: float


class Pair(NamedTuple):
    """Two things that occur together: their names, and how strongly."""

    first: str
    second: str
    strength: float


def balance(labels: Int[np.ndarray, " n"]) -> Balance:
    """The balance of labels; negative ones are unknown, and left out.

    Raises:
        ValueError: no known label.
    """
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(found):
        raise ValueError("no label is known: there is no balance of classes")
    shares = counts / counts.sum()
    entropy = -float(np.sum(shares * np.log(shares)))
    by_class = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return Balance(by_class, float(counts.max() / counts.min()), math.exp(entropy))


def cramers_v(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """Cramér's V of two columns of classes: 0 if independent, 1 if one tells the other.

    Rows with a negative (unknown) class are left out; 0 if a column is constant.
    """
    known = (a >= 0) & (b >= 0)
    rows, columns = (np.unique(x[known], return_inverse=True)[1] for x in (a, b))
    if not len(rows):
        return 0.0
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    least = min(table.shape) - 1
    if not least:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    chi2 = np.sum((table - expected) ** 2 / expected)
    return math.sqrt(chi2 / table.sum() / least)


def associations(columns: dict[str, Int[np.ndarray, " n"]]) -> list[Pair]:
    """Cramér's V of all pairs of columns, the strongest first."""
    pairs = [
        Pair(a, b, cramers_v(columns[a], columns[b])) for a, b in itertools.combinations(columns, 2)
    ]
    return sorted(pairs, key=lambda pair: -pair.strength)


def words(captions: Sequence[Any] | np.ndarray) -> tuple[dict[str, int], list[Pair]]:
    """Captions that have each word, the frequent ones first; and the pairs of the highest lift.

    The lift is the share of the captions with both words over the product of their shares. It is
    that of pairs among the MOST_WORDS most frequent words, in LEAST captions or more.
    """
    sets = [frozenset(WORD.findall(str(caption or "").lower())) for caption in captions]
    counts = collections.Counter(itertools.chain.from_iterable(sets))
    ranked = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    frequent = set(itertools.islice(ranked, MOST_WORDS))
    both = collections.Counter(
        pair for each in sets for pair in itertools.combinations(sorted(each & frequent), 2)
    )
    pairs = [
        Pair(a, b, n * len(sets) / (counts[a] * counts[b]))
        for (a, b), n in both.items()
        if n >= LEAST
    ]
    return ranked, sorted(pairs, key=lambda pair: (-pair.strength, pair))


def shared(train: np.ndarray, test: np.ndarray) -> int:
    """The number of test samples that are training samples too, to the last bit."""
    known = frozenset(digests(train))
    return sum(each in known for each in digests(test))


def rows(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """The rows of a data card, by name; those that the data have no part for are left out."""
    labels = dataset.train_labels
    columns: dict[str, np.ndarray] = {}
    if labels is not None and (labels >= 0).any():
        columns["class"] = labels
        yield "Balance of classes", _balance_text(dataset, balance(labels))
    attributes = dataset.train_conditions.get(KIND)
    if attributes is not None:
        for k, column in enumerate(np.transpose(attributes)):
            columns[f"attribute {k}"] = column
            if (column >= 0).any():
                names = dataset.attributes[k] if k < len(dataset.attributes) else ()
                yield f"Balance of attribute {k}", _attribute_text(balance(column), names)
    if len(columns) > 1:
        strongest = associations(columns)[:SHOWN]
        listed = ", ".join(f"{a} and {b} {v:.2f}" for a, b, v in strongest)
        yield "Together", f"Cramér's V (0: independent, 1: one tells the other): {listed}"
    if dataset.train_captions is not None:
        yield from _caption_rows(dataset.train_captions)
    yield from _copy_rows(dataset.train, dataset.test)


def _balance_text(dataset: Dataset, found: Balance) -> str:
    if found.ratio == 1:
        return f"{next(iter(found.counts.values())):,} samples of each"
    most, least = (each(found.counts, key=found.counts.__getitem__) for each in (max, min))
    return (
        f"{found.counts[most]:,} samples of class {dataset.class_name(most)}, the largest, to "
        f"{found.counts[least]:,} of {dataset.class_name(least)}, the smallest (ratio "
        f"{found.ratio:.3g}); as varied as {found.effective:.3g} classes of one size"
    )


def _attribute_text(found: Balance, names: Sequence[str]) -> str:
    listed = [
        f"{names[label] if label < len(names) else label} {count:,}"
        for label, count in sorted(found.counts.items(), key=lambda item: -item[1])[:SHOWN]
    ]
    more = f" and {len(found.counts) - SHOWN} more" if len(found.counts) > SHOWN else ""
    return f"{', '.join(listed)}{more}; as varied as {found.effective:.3g} classes of one size"


def _caption_rows(captions: Sequence[Any] | np.ndarray) -> Iterator[tuple[str, str]]:
    captions = captions[:MOST_CAPTIONS]
    counts, pairs = words(captions)
    if not counts:
        return
    once = sum(count == 1 for count in counts.values())
    shown = ", ".join(f"{word} {n / len(captions):.1%}" for word, n in [*counts.items()][:SHOWN])
    yield "Words", f"{len(counts):,}, of which {once:,} occur once; in most captions: {shown}"
    if pairs:
        shown = ", ".join(f"{a} and {b} x {lift:.3g}" for a, b, lift in pairs[:SHOWN])
        yield "Words together", f"more often than by chance: {shown}"


def _copy_rows(train: Any, test: Any) -> Iterator[tuple[str, str]]:
    """Copies among arrays in memory; files and arrays beyond memory are not compared."""
    if not all(isinstance(each, np.ndarray) and each.nbytes <= HASHED for each in (train, test)):
        return
    yield (
        "Copies",
        f"{copies(train):,} of {len(train):,} training samples repeat another one, and "
        f"{shared(train, test):,} of {len(test):,} test samples are training samples too",
    )
