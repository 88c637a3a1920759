"""Every setting of a run, once: name, type, default, bounds, help.

The command line, `flags.json`, the checks and the rule that two runs never mix all read this one
table. Names and defaults are the original release's; README.md lists what differs on purpose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from simclr_tf.images import transparency
from simclr_tf.images.augmentations import AUGMENTATIONS, SIMCLR
from simclr_tf.loggers.names import LOGGERS, NONE
from simclr_tf.losses.names import NEGATIVES, NT_XENT, OPTIONS, PENALTIES, PRIORS, SIMILARITIES

RESNET_DEPTHS = (18, 34, 50, 101, 152, 200)
CACHES: tuple[bool | str, ...] = (False, True, "memory", "disk")
ONLINE_FIGURES = ("knn_top_1", "effective_rank", "spread", "uniformity")

Value: TypeAlias = bool | int | float | str | None
"""What a setting may be."""
_T = TypeVar("_T", bound=Value)


def _flag(
    default: _T,
    topic: str,
    help: str,
    *,
    run: bool = False,
    choices: Sequence[_T] | None = None,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    before: _T | None = None,
) -> _T:
    """Returns one row of the table.

    Args:
      default: the value where none is given.
      topic: its heading in `--help`.
      help: what it does, its unit, and its special values.
      run: True if it may change when a run is resumed (length, evaluation, checkpoints, devices);
        False if it belongs to the run's identity (model, data, views, loss, batch, optimizer).
      choices: the values allowed.
      above: exclusive lower bound.
      at_least: inclusive lower bound.
      below: exclusive upper bound.
      at_most: inclusive upper bound.
      before: what runs did before the setting existed; None: the same as the default.
    """
    bounds = {">": above, ">=": at_least, "<": below, "<=": at_most}
    metadata = {
        "topic": topic,
        "help": help,
        "group": "run" if run else "identity",
        "choices": choices,
        "before": default if before is None else before,
        "bounds": {sign: bound for sign, bound in bounds.items() if bound is not None},
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The table: one field per setting. `Config` is built on it.

    Source: the flags of the TF2 release, two flags that the TF1 release's documentation uses
    (`variable_schema`, `train_summary_steps`), and ours.
    """

    # What to do.
    mode: str = _flag(
        "train", "Run", "Train, evaluate each new checkpoint of model_dir, or train then evaluate.",
        run=True, choices=("train", "eval", "train_then_eval"),
    )  # fmt: skip
    train_mode: str = _flag(
        "pretrain", "Run", "Contrastive pretraining, supervised fine-tuning, or distillation.",
        choices=("pretrain", "finetune", "distill"),
    )  # fmt: skip
    model_dir: str | None = _flag(
        None, "Run", "Folder for checkpoints, results and exports. None: a fresh one is made.",
        run=True,
    )  # fmt: skip
    dry_run: bool = _flag(
        False, "Run", "Check everything, build the model, measure a few steps and print what the "
        "run would take: memory, bytes between replicas, time. Nothing is written.", run=True,
    )  # fmt: skip
    seed: int = _flag(
        0, "Run", "Seed of every random draw: weights, order, views.", at_least=0, below=2**31
    )
    train_batch_size: int = _flag(512, "Run", "Images per step, over all replicas.", at_least=1)
    train_epochs: int = _flag(100, "Run", "Passes over the training split.", run=True, at_least=0)
    train_steps: int = _flag(
        0, "Run", "Steps to train for; overrides train_epochs. 0: use train_epochs.",
        run=True, at_least=0,
    )  # fmt: skip
    train_summary_steps: int = _flag(
        0, "Run", "Steps between written summaries. 0: only at checkpoints.", run=True, at_least=0
    )
    loggers: str = _flag(
        "tensorboard", "Run", "Where settings, curves and results are logged, by name, from: "
        f"{', '.join(LOGGERS)}; or {NONE}. Tables and results in model_dir are written anyway.",
        run=True,
    )  # fmt: skip

    dataset: str | None = _flag(
        None, "Data", "mnist_5k (built in), a folder of images, folders and files separated by "
        "commas, a list of them (.txt), a table of paths and labels (.csv, .tsv, .parquet), or a "
        "TFDS name such as cifar10 or imagenet2012_subset/1pct. None, without preset or flagfile: "
        "the quickstart preset.",
    )  # fmt: skip
    data_dir: str | None = _flag(
        None, "Data", "Where prepared TFDS data are kept, or the folder of the relative paths of a "
        "list or table (None: its own).", run=True,
    )  # fmt: skip
    image_column: str | None = _flag(
        None,
        "Data",
        "A table's column of paths. None: path, image, file, filename or filepath.",
    )
    label_column: str | None = _flag(
        None, "Data", "A table's column of labels. None: label, class or target, or no labels; "
        "none: no labels.",
    )  # fmt: skip
    train_split: str = _flag("train", "Data", "Split to train on.")
    eval_split: str = _flag("validation", "Data", "Split to evaluate on.", run=True)
    eval_fraction: float = _flag(
        0.1, "Data", "Share of a folder held out for evaluation where it has no split of its own.",
        above=0, below=1,
    )  # fmt: skip
    channels: int = _flag(
        3, "Data", "Channels of the images: 3, but for TIFF files that have others.", above=0
    )
    white_level: int = _flag(
        0, "Data", "The value of 16-bit TIFF files that becomes white, as do all above. 0: the "
        "largest that their bits can hold.", at_least=0, below=1 << 16,
    )  # fmt: skip
    image_size: int = _flag(224, "Data", "Side of the square image that the model sees.", above=0)
    cache_dataset: bool | str = _flag(
        False, "Data", "Decode each image once and keep it: in memory (alone, True or memory), or, "
        "where that is too small, on disk, in a file that later runs use too.", run=True,
        choices=CACHES,
    )  # fmt: skip
    cache_dir: str | None = _flag(
        None, "Data", "Folder of the files of --cache_dataset=disk. None: simclr_tf in "
        "$XDG_CACHE_HOME or ~/.cache.", run=True,
    )  # fmt: skip
    on_bad_image: str = _flag(
        "skip", "Data", "A file that is no image: name, count and skip it, or stop.",
        run=True, choices=("skip", "fail"),
    )  # fmt: skip

    transparent: str = _flag(
        transparency.DEFAULT, "Data", transparency.WHAT_IT_DOES,
        choices=transparency.TRANSPARENT, before=transparency.BEFORE,
    )  # fmt: skip

    augmentations: str = _flag(
        ",".join(SIMCLR), "Views", f"Which, by name, from: {', '.join(AUGMENTATIONS)}."
    )
    crop_area_min: float = _flag(
        0.08, "Views", "Smallest share of the image's area that a crop keeps. 0.08, the release's, "
        "means 0.1 in effect: its sampler rejects smaller crops. Other values are exact.",
        above=0, at_most=1,
    )  # fmt: skip
    color_jitter_strength: float = _flag(1.0, "Views", "Strength s of colour jitter.", at_least=0)
    gray_probability: float = _flag(
        0.2, "Views", "Share of views that colour jitter leaves grey.", at_least=0, at_most=1
    )
    brightness: str = _flag(
        "v2", "Views", "Jitter multiplies (v2) or adds (v1) brightness.", choices=("v2", "v1")
    )
    use_blur: bool = _flag(True, "Views", "False takes blur out of augmentations.")
    augment_on: str = _flag(
        "device", "Views", "Where views are drawn: with the model, or in the input pipeline.",
        run=True, choices=("device", "host"),
    )  # fmt: skip

    encoder: str = _flag(
        "resnet", "Model", "resnet, mlp, keras.applications.NAME, keras_cv.NAME or keras_hub.NAME."
    )
    mlp_layers: str | None = _flag(
        None, "Model", "Widths of --encoder=mlp, as 128,128: the same as --encoder=mlp:128,128. "
        "None: 512,512.",
    )  # fmt: skip
    encoder_weights: str | None = _flag(
        None, "Model", "Weights an encoder starts from: imagenet, or a file. None: random."
    )
    resnet_depth: int = _flag(50, "Model", "Depth of the ResNet.", choices=RESNET_DEPTHS)
    width_multiplier: float = _flag(1.0, "Model", "Width of the ResNet; 0.25 too.", above=0)
    resnet_stem: str = _flag(
        "auto", "Model", "First layers of the ResNet: imagenet (7 x 7 of stride 2, then pooling), "
        "cifar (3 x 3 of stride 1, four times the cost), or auto: cifar up to 32 pixels, as the "
        "release.", choices=("auto", "imagenet", "cifar"),
    )  # fmt: skip
    sk_ratio: float = _flag(
        0.0, "Model", "Ratio of selective kernels (v2: 0.0625). 0: none.", at_least=0
    )
    se_ratio: float = _flag(0.0, "Model", "Ratio of squeeze-excitation. 0: none.", at_least=0)
    proj_head_mode: str = _flag(
        "nonlinear", "Model", "Projection head.", choices=("none", "linear", "nonlinear")
    )
    proj_out_dim: int = _flag(128, "Model", "Width of the projection's output.", above=0)
    proj_hidden_dim: int = _flag(
        0, "Model", "Width of a nonlinear projection's other layers. 0: that of the features.",
        at_least=0,
    )  # fmt: skip
    num_proj_layers: int = _flag(3, "Model", "Layers of a nonlinear projection head.", above=0)
    ft_proj_selector: int = _flag(
        0, "Model", "Fine-tune from this layer of the projection head; 0 is its input.", at_least=0
    )
    batch_norm_decay: float = _flag(
        0.9, "Model", "Decay of batch norm's moving statistics.", at_least=0, below=1
    )
    global_bn: bool = _flag(True, "Model", "Batch norm sees the batches of all replicas.")
    mixed_precision: str = _flag(
        "none", "Model", "Compute type of the layers; auto: the fastest here, or that of the run "
        "in model_dir.", choices=("none", "bfloat16", "float16", "auto"),
    )  # fmt: skip

    micro_batch_size: int = _flag(
        0, "Model", "Images embedded at a time on each replica, for batches beyond its memory: "
        "gradient caching. Batch norm then sees a micro-batch. 0: the whole batch.", at_least=0,
    )  # fmt: skip

    loss: str = _flag(
        NT_XENT, "Loss", "Contrastive loss of pretraining; supcon learns from labels too.",
        choices=tuple(OPTIONS),
    )  # fmt: skip
    temperature: float = _flag(0.1, "Loss", "Temperature of the contrastive loss.", above=0)
    hidden_norm: bool = _flag(True, "Loss", "L2-normalise projections before the loss.")
    similarity: str = _flag(
        "cosine", "Loss", "Of two embeddings: cosine (their product, without hidden_norm), or "
        "euclidean: minus the squared distance.", choices=SIMILARITIES,
    )  # fmt: skip
    negatives: str = _flag(
        "all", "Loss", "Which negatives nt_logistic and margin_triplet count: all, or of each view "
        "the nearest that is farther than its positive.", choices=NEGATIVES,
    )  # fmt: skip
    margin: float = _flag(
        0.8, "Loss", "By how much margin_triplet wants negatives farther than positives.",
        at_least=0,
    )  # fmt: skip
    dclw_sigma: float = _flag(
        0.5, "Loss", "Width of dclw's weights; small values weigh hard pairs more.", above=0
    )
    positive_prior: float = _flag(
        0.1, "Loss", "Share of negatives that are of the image's own class, for debiased and hcl.",
        at_least=0, below=1,
    )  # fmt: skip
    hard_negative_beta: float = _flag(
        1.0, "Loss", "How much more hcl weighs near negatives. 0: as debiased.", at_least=0
    )
    prior: str = _flag(
        "sphere", "Loss", "Distribution that generalized draws embeddings to.", choices=PRIORS
    )
    prior_weight: float = _flag(
        1.0, "Loss", "Weight of that distribution beside the alignment of views.", above=0
    )
    memory_size: int = _flag(
        0, "Loss", "Embeddings of earlier batches, from a momentum encoder, that are further "
        "negatives: for small batches. Fewer than an epoch has images. 0: none.", at_least=0,
    )  # fmt: skip
    memory_momentum: float = _flag(
        0.999, "Loss", "Share of its weights that the momentum encoder keeps in a step.",
        at_least=0, below=1,
    )  # fmt: skip
    lineareval_while_pretraining: bool = _flag(
        True, "Loss", "Train a linear head behind a stop-gradient while pretraining."
    )
    lineareval_loss_weight: float = _flag(
        1.0, "Loss", "Weight of that head's loss: with lars and momentum, a factor on its own "
        "learning rate.", above=0,
    )  # fmt: skip
    lineareval_batch_norm: bool = _flag(
        False, "Loss", "That head reads features through batch norm without scale and offset: "
        "still linear, and learns sooner.",
    )  # fmt: skip

    optimizer: str = _flag(
        "lars", "Optimizer", "Update rule.", choices=("lars", "momentum", "adam", "lamb")
    )
    learning_rate: float = _flag(
        0.3, "Optimizer", "Base rate; see learning_rate_scaling.", at_least=0
    )
    learning_rate_scaling: str = _flag(
        "linear", "Optimizer", "Peak rate: base * batch / 256, or base * sqrt(batch).",
        choices=("linear", "sqrt"),
    )  # fmt: skip
    warmup_epochs: float = _flag(10, "Optimizer", "Epochs of linear warm-up.", at_least=0)
    weight_decay: float = _flag(1e-6, "Optimizer", "Weight decay.", at_least=0)
    clip_gradients: float = _flag(
        0.0, "Optimizer", "Largest norm of the whole gradient; a larger one is scaled down to it. "
        "0: any.", at_least=0,
    )  # fmt: skip
    weight_penalty: str = _flag(
        "l2", "Optimizer", "What weight_decay weighs: l2, squares in the loss (lars decays apart "
        "from it); smooth_l1, absolute values; decoupled: squares, apart from the gradient "
        "(momentum, adam).", choices=PENALTIES,
    )  # fmt: skip
    on_nan: str = _flag(
        "stop", "Optimizer", "Where loss or gradient is NaN or infinite, stop with exit code 3, or "
        "skip the step, which then changes nothing.", run=True, choices=("stop", "skip"),
    )  # fmt: skip
    momentum: float = _flag(0.9, "Optimizer", "Momentum.", at_least=0, below=1)

    checkpoint: str | None = _flag(
        None, "Fine-tuning", "Start from these weights: a run's folder, a checkpoint prefix or a "
        "SavedModel. Warm-starts pretraining too.",
    )  # fmt: skip
    variable_schema: str | None = _flag(
        None, "Fine-tuning", "Regular expression: restore only the variables whose names match."
    )
    zero_init_logits_layer: bool = _flag(
        False, "Fine-tuning", "Start the supervised head from zeros."
    )
    fine_tune_after_block: int = _flag(
        -1, "Fine-tuning", "Freeze up to this block: -1 trains all, 0 freezes the stem, 4 leaves "
        "only the heads.", at_least=-1, at_most=4,
    )  # fmt: skip
    label_fraction: float = _flag(
        1.0, "Fine-tuning", "Share of each class's labels that is used, at least one image each; "
        "model_dir/labelled_images.csv lists which. A list that is there already is used.",
        above=0, at_most=1,
    )  # fmt: skip
    label_seed: int = _flag(
        0, "Fine-tuning", "Draws which labels; apart from seed, so that teacher and student see "
        "the same.", at_least=0, below=2**31,
    )  # fmt: skip

    imbalance: float = _flag(
        1.0, "Data", "Make the training images a long tail of classes, the first with so many "
        "times the images of the last; label_seed draws which. 1: leave them.", at_least=1,
    )  # fmt: skip
    class_balance: str = _flag(
        "none", "Fine-tuning", "Classes of unequal size: sample images so that classes are as "
        "frequent, or weight the loss (of the linear head too, while pretraining).",
        choices=("none", "sample", "weight"),
    )  # fmt: skip
    label_smoothing: float = _flag(
        0.0, "Fine-tuning", "Share of the loss that is against uniform probabilities.",
        at_least=0, below=1,
    )  # fmt: skip
    head_dropout: float = _flag(
        0.0, "Fine-tuning", "Share of the features that the linear head does not see in a step.",
        at_least=0, below=1,
    )  # fmt: skip

    teacher: str | None = _flag(
        None, "Distillation", "SavedModel of a fine-tuned classifier whose logits the student "
        "learns, or the model_dir of its run.",
    )  # fmt: skip
    distill_temperature: float = _flag(
        1.0, "Distillation", "Softens the probabilities of teacher and student.", above=0
    )
    distill_labels_weight: float = _flag(
        0.0, "Distillation", "Weight of the labels beside the teacher: 1 - alpha of the paper. "
        "0: no labels are used.", at_least=0, at_most=1,
    )  # fmt: skip

    prune: float = _flag(
        0.0, "Pruning", "Share of each layer's weights that training sets to zero, those of "
        "smallest magnitude: kernels of convolutions and dense layers, not the first convolution, "
        "the linear head at most 0.8. 0: none.", at_least=0, below=1,
    )  # fmt: skip
    prune_begin: float = _flag(
        0.25, "Pruning", "Share of the steps that are taken before.", at_least=0, below=1
    )
    prune_end: float = _flag(
        0.75, "Pruning", "Share of the steps after which no more weights are pruned; the others "
        "train on.", above=0, at_most=1,
    )  # fmt: skip
    prune_interval: int = _flag(
        0, "Pruning", "Steps from one pruning to the next. 0: a hundredth of those between begin "
        "and end.", at_least=0,
    )  # fmt: skip

    eval_batch_size: int = _flag(
        256, "Evaluation", "Images per evaluation step.", run=True, at_least=1
    )
    eval_steps: int = _flag(
        0, "Evaluation", "Steps per evaluation. 0: the whole split.", run=True, at_least=0
    )
    eval_name: str | None = _flag(
        None, "Evaluation", "Name of this evaluation in the summaries.", run=True
    )
    eval_baselines: str = _flag(
        "auto", "Evaluation", "After pretraining, compare with the untrained encoder and with raw "
        "pixels (auto: on small data sets).", run=True, choices=("auto", "always", "never"),
    )  # fmt: skip
    online_eval: str = _flag(
        "auto", "Evaluation", "While training, measure nearest neighbours (on labelled images), "
        "rank and spread of the features at each checkpoint (auto: in pretraining, as long as it "
        "takes less than 3% of the time).", run=True, choices=("auto", "always", "never"),
    )  # fmt: skip
    online_eval_images: int = _flag(
        1000, "Evaluation", "Training images that the online evaluation draws.", run=True,
        at_least=20,
    )  # fmt: skip
    early_stopping: str = _flag(
        "none", "Evaluation", "Stop when this figure of the online evaluation no longer gains; "
        "what is evaluated and exported is the best checkpoint, kept in model_dir/best.",
        run=True, choices=("none", *ONLINE_FIGURES),
    )  # fmt: skip
    early_stopping_patience: int = _flag(
        5, "Evaluation", "Checkpoints without gain before early_stopping ends the run.", run=True,
        at_least=1,
    )  # fmt: skip

    checkpoint_epochs: int = _flag(
        1, "Checkpoints", "Epochs between checkpoints.", run=True, at_least=0
    )
    checkpoint_steps: int = _flag(
        0, "Checkpoints", "Steps between checkpoints; overrides checkpoint_epochs when above 0.",
        run=True, at_least=0,
    )  # fmt: skip
    keep_checkpoint_max: int = _flag(5, "Checkpoints", "Checkpoints kept.", run=True, at_least=1)
    keep_hub_module_max: int = _flag(
        1, "Checkpoints", "Exported SavedModels kept. 0: all.", run=True, at_least=0
    )

    strategy: str = _flag(
        "auto", "Devices", "auto: TPU if use_tpu, else all GPUs, else the CPU.",
        run=True, choices=("auto", "mirrored", "multiworker", "tpu", "one_device"),
    )  # fmt: skip
    workers: str | None = _flag(
        None, "Devices", "host:port of each process of a run on several machines, separated by "
        "commas, in place of TF_CONFIG; with --strategy=multiworker.", run=True,
    )  # fmt: skip
    worker_index: int = _flag(
        0, "Devices", "This process's place in --workers; 0 writes.", run=True, at_least=0
    )
    cpu_replicas: int = _flag(
        0, "Devices", "Split the CPU into so many devices, to try several replicas. 0: no.",
        run=True, at_least=0,
    )  # fmt: skip
    deterministic: bool = _flag(
        False, "Devices", "Kernels that give the same bits each time on one machine, where they "
        "are slower too.", run=True,
    )  # fmt: skip
    jit_compile: bool = _flag(False, "Devices", "Compile the training step with XLA.", run=True)
    augment_jit_compile: str = _flag(
        "auto", "Devices", "Compile the making of views with XLA, in a form for processors. auto: "
        "in runs of 200 steps or more, and for large views, where there is no GPU or TPU.",
        run=True, choices=("auto", "on", "off"),
    )  # fmt: skip
    use_tpu: bool = _flag(False, "Devices", "Train on a TPU.", run=True)
    tpu_name: str | None = _flag(None, "Devices", "Name or grpc:// address of the TPU.", run=True)
    tpu_zone: str | None = _flag(None, "Devices", "Google Cloud zone of the TPU.", run=True)
    gcp_project: str | None = _flag(None, "Devices", "Google Cloud project.", run=True)
    master: str | None = _flag(
        None, "Devices", "Address of the TPU's master, where tpu_name is not given.", run=True
    )


def kind_of(field: dataclasses.Field[object]) -> str:
    """Returns a setting's type by its annotation: bool, int, float, str or `bool | str`."""
    return str(field.type).removesuffix(" | None")
