"""Who writes, what a run leaves behind in its process, and how it ends where numbers are none."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.checkpoints.store import CheckpointStore
from simclr_tf.config import Config
from simclr_tf.devices.process_state import isolated
from simclr_tf.devices.quiet import quiet_libraries
from simclr_tf.errors import NotFiniteError, UserError
from simclr_tf.evaluation.collected import FeatureCollection
from simclr_tf.evaluation.probes import comparison_table
from simclr_tf.files.atomic_file import new_file
from simclr_tf.files.json_files import write_json
from simclr_tf.files.writers import Writer
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.run import main
from simclr_tf.runs.building import make_model
from simclr_tf.runs.callbacks import Summaries
from simclr_tf.runs.lost_steps import StopOnNotFinite
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.finite import failure
from simclr_tf.training.simclr import SimCLR
from tf_hub_export.atomic import new_folder

TINY = [
    "--dataset=mnist_5k", "--train_split=train[:32]", "--eval_split=test[:16]", "--image_size=8",
    "--encoder=mlp:16", "--proj_out_dim=8", "--num_proj_layers=2", "--augmentations=crop",
    "--train_batch_size=16", "--eval_batch_size=16", "--train_steps=2", "--warmup_epochs=0",
    "--checkpoint_steps=1", "--eval_baselines=never",
]  # fmt: skip


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("model/")]
    return {name: reader.get_tensor(name) for name in names}


def cluster(task_type: str | None, task_id: int | None, **jobs: list[str]) -> Any:
    spec = tf.train.ClusterSpec(jobs)
    resolver = SimpleNamespace(task_type=task_type, task_id=task_id, cluster_spec=lambda: spec)
    return SimpleNamespace(cluster_resolver=resolver)


def test_the_chief_alone_writes(tmp_path: Path, capsys: Any) -> None:
    two = {"worker": ["a:1", "b:1"]}
    assert Writer.of(tf.distribute.get_strategy()).is_chief
    assert Writer.of(cluster("worker", 0, **two)).is_chief
    assert Writer.of(cluster("chief", 0, chief=["c:1"], **two)).is_chief
    other = Writer.of(cluster("worker", 1, **two))
    assert not other.is_chief
    assert not Writer.of(cluster("worker", 0, chief=["c:1"], **two)).is_chief
    assert not Writer.of(cluster("evaluator", 0, **two)).is_chief

    model = Classifier(make_encoder("mlp:4", image_size=4), 2)
    model.compile(keras.optimizers.SGD(0.1))
    store = CheckpointStore(model, model.optimizer, str(tmp_path), writer=other)
    store.save(0)
    with new_folder(str(tmp_path / "export"), is_chief=other.is_chief) as scratch:
        Path(scratch, "saved_model.pb").write_text("")
    summaries = Summaries(0, str(tmp_path), lambda step: True, writer=other)
    summaries.set_model(model)
    summaries.on_step(1, {"loss": np.float32(1)})
    other.say("not printed")
    assert list(tmp_path.iterdir()) == [] and not Path(scratch).exists()
    assert capsys.readouterr().out == ""


def test_partial_files_are_each_processs_own_and_go_away(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    with new_file(path) as first, new_file(path) as second:
        assert first != second and first.endswith(".png")
        Path(first).write_text("1")
        Path(second).write_text("2")
    with pytest.raises(RuntimeError), new_file(path) as third:
        Path(third).write_text("3")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert Path(path).read_text() == "1"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_holds_no_nan(tmp_path: Path, bad: float) -> None:
    with pytest.raises(UserError, match=r"at rows\[1\].x"):
        write_json(str(tmp_path / "a.json"), {"rows": [1.0, {"x": bad}]})
    assert list(tmp_path.iterdir()) == []


def test_a_block_leaves_seed_and_policy_as_they_were() -> None:
    keras.utils.set_random_seed(3)

    def draws() -> list[float]:
        layer = keras.layers.Dense(2)
        layer.build((None, 2))
        numbers = [random.random(), np.random.rand(), float(tf.random.uniform([]))]
        return [*numbers, *np.asarray(layer.get_weights()[0]).ravel()]

    expected = draws()
    keras.utils.set_random_seed(3)
    before = keras.mixed_precision.global_policy().name
    with pytest.raises(RuntimeError), isolated("mixed_bfloat16", seed=7):
        draws()
        raise RuntimeError
    assert keras.mixed_precision.global_policy().name == before
    assert draws() == expected


@pytest.mark.second_lane
def test_runs_in_one_process_are_alike(tmp_path: Path) -> None:
    keras.mixed_precision.set_global_policy("float32")
    for name in ("first", "second", "third"):
        given = ["--mixed_precision=bfloat16"] if name == "second" else []
        path = f"--model_dir={tmp_path / name}"
        assert main(["simclr-tf", *TINY, "--mode=train", path, *given]) == 0
    first, third = weights_of(tmp_path / "first"), weights_of(tmp_path / "third")
    assert first and all(np.array_equal(first[name], third[name]) for name in first)


def test_a_run_stops_where_its_loss_is_nan(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    more = [f"--model_dir={folder}", "--mode=train_then_eval", "--keep_checkpoint_max=1"]
    given = ["--learning_rate=1e30", "--train_steps=9"]
    assert main(["simclr-tf", *TINY, *more, *given]) == 3
    err = capsys.readouterr().err
    line = err.splitlines()[-1]
    assert "Stopped at step" in line and "ckpt-1" in line, err
    assert "a longer --warmup_epochs, or a higher --temperature." in line, err
    assert "Traceback" not in err
    assert (folder / "ckpt-1.index").exists(), "the healthy one went"
    assert all(np.isfinite(value).all() for value in weights_of(folder).values())
    assert not (folder / "result.json").exists() and not (folder / "saved_model").exists()
    json.loads((folder / "flags.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.one_lane
def test_a_run_that_skips_ends_where_it_can_only_skip(tmp_path: Path, capsys: Any) -> None:
    given = [f"--model_dir={tmp_path}", "--learning_rate=1e30", "--train_steps=20", "--on_nan=skip"]
    assert main(["simclr-tf", *TINY, "--mode=train", *given]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "loss or gradient is NaN or infinite, 10 steps in a row" in line


@pytest.mark.parametrize(
    ("train_mode", "policy", "advice"),
    [
        ("pretrain", "float32", ", or a higher --temperature."),
        ("pretrain", "mixed_bfloat16", ", a higher --temperature, or --mixed_precision=none."),
        ("finetune", "float32", " or a longer --warmup_epochs."),
        ("finetune", "mixed_float16", ", or --mixed_precision=none."),
        ("distill", "float32", " or a longer --warmup_epochs."),
    ],
)
def test_advice_names_settings_in_use_alone(train_mode: str, policy: str, advice: str) -> None:
    with isolated(policy):
        encoder = make_encoder("mlp:4", image_size=4)
        if train_mode == "pretrain":
            model: Any = SimCLR(encoder, ProjectionHead(mode="none"))
        else:
            model = {"finetune": Classifier, "distill": Distiller}[train_mode](encoder, 2)
    line = str(failure(model, "the loss is nan", 3, 0.5, None))
    assert line.endswith(advice), line
    assert ("--temperature" in line) == (train_mode == "pretrain")
    assert ("--mixed_precision" in line) == (policy != "float32")


NAN = float("nan")


@pytest.mark.parametrize(
    ("scaled", "losses", "stops_at"),
    [
        (False, [1.0, NAN], 2),
        (True, [NAN] * 9 + [1.0], None),
        (True, [NAN] * 30, 10),
        (True, [1.0, 1.0, NAN], 3),  # the last of the run: there is no later one to recover in
        (True, [NAN, NAN], 2),
    ],
)
def test_float16_may_skip_bad_losses_but_not_the_last(
    scaled: bool, losses: list[float], stops_at: int | None
) -> None:
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    optimizer: Any = keras.optimizers.SGD(0.1)
    model.compile(keras.mixed_precision.LossScaleOptimizer(optimizer) if scaled else optimizer)
    stop = StopOnNotFinite(0, len(losses), lambda: "ckpt-0")
    model.skip_non_finite = False
    stop.set_model(model)
    for step, loss in enumerate(losses, 1):
        if step == stops_at:
            with pytest.raises(NotFiniteError, match=f"step {step} .*loss is nan.*ckpt-0"):
                stop.on_train_batch_end(0, {"loss": loss, "learning_rate": 0.1})
            return
        stop.on_train_batch_end(0, {"loss": loss, "learning_rate": 0.1})


def test_what_is_not_finite_stays_out_of_the_tables(tmp_path: Path) -> None:
    summaries = Summaries(0, str(tmp_path), lambda step: True)
    summaries.set_model(keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]))
    for loss in (NAN, 0.5, float("inf")):
        summaries.on_train_batch_end(0, {"contrast_loss": loss, "learning_rate": 0.25})
    summaries.on_train_end()
    lines = (tmp_path / "metrics.csv").read_text().split()
    assert lines == ["step,contrast_loss,learning_rate", "1,,0.25", "2,0.5,0.25", "3,,0.25"]


@pytest.mark.second_lane
def test_steps_that_move_nothing_are_said(tmp_path: Path, capsys: Any) -> None:
    """Finite losses whose gradients overflow float16: the run ends well, and says so."""
    given = [f"--model_dir={tmp_path}", "--mode=train", "--train_steps=3", "--temperature=1e-9"]
    assert main(["simclr-tf", *TINY, "--mixed_precision=float16", *given]) == 0
    assert "Warning: 3 of 3 steps moved no weight" in capsys.readouterr().out
    given[0] = f"--model_dir={tmp_path / 'float32'}"
    assert main(["simclr-tf", *TINY, *given]) == 0
    assert "moved no weight" not in capsys.readouterr().out


def test_the_online_head_stands_in_the_comparison_without_its_row() -> None:
    whole = {"raw pixels": {"logistic": 0.5, "nearest": 0.25}, "this run": {"l": 1.0, "n": 1.0}}
    table = comparison_table(whole, "this run", 0.875)
    assert table.splitlines()[-1].split() == ["this", "run", "0.875", "1.000", "1.000"]
    del whole["this run"]
    last, row = comparison_table(whole, "this run", 0.875).splitlines()[-2:]
    assert last.split() == ["raw", "pixels", "-", "0.500", "0.250"]
    assert row.split() == ["this", "run", "0.875", "-", "-"]


def test_nan_checkpoints_are_neither_written_nor_resumed_from(tmp_path: Path) -> None:
    model = Classifier(make_encoder("mlp:4", image_size=4), 2)
    model.compile(keras.optimizers.SGD(0.1))
    store = CheckpointStore(model, model.optimizer, str(tmp_path))
    healthy = store.save(0)
    kernel = model.supervised_head.kernel
    kernel.assign(tf.fill(kernel.shape, np.nan))
    with pytest.raises(NotFiniteError, match="supervised_head.*ckpt-0"):
        store.save(0)
    store._step.assign(1)
    sick = store._manager.save(checkpoint_number=1)  # as an earlier version wrote it
    assert store.newest_healthy() == (healthy, {sick: "NaN or infinity"})
    with pytest.raises(UserError, match="finite weights"):
        load_weights(model, sick)


@pytest.mark.parametrize("kind", ["simclr", "classifier"])
def test_keras_callbacks_find_the_loss(kind: str) -> None:
    encoder = make_encoder("mlp:4", image_size=4)
    images = np.random.RandomState(0).rand(8, 4, 4, 3).astype("float32")
    labels = np.arange(8) % 2
    if kind == "simclr":
        head = ProjectionHead(out_dim=4, num_layers=2)
        model: Any = SimCLR(encoder, head, augment=lambda x: x, num_classes=2)
    else:
        model = Classifier(encoder, 2)
    model.compile(keras.optimizers.SGD(0.1))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    history = model.fit(
        data, validation_data=data, verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(), keras.callbacks.TerminateOnNaN()],
    )  # fmt: skip
    assert np.isfinite(history.history["val_loss"]).all()
    assert history.history["loss"] == history.history["total_loss"]
    kernel = model.supervised_head.kernel
    kernel.assign(tf.fill(kernel.shape, np.nan))
    stop = keras.callbacks.TerminateOnNaN()
    broken = model.fit(data.repeat(9), verbose=0, epochs=3, callbacks=[stop])
    assert len(broken.epoch) == 1


def test_comparison_keeps_within_its_bytes() -> None:
    images = np.zeros((32, 8, 8, 3), np.float32)
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(32) % 2)).batch(8)
    kinds = {"pixels": lambda x: x, "small": lambda x: x[:, 0, :2, 0]}
    whole = FeatureCollection(kinds)
    features, _ = whole.read(data)
    assert features["pixels"].shape == (32, 8, 8, 1), "grey is kept once"
    limited = FeatureCollection(kinds, max_bytes=4000)
    features, _ = limited.read(data)
    assert list(features) == ["small"] and "pixels" in limited.notes[0]
    with pytest.raises(ValueError, match="allowed"):
        FeatureCollection(kinds, max_bytes=100).read(data)


def test_library_warnings_stay_away_from_users() -> None:
    def warn_from(file: str) -> None:
        code = compile("import warnings; warnings.warn('look')", file, "exec")
        exec(code, {"__name__": "elsewhere"})

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        shown = warnings.showwarning
        with quiet_libraries():
            warn_from(np.__file__)
            assert not seen
            warn_from("/home/somebody/my_images.py")
        assert warnings.showwarning is shown
        warn_from(np.__file__)
    assert len(seen) == 2


def test_a_skipped_last_step_ends_no_run() -> None:
    """Its weights are those of the step before; ten in a row end it, at the last step too."""
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1))
    model.skip_non_finite, model.skipped_steps = True, 0
    stop = StopOnNotFinite(0, 12, lambda: "ckpt-0")
    stop.set_model(model)
    stop.on_train_begin()
    for step in range(1, 13):
        skipped = float(step == 12)
        stop.on_train_batch_end(0, {"loss": 1.0, "skipped_steps": skipped, "learning_rate": 0.1})
    assert "1 step was skipped" in str(stop.line())


def test_settings_of_views_and_gradients_reach_the_model() -> None:
    config = Config(
        dataset="mnist_5k", model_dir="run", encoder="mlp:4", image_size=8, gray_probability=0.1,
        clip_gradients=0.5, on_nan="skip", proj_hidden_dim=6, num_proj_layers=2,
    )  # fmt: skip
    model = make_model(config, num_classes=2, num_examples=64, train_steps=4)
    assert model.augment.options["gray_probability"] == 0.1
    assert (model.clip_norm, model.skip_non_finite) == (0.5, True)
    assert model.projection_head.dense_layers[0].units == 6
