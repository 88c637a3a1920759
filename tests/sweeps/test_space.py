"""`--space=`: ranges and lists by the table of settings, and every way to get them wrong."""

from __future__ import annotations

import itertools

import pytest

from simclr_tf.errors import UserError
from simclr_tf.sweeps.space import combination, combinations, corners, parse_dimension, parse_space

pytestmark = pytest.mark.one_lane


@pytest.mark.parametrize(
    "text, low, high, log, whole",
    [
        ("learning_rate=0.1..1.0:log", 0.1, 1.0, True, False),
        ("temperature=.05...5", 0.05, 0.5, False, False),
        ("weight_decay=1e-6..1e-3:log", 1e-6, 1e-3, True, False),
        ("train_epochs=2..9", 2, 9, False, True),
        ("fine_tune_after_block=-1..4", -1, 4, False, True),
        ("warmup_epochs=0..10", 0.0, 10.0, False, False),
    ],
)
def test_ranges(text: str, low: float, high: float, log: bool, whole: bool) -> None:
    found = parse_dimension(text)
    assert (found.low, found.high, found.log, found.whole) == (low, high, log, whole)
    assert found.count == (high - low + 1 if whole else None)
    assert {type(end) for end in (found.low, found.high)} == {int if whole else float}
    assert parse_dimension(str(found)) == found


@pytest.mark.parametrize(
    "text, choices",
    [
        ("temperature=0.1,0.2,1", (0.1, 0.2, 1.0)),
        ("resnet_depth=18, 50", (18, 50)),
        ("use_blur=true,False", (True, False)),
        ("cache_dataset=false,true,disk", (False, True, "disk")),
        ("optimizer=lars,adam", ("lars", "adam")),
        ("augmentations=crop,flip|crop,flip,color", ("crop,flip", "crop,flip,color")),
        ("encoder=mlp:16|mlp:32,16", ("mlp:16", "mlp:32,16")),
        ("checkpoint=../a,../b", ("../a", "../b")),  # .. in a path is no range
    ],
)
def test_lists(text: str, choices: tuple[object, ...]) -> None:
    found = parse_dimension(text)
    assert found.choices == choices and found.count == len(choices)
    assert [type(value) for value in found.choices] == [type(value) for value in choices]
    assert parse_dimension(str(found)) == found


@pytest.mark.parametrize(
    "text, expected",
    [
        ("learning_rat=1,2", "Did you mean learning_rate?"),
        ("learning_rate", "SETTING=A..B"),
        ("learning_rate=", "SETTING=A..B"),
        ("learning_rate=1..0.5", "a smaller number before the .."),
        ("learning_rate=0..1:log", "above 0"),
        ("learning_rate=0.1..1:exp", "A..B:log"),
        ("learning_rate=-1..1", "learning_rate >= 0; received: -1.0"),
        ("learning_rate=0.1..inf", "finite"),
        ("learning_rate=..1", "numbers for learning_rate"),
        ("momentum=0.5..1", "< 1; received: 1.0"),
        ("seed=1.5,2", "whole numbers for seed"),
        ("seed=1", "For one, pass --seed=1"),
        ("seed=1,1", "once"),
        ("seed=1,,2", "received: ''"),
        ("use_blur=yes,no", "true or false"),
        ("cache_dataset=true,disc", "one of False, True, memory, disk; received: 'disc'"),
        ("resnet_depth=18..50", "18,34,50,101"),
        ("optimizer=lars,sgd", "one of lars, momentum, adam, lamb"),
        ("model_dir=a,b", "may differ in"),
        ("eval_split=a,b", "may differ in"),
    ],
)
def test_wrong_ones(text: str, expected: str) -> None:
    with pytest.raises(UserError, match="Expected") as caught:
        parse_dimension(text)
    assert expected in str(caught.value)


def test_the_order_of_a_space_means_nothing_and_each_setting_stands_once() -> None:
    texts = ["temperature=0.1,0.2", "seed=0..2"]
    assert parse_space(texts) == parse_space(texts[::-1])
    with pytest.raises(UserError, match="seed in several"):
        parse_space(["seed=0..2", "seed=4,5"])


def test_combinations_are_the_product() -> None:
    space = parse_space(["temperature=0.1,0.2", "seed=3..5", "use_blur=true,false"])
    found = [tuple(combination(space, index).values()) for index in range(12)]
    assert combinations(space) == 12
    assert found == list(itertools.product([3, 4, 5], [0.1, 0.2], [True, False]))
    assert combinations(parse_space(["learning_rate=0.1..1"])) is None


def test_corners_are_listed_values_and_ends() -> None:
    space = parse_space(["learning_rate=0.1..1:log", "seed=3..9", "temperature=0.1,0.2"])
    found = [tuple(corner.values()) for corner in corners(space)]
    assert found == list(itertools.product([0.1, 1.0], [3, 9], [0.1, 0.2]))
