"""The original release's files as our models: formats, architectures, outputs, misfits."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN_DIR, deviation
from quick_networks import drawn_once
from release_files import PREFIXES, write_release_file
from tensorflow import keras
from tiny_runs import leave_out_exports

from simclr_tf import import_release
from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.checkpoints.reader import StoredWeights
from simclr_tf.checkpoints.release import load_release_weights
from simclr_tf.checkpoints.store import save_weights
from simclr_tf.checkpoints.variables import model_variables
from simclr_tf.compat import KERAS_3
from simclr_tf.errors import UserError
from simclr_tf.models import architecture
from simclr_tf.models.architecture import recognise, tf1_names
from simclr_tf.models.endpoints import endpoint_model
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.recipe import Recipe
from simclr_tf.models.resnet import BLOCKS_PER_GROUP, ResNet
from simclr_tf.run import main as run
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

__all__ = ["drawn_once"]  # a fixture

pytestmark = pytest.mark.usefixtures("drawn_once")
# SimCLRv2's 13 sizes with the parameters (millions) of its table 1, and SimCLRv1's three.
V2_SIZES = {
    (50, 1, False): 24, (50, 1, True): 35, (50, 2, False): 94, (50, 2, True): 140,
    (101, 1, False): 43, (101, 1, True): 65, (101, 2, False): 170, (101, 2, True): 257,
    (152, 1, False): 58, (152, 1, True): 89, (152, 2, False): 233, (152, 2, True): 354,
    (152, 3, True): 795,
}  # fmt: skip
V1_SIZES = {(50, 1, False): 24, (50, 2, False): 94, (50, 4, False): 375}
MANIFESTS = sorted((GOLDEN_DIR / "manifests").glob("*.json"))
Shapes = dict[str, tuple[int, ...]]


def manifest(name: str) -> Shapes:
    rows = json.loads((GOLDEN_DIR / "manifests" / f"{name}.json").read_text())
    return {key.removeprefix("model/"): tuple(shape) for key, shape in rows}


def size_of(name: str) -> tuple[int, int, bool]:
    """`tf2_r152_w3_sk0.0625` is ResNet-152, three times as wide, with selective kernels."""
    _, depth, width, *rest = name.split("_")
    return int(depth[1:]), int(width[1:]), any(part in ("sk", "sk0.0625") for part in rest)


TF2 = [path.stem for path in MANIFESTS if path.stem.startswith("tf2")]
TF1 = [path.stem for path in MANIFESTS if path.stem.startswith("tf1")]
DEEP = ("_r101", "_r152", "_r200")
# Of the others two blocks a group are built, which the rest repeat; `EVERY_SIZE=1` builds all.
EVERY_SIZE = bool(os.environ.get("EVERY_SIZE"))
WHOLE = ("tf2_r18_w1_cifar", "tf2_r34_w1_cifar", "tf2_r50_w1_sk0")


def on_lanes(name: str) -> Any:
    """Deep networks repeat the blocks of those of 50 layers: the lanes share sizes out."""
    if any(depth in name for depth in DEEP):
        return pytest.param(name, marks=[pytest.mark.slow, pytest.mark.one_lane])
    wide = any(width in name for width in ("_w2", "_w4"))
    return pytest.param(name, marks=pytest.mark.second_lane) if wide else name


@pytest.mark.one_lane
@pytest.mark.parametrize("name", TF2)
def test_network_of_a_tf2_checkpoint_is_recognised(name: str) -> None:
    """From names and shapes alone."""
    shapes = manifest(name)
    held = recognise(shapes)
    assert held is not None
    depth, width, has_sk = size_of(name)
    assert (held.resnet_depth, held.width_multiplier) == (depth, width)
    assert held.sk_ratio == (0.0625 if has_sk else 0)
    assert held.se_ratio == (0.25 if "_se_" in name else 0)
    assert held.image_size == (32 if name.endswith("cifar") else 224)
    assert (held.proj_head_mode, held.num_proj_layers) == ("nonlinear", 3)
    assert held.proj_out_dim == 128 and held.num_classes == shapes[
        "supervised_head/linear_layer/dense/bias"
    ][0]  # fmt: skip


def split_block(path: str) -> tuple[str, int, str]:
    """`resnet_model/block_groups/2/layers/22/conv2d/kernel`: group `2`, block 22, and the rest."""
    found = re.match(r"resnet_model/block_groups/(\d)/layers/(\d+)/(.*)", path)
    return (found[1], int(found[2]), found[3]) if found else ("", 0, path)


def without_repeats(shapes: Shapes, depth: int) -> Shapes:
    """Two blocks a group, where the others are like the second and as many as the depth says."""
    groups: dict[str, dict[int, Shapes]] = {}
    for path, shape in shapes.items():
        group, block, rest = split_block(path)
        if group:
            groups.setdefault(group, {}).setdefault(block, {})[rest] = shape
    assert [sorted(groups[group]) for group in "0123"] == [
        [*range(count)] for count in BLOCKS_PER_GROUP[depth]
    ]
    for blocks in groups.values():
        assert all(held == blocks[1] for block, held in blocks.items() if block)
    return {path: shape for path, shape in shapes.items() if split_block(path)[1] < 2}


@functools.lru_cache
def encoder_of(recipe: Recipe, whole: bool) -> ResNet:
    # In a graph nothing is allocated: the largest has 795 million weights.
    with tf.Graph().as_default(), pytest.MonkeyPatch.context() as patch:
        if not whole:
            patch.setitem(BLOCKS_PER_GROUP, recipe.resnet_depth, (2, 2, 2, 2))
        return recipe.make_encoder()


@pytest.mark.parametrize("name", map(on_lanes, TF2))
def test_our_model_has_each_variable_of_a_tf2_checkpoint(name: str) -> None:
    """And no other."""
    shapes = manifest(name)
    held = recognise(shapes)
    assert held is not None
    plain = dataclasses.replace(held, num_classes=None)  # of which an encoder knows nothing
    whole = name in WHOLE or EVERY_SIZE
    if not whole:
        shapes = without_repeats(shapes, held.resnet_depth)
        plain = dataclasses.replace(plain, resnet_depth=min(held.resnet_depth, 50))
    encoder = encoder_of(plain, whole)
    model = SimCLR(encoder, held.make_projection_head(), num_classes=held.num_classes)
    ours = {path: tuple(v.shape) for path, v in model_variables(model).items()}
    assert ours == shapes


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "name",
    [name for name in TF1 if EVERY_SIZE or "_r152" not in name],  # whose layers take long to name
)
def test_manifest_of_a_tf1_checkpoint(name: str) -> None:
    """Each variable is mapped once, to the path that a TF2 checkpoint of that size has it under."""
    shapes = manifest(name)
    names = tf1_names(shapes)
    assert len(set(names.values())) == len(names)
    assert set(shapes) - set(names.values()) == {"global_step"}
    mapped = {path: shapes[theirs] for path, theirs in names.items()}
    twin = name.replace("tf1", "tf2").replace("_224", "").replace("_sk0_32", "_cifar")
    expected = manifest(twin)  # some were recorded with a linear head of 10 classes, not 1,000
    heads = [path for path in mapped if path.startswith("supervised_head/")]
    assert [mapped.pop(path)[:-1] for path in heads] == [expected.pop(p)[:-1] for p in heads]
    assert len(heads) == 2 and mapped == expected


@pytest.mark.one_lane
def test_depth_of_the_largest_tf1_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float, bool]] = []
    monkeypatch.setattr(architecture, "_layer_paths", lambda *network: asked.append(network) or ())
    (name,) = (name for name in TF1 if "_r152" in name)
    tf1_names(manifest(name))
    assert asked == [(152, 0.0625, False)]


@pytest.mark.one_lane
def test_all_published_sizes_are_there() -> None:
    """Parameters of the trunk, moving statistics included, as the tables print them."""

    def millions(name: str) -> float:
        shapes = manifest(name)
        trunk = [s for n, s in shapes.items() if n.startswith(("resnet_model/", "base_model/"))]
        return sum(float(np.prod(shape)) for shape in trunk) / 1e6

    published = [name for name in TF2 if "_sk0" in name and "r200" not in name]
    counted = {size_of(name): millions(name) for name in published}
    assert set(counted) == set(V2_SIZES) | set(V1_SIZES)
    for size, expected in {**V2_SIZES, **V1_SIZES}.items():
        assert abs(counted[size] - expected) < 0.7, size
    assert {size_of(name) for name in TF1} <= {size_of(name) for name in TF2}


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory, golden: Callable[[str], dict[str, np.ndarray]]
) -> Callable[[str], str]:
    """`archive('tf1_checkpoint')` is a folder as the release wrote it."""
    folder = tmp_path_factory.mktemp("release")
    recorded = golden("release_files")
    for name in PREFIXES:
        write_release_file(name, folder / name, recorded)
    return lambda name: str(folder / name)


def all_outputs(model: SimCLR | Classifier, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every endpoint, feature maps as spatial means."""
    outputs = dict(endpoint_model(model.encoder)(images, training=False))
    hidden = model.projection_head.hidden_layers(outputs["final_avg_pool"], training=False)
    outputs |= {"proj_head_input": hidden[0], "proj_head_output": hidden[-1]}
    outputs["logits_sup"] = model.supervised_head(hidden[0])
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return {n: a.mean((1, 2)) if a.ndim == 4 else a for n, a in arrays.items()}


@pytest.mark.parametrize("name", PREFIXES)
def test_outputs_equal_the_release(archive: Any, golden: Any, name: str) -> None:
    recorded = golden(f"{name.split('_')[0]}_checkpoint_outputs")
    stored = StoredWeights(archive(name))
    assert stored.format == name.removeprefix("tf2_").removeprefix("training_")
    assert stored.step == {"tf1_checkpoint": 321, "tf2_training_checkpoint": 123}.get(name, 0)
    model = load_release_weights(None, archive(name))
    outputs = all_outputs(model, recorded.pop("images"))
    assert len(recorded) >= 3
    for endpoint, value in recorded.items():
        assert deviation(outputs[endpoint], value) < 1e-4, endpoint


@pytest.mark.parametrize("name", PREFIXES)
def test_the_network_is_recognised(archive: Any, name: str) -> None:
    stored = StoredWeights(archive(name))
    assert stored.recipe == Recipe(resnet_depth=18, image_size=32, num_classes=10)
    assert len(stored.shapes) == 121  # optimizer slots and counters are none of them


@pytest.fixture(scope="module")
def parts(drawn_once: None) -> tuple[ResNet, ProjectionHead]:
    """An encoder and a head like the archives', whose weights several models have in turn."""
    return ResNet(18, cifar_stem=True), ProjectionHead()


def forget(model: Any) -> Any:
    """All that a file is to bring is gone."""
    for variable in model_variables(model).values():
        variable.assign(tf.fill(variable.shape, 7.0))
    return model


def test_into_models_of_ones_own(archive: Any, parts: Any) -> None:
    path = archive("tf1_checkpoint")
    theirs = model_variables(load_release_weights(None, path))
    for kind in (SimCLR, Classifier):
        encoder, head = parts
        model = forget(kind(encoder, projection_head=head, num_classes=10))
        assert load_release_weights(model, path) is model
        for place, variable in model_variables(model).items():
            np.testing.assert_array_equal(np.asarray(variable), np.asarray(theirs[place]))


def test_a_fresh_classifier_is_asked_for(archive: Any, parts: Any) -> None:
    path = archive("tf2_saved_model")
    assert load_release_weights(None, path, num_classes=3).supervised_head.units == 3
    encoder, head = parts
    model = Classifier(encoder, 3, head)
    encoder.weights[0].assign(tf.zeros_like(encoder.weights[0]))
    start = np.asarray(model.supervised_head.kernel)
    with pytest.raises(UserError, match=r"supervised_head.*\(512, 10\) there, \(512, 3\) here"):
        load_release_weights(model, path)
    load_release_weights(model, path, num_classes=3)
    np.testing.assert_array_equal(np.asarray(model.supervised_head.kernel), start)
    assert np.abs(np.asarray(model.encoder.weights[0])).min() > 0.01  # two-valued: loaded
    with pytest.raises(UserError, match="num_classes"):
        load_release_weights(model, path, num_classes=7)


def test_misfits_are_listed_both_ways_and_change_nothing(archive: Any) -> None:
    path = archive("tf2_training_checkpoint")
    model = SimCLR(ResNet(34, cifar_stem=True), ProjectionHead(num_layers=2), num_classes=10)
    before = [np.asarray(v) for v in model_variables(model).values()]
    with pytest.raises(UserError) as caught:
        load_release_weights(model, path)
    message = str(caught.value)
    assert "missing in it: resnet_model/block_groups/0/layers/2/" in message
    assert "unused in it: _projection_head/linear_layers/1/bn_relu/bn/beta" in message
    assert "of another shape: _projection_head/linear_layers/1/" in message
    assert "resnet_depth=18" in message and "\n" not in message
    after = [np.asarray(v) for v in model_variables(model).values()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_file_without_projection_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the published SimCLRv1 models are."""
    monkeypatch.setitem(BLOCKS_PER_GROUP, 18, (1, 1, 1, 1))
    written = SimCLR(ResNet(18, 0.125), ProjectionHead("none"), num_classes=4)
    save_weights(written, str(tmp_path), 7)
    loaded = load_release_weights(None, str(tmp_path))
    assert loaded.projection_head.mode == "none" and loaded.supervised_head.units == 4
    model = SimCLR(ResNet(18, 0.125), ProjectionHead(out_dim=8), num_classes=4)
    with pytest.raises(UserError, match="missing in it: _projection_head/"):
        load_release_weights(model, str(tmp_path))
    load_release_weights(model, str(tmp_path), variable_schema="(?!head_contrastive)")
    np.testing.assert_array_equal(
        np.asarray(model.encoder.weights[0]), np.asarray(written.encoder.weights[0])
    )


def test_other_networks_need_a_model(tmp_path: Path) -> None:
    tf.train.Checkpoint(model=tf.train.Checkpoint(x=tf.Variable(1.0))).write(str(tmp_path / "c-1"))
    with pytest.raises(UserError, match="received: 1 variables of another network"):
        load_release_weights(None, str(tmp_path / "c-1"))


@pytest.mark.one_lane
def test_tf1_checkpoint_of_another_network() -> None:
    shapes = {"base_model/conv2d/kernel": (3, 3, 3, 8), "base_model/conv2d_1/kernel": (1, 1, 8, 8)}
    with pytest.raises(UserError, match="2 convolutions"):
        tf1_names(shapes)


def test_checkpoint_flag_takes_all_formats(archive: Any, parts: Any) -> None:
    """What `--checkpoint=` calls: the heads that fit, the rest reported."""
    encoder, head = parts
    model = Classifier(encoder, 4, head)
    for name in PREFIXES:
        report = load_weights(model, archive(name))
        assert report.encoder_fits() and len(report.loaded) == 119
        assert len(report.mismatched) == 2 and not report.missing and not report.unused


# A checkpoint with a step on one lane, a SavedModel, which has none, on the other.
IMPORTED, STEP = ("tf2_saved_model", 1) if KERAS_3 else ("tf1_checkpoint", 321)


def test_command(
    archive: Any, golden: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes what `--checkpoint` takes and a SavedModel; both compute what was recorded."""
    output = tmp_path / "made" / "imported"
    argv = ["import_release", archive(IMPORTED), f"--output={output}"]
    assert import_release.main(argv) == 0
    said = capsys.readouterr().out
    assert f"121 variables ({IMPORTED.removeprefix('tf2_')})" in said
    assert "--resnet_depth=18" in said
    assert sorted(p.name for p in output.iterdir()) == [
        "checkpoint", f"ckpt-{STEP}.data-00000-of-00001", f"ckpt-{STEP}.index", "saved_model",
    ]  # fmt: skip
    recorded = golden(f"{IMPORTED.split('_')[0]}_checkpoint_outputs")
    module = tf.saved_model.load(str(output / "saved_model" / str(STEP)))
    outputs = module(recorded["images"], trainable=False)
    loaded = all_outputs(load_release_weights(None, str(output)), recorded["images"])
    for name in ("final_avg_pool", "proj_head_output", "logits_sup"):
        assert deviation(outputs[name], recorded[name]) < 1e-4
        assert deviation(loaded[name], recorded[name]) < 1e-4
    assert len(module.trainable_variables_list) == 73

    assert import_release.main(argv) == 2
    assert "Expected --output to be a path that does not exist" in capsys.readouterr().err
    if KERAS_3:
        check_the_command_that_it_prints(said, output, monkeypatch, capsys)


def check_the_command_that_it_prints(
    said: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It evaluates."""
    monkeypatch.chdir(output.parent)
    line = said.split("Evaluate: simclr-tf ")[1]
    arguments = shlex.split(line.replace("DATA_SET", "mnist_5k").replace("SPLIT", "test"))
    # The import has exported the network: here a name is enough.
    leave_out_exports(monkeypatch)
    policy = keras.mixed_precision.global_policy()
    small = ["--eval_steps=1", "--eval_batch_size=16", "--eval_baselines=never"]
    code = run(["simclr-tf", *arguments, *small])
    keras.mixed_precision.set_global_policy(policy)
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "Step 1 is the last of 1: evaluation complete." in said.out
    results = json.loads((output / "result.json").read_text())
    assert 0 <= results["eval/label_top_1_accuracy"] <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "The following arguments are required: path, --output"),
        (["nothing/there", "--output=new"], "Expected a checkpoint at nothing/there"),
        (["a", "--output=new", "--num_classes=0"], "Expected --num_classes of at least 1"),
        (["a", "--output=new", "--classes=3"], "Unrecognized arguments: --classes=3"),
    ],
    ids=str,
)
def test_wrong_commands(
    tmp_path: Path, monkeypatch: Any, capsys: Any, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert import_release.main(["import_release", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--version"], 0), ([], 2)], ids=str
)
def test_answers_without_tensorflow(arguments: list[str], code: int) -> None:
    program = (
        "import sys; from simclr_tf import import_release\n"
        "try:\n    code = import_release.main()\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "assert 'tensorflow' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
    assert done.returncode == code, done.stderr
