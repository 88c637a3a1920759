"""Names of other libraries' networks, compared without regard to how they are spelled."""

from __future__ import annotations

import re


def name_key(name: str) -> str:
    """Returns what two spellings of a network's name have in common.

    Example:
        >>> name_key("ResNet_50_Backbone")
        'resnet50'
    """
    return re.sub(r"[_\-\s]|backbone$", "", name.lower())
