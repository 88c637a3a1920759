"""The processor's instruction sets, which decide how fast each compute type is."""

from __future__ import annotations

import functools
import os
import platform

# From narrow to wide; the last two multiply matrices of bfloat16 and of float16.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
_DESCRIPTION = "/proc/cpuinfo"


@functools.cache
def cpu_features() -> tuple[str, ...] | None:
    """Returns which of `FEATURES` the processor has; None where the system does not list them.

    Linux lists them in /proc/cpuinfo.

    Example:
        >>> cpu_features()
        ('avx2', 'avx512f')
    """
    try:
        with open(_DESCRIPTION, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":  # one line a core, all alike; ARM's is called Features
            return tuple(feature for feature in FEATURES if feature in value.split())
    return None


def use_quick_kernels() -> None:
    """Makes TensorFlow use oneDNN on processors with AVX2 but no AVX-512; call before the import.

    By default it does so only with AVX512-VNNI, though it is faster with AVX2 as well (the gradient
    of a ResNet-18 of width 0.25: 2.3 times). With AVX-512 the default stays, and so does what the
    user has set in TF_ENABLE_ONEDNN_OPTS.
    """
    features = cpu_features() or ()
    if "avx2" in features and "avx512f" not in features:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def describe_cpu() -> str:
    """Returns a phrase for messages: the features, or the platform where they are unknown."""
    features = cpu_features()
    if features is None:
        return f"CPU: {platform.machine() or 'unknown'}, {platform.platform()}"
    return f"CPU: {', '.join(features) or 'none of ' + ', '.join(FEATURES)}"


def multiplies_fast(type_name: str) -> bool:
    """Returns whether TensorFlow multiplies matrices of `bfloat16` or `float16` in hardware here.

    On a processor with AMX it does, and bfloat16 with AVX512-BF16 too: a convolution and the
    gradient to its inputs at twice float32's speed, the one to its kernel at 1 to 2 times. It has
    no convolutions for AVX512-FP16. All of them are oneDNN's: without it, none is fast.
    """
    fast = {"bfloat16": {"amx_bf16", "avx512_bf16"}, "float16": {"amx_fp16"}}[type_name]
    return not fast.isdisjoint(_features_of_onednn())


def normalizes_slowly() -> bool:
    """Returns whether oneDNN's batch norm of images is several times slower than memory here.

    So it is with AVX2 alone (measured under TensorFlow 2.15 and 2.21).
    """
    features = _features_of_onednn()
    return "avx2" in features and "avx512f" not in features


def _features_of_onednn() -> tuple[str, ...]:
    """Returns what oneDNN uses of the processor; () where TensorFlow does not use it."""
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower() in ("0", "false"):
        return ()
    features = cpu_features() or ()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit.startswith("AVX2"):
        return tuple(feature for feature in features if feature == "avx2")
    return () if limit in ("AVX", "SSE41") else features
