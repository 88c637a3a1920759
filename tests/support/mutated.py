"""Valid files turned into invalid ones, as disks, networks and malice do; how many cases to try."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def cases(share: float) -> settings:
    """Returns hypothesis's settings for a share of a few hundred cases, always the same ones.

    FUZZ_CASES=10000 tries so many in all, fresh ones each time. The shares of all tests that use
    this are one together.
    """
    total = int(os.environ.get("FUZZ_CASES", "600"))
    return settings(
        max_examples=max(1, round(total * share)),
        deadline=None,
        derandomize="FUZZ_CASES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def mutated(draw: st.DrawFn, *originals: bytes) -> bytes:
    """Draws one of the contents and damages it: bytes changed, cut off, put in, doubled, mixed."""
    content = draw(st.sampled_from(originals))
    kind = draw(st.sampled_from(("change", "head", "cut", "insert", "zeros", "mix", "other")))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if kind in ("change", "head"):
        changed = bytearray(content)
        last = max(0, min(len(content), 64 if kind == "head" else len(content)) - 1)
        for index, value in draw(
            st.lists(st.tuples(st.integers(0, last), st.integers(0, 255)), min_size=1, max_size=8)
        ):
            changed[index : index + 1] = bytes([value])
        return bytes(changed)
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + draw(st.binary(max_size=40)) + content[place:]
    if kind == "zeros":
        return content[:place] + bytes(len(content) - place)
    if kind == "mix":
        return content[:place] + draw(st.sampled_from(originals))[place:]
    return draw(st.binary(max_size=80))
