"""Conditions: what a network is given besides x and the noise level.

Each kind of condition is a class with the protocol `Condition`. Conditions are arrays with a row
for each sample, by the network's keyword: {"class_labels": [B], "text": [B, L]}. The null of a
condition is its unconditional value: class -1, the empty text, confidence 0, a vector or an image
of NaN. models/conditions.py lists the keywords.
"""

from experiments.pipeline.conditions.attributes import Attributes
from experiments.pipeline.conditions.base import Arrays, Condition, Load
from experiments.pipeline.conditions.image import Image
from experiments.pipeline.conditions.labels import ClassLabel, Confidence
from experiments.pipeline.conditions.source import SOURCE, Source
from experiments.pipeline.conditions.text import Text, TextReader
from experiments.pipeline.conditions.vector import Vector
from experiments.pipeline.conditions.whole import Conditions

__all__ = [
    "SOURCE",
    "Arrays",
    "Attributes",
    "ClassLabel",
    "Condition",
    "Conditions",
    "Confidence",
    "Image",
    "Load",
    "Source",
    "Text",
    "TextReader",
    "Vector",
]
