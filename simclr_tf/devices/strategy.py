"""Which devices a run uses: the distribution strategy."""

from __future__ import annotations

import os
import re

import tensorflow as tf

from simclr_tf.devices.workers import joins_workers, num_workers
from simclr_tf.errors import UserError


def accelerated() -> bool:
    """Returns whether TensorFlow sees a GPU or TPU."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def make_strategy(
    name: str = "auto",
    *,
    cpu_replicas: int = 0,
    use_tpu: bool = False,
    tpu_name: str | None = None,
    tpu_zone: str | None = None,
    gcp_project: str | None = None,
    master: str | None = None,
) -> tf.distribute.Strategy:
    """Returns the strategy under which a model is built and trained.

    Args:
        name: `auto` (a TPU if `use_tpu`; several workers if TF_CONFIG names them; all GPUs if there
            are several, or all logical CPUs if `cpu_replicas` asks for them; else one device),
            `mirrored`, `multiworker`, `tpu` or `one_device`.
        cpu_replicas: Splits the CPU into this many logical devices (0: leave it); must come before
            TensorFlow first uses the CPU.
        use_tpu: The release's flag; the same as `name="tpu"`.
        tpu_name: Name or grpc address of the TPU.
        tpu_zone: Google Cloud zone of the TPU.
        gcp_project: Google Cloud project of the TPU.
        master: Address of the TPU's master, where no name is given.

    Raises:
        UserError: The devices do not exist.

    Example:
        >>> make_strategy('mirrored', cpu_replicas=2).num_replicas_in_sync
        2
    """
    if cpu_replicas > 1:
        split_cpu(cpu_replicas)
    if use_tpu or name == "tpu":
        return _tpu_strategy(tpu_name or master, tpu_zone, gcp_project)
    # Before anything lists devices: that would start TensorFlow without the other workers.
    if joins_workers(name):
        if num_workers() == 0:
            raise UserError(
                "Expected --workers, or the environment variable TF_CONFIG, to name the workers; "
                "received: neither. Set one for each worker, or pass --strategy=mirrored."
            )
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                "Expected TF_CONFIG to name the cluster and this worker's task; received: "
                f"{os.environ['TF_CONFIG']!r} ({error}). Fix or unset it."
            ) from error
    gpus = tf.config.list_logical_devices("GPU")
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    if name == "mirrored" or (name == "auto" and (len(gpus) > 1 or cpu_replicas > 1)):
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus] or cpus)
    return tf.distribute.get_strategy() if name == "auto" else _one_device(gpus)


def split_cpu(replicas: int) -> None:
    """Splits the CPU into logical devices.

    Raises:
        UserError: TensorFlow has used the CPU already, with another number of devices.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
        )
    except RuntimeError as error:
        found = len(tf.config.list_logical_devices("CPU"))
        if found != replicas:
            raise UserError(
                f"Expected to split the CPU into {replicas} devices before its first use; it is in "
                f"use with {found}. Start a new process."
            ) from error


def _one_device(gpus: list[tf.config.LogicalDevice]) -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else "/CPU:0")


def _tpu_strategy(
    address: str | None, zone: str | None, project: str | None
) -> tf.distribute.Strategy:
    if "://" in (address or "") and not re.fullmatch(r"grpc://[^/]+:\d+/?", address or ""):
        raise UserError(  # TensorFlow would abort the process
            f"Expected the TPU's address in the form grpc://HOST:PORT; received: {address!r}."
        )
    try:
        cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
            address or "", zone=zone, project=project
        )
        tf.config.experimental_connect_to_cluster(cluster)
        tf.tpu.experimental.initialize_tpu_system(cluster)
        return tf.distribute.TPUStrategy(cluster)
    except Exception as error:  # the resolver raises whatever its client library does
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"Expected a TPU at {address or 'the default address'}; found none ({reason}). "
            "Pass --tpu_name, or --use_tpu=False to use this machine."
        ) from error
