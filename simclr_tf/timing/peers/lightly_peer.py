"""The side of lightly on PyTorch: its head, loss, LARS and views; a ResNet of torchvision's blocks.

Run by its path, in an interpreter that may have neither TensorFlow nor this package.
"""

from __future__ import annotations

import itertools
import os
import platform
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from simclr_tf.timing.peers.protocol import Prepared, Timed


class Images(torch.utils.data.Dataset):
    """As many images as an epoch is to have, from a file of fewer, each as two views.

    Args:
        path: Of uint8 images (N, size, size, 3), as NumPy saves them.
        transform: From a Pillow image to a list of views.
        length: Images of an epoch.
    """

    def __init__(self, path: str, transform: Any, length: int) -> None:
        self._images = np.load(path)
        self._transform = transform
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        from PIL import Image

        return self._transform(Image.fromarray(self._images[index % len(self._images)]))


class Training:
    """The network, its optimizer, ready-made views and the loaders.

    Args:
        settings: See `measuring.Settings`; and `channels_last`, the layout of images and kernels.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from lightly.loss import NTXentLoss

        self._settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        last = settings["channels_last"]
        self._layout = torch.channels_last if last else torch.contiguous_format
        self.network = make_network(settings).to(self.device, memory_format=self._layout).train()
        self._optimizer = make_optimizer(self.network, settings)
        self._criterion = NTXentLoss(temperature=settings["temperature"])
        size = settings["image_size"]
        self._ready = self._on_device(torch.rand(2 * settings["batch_size"], 3, size, size))
        self._loaders: dict[int, torch.utils.data.DataLoader] = {}

    def step(self, steps: int) -> Timed:
        """Times steps on ready-made views."""
        from protocol import timed

        return timed(lambda count: self._train(itertools.repeat(self._ready, count)), steps)

    def end_to_end(self, steps: int) -> Timed:
        """Times steps on views that the workers make meanwhile."""
        from protocol import timed, untimed

        threads = self._settings["threads"]
        before = untimed(threads)
        if steps not in self._loaders:
            # Longer than the round: workers are busy to its end. Then they rest.
            length = before + steps + 2 * threads
            pinned = self.device.type == "cuda"
            self._loaders[steps] = make_loader(self._settings, length, pinned)
        batches = iter(self._loaders[steps])
        views = (self._on_device(torch.cat(pair)) for pair in batches)
        self._train(itertools.islice(views, before))
        result = timed(lambda count: self._train(itertools.islice(views, count)), steps)
        for _ in batches:
            pass
        return result

    def _on_device(self, views: torch.Tensor) -> torch.Tensor:
        return views.to(self.device, memory_format=self._layout, non_blocking=True)

    def _train(self, batches: Iterable[torch.Tensor]) -> float:
        """Takes a step on each batch of both views, (2N, 3, size, size); returns the last loss."""
        for views in batches:
            first, second = self.network(views).chunk(2)
            loss = self._criterion(first, second)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return float(loss)


def prepare(settings: dict[str, Any]) -> Prepared:
    """Imports everything and makes what is trained.

    Args:
        settings: See `Training`.
    """
    note = import_torchvision()
    import lightly
    import torchvision
    from protocol import END_TO_END, STEP, Prepared

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    training = Training(settings)
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    description = {
        "name": f"lightly {lightly.__version__}",
        "versions": (
            f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}{note}, "
            f"OMP_WAIT_POLICY {policy}, Python {platform.python_version()}"
        ),
        "device": "GPU" if training.device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in training.network.parameters() if p.requires_grad),
    }
    return Prepared(description, {STEP: training.step, END_TO_END: training.end_to_end})


def import_torchvision() -> str:
    """Imports torchvision; returns what is missing of it, for the line of versions.

    Its wheels are built for one build of PyTorch (CUDA or not) and do not import beside another:
    their operators for boxes fail to load, and two of them are asked for. Views need none.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", signature)
        import torchvision  # noqa: F401

        return " without its compiled operators"
    return ""


def make_network(settings: dict[str, Any]) -> torch.nn.Module:
    """Returns a ResNet-18 of any width with lightly's projection head of three layers.

    Args:
        settings: See `measuring.Settings`.
    """
    from lightly.models.modules import SimCLRProjectionHead
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    def channels(count: int) -> int:
        return max(1, round(count * settings["width_multiplier"]))

    def group(inputs: int, outputs: int, stride: int) -> nn.Module:
        # The release projects the shortcut of each group's first block, of the first group too.
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
        first = BasicBlock(inputs, outputs, stride, shortcut)
        return nn.Sequential(first, BasicBlock(outputs, outputs))

    small = settings["image_size"] <= 32
    stem = nn.Conv2d(3, channels(64), *((3, 1, 1) if small else (7, 2, 3)), bias=False)
    layers = [stem, nn.BatchNorm2d(channels(64)), nn.ReLU(inplace=True)]
    if not small:
        layers.append(nn.MaxPool2d(3, 2, 1))
    width = channels(64)
    for number in range(4):
        outputs = channels(64 * 2**number)
        layers.append(group(width, outputs, 2 if number else 1))
        width = outputs
    head = SimCLRProjectionHead(width, width, settings["dimensions"], num_layers=3)
    head.layers[-1].bias.requires_grad_(False)  # the release's last batch norm has no offset
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def make_optimizer(network: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """Returns lightly's LARS, which decays neither biases nor batch norm.

    Args:
        network: What is trained.
        settings: See `measuring.Settings`.
    """
    from lightly.models.utils import get_weight_decay_parameters
    from lightly.utils.lars import LARS

    decayed, others = get_weight_decay_parameters([network])
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return LARS(
        groups,
        lr=settings["learning_rate"],
        momentum=0.9,
        weight_decay=settings["weight_decay"],
    )


def make_loader(settings: dict[str, Any], steps: int, pinned: bool) -> torch.utils.data.DataLoader:
    """Returns batches of two views each, made by as many workers as there are threads.

    Args:
        settings: See `measuring.Settings`.
        steps: Batches of an epoch.
        pinned: Whether batches go to a GPU.
    """
    from lightly.transforms import SimCLRTransform

    size, batch_size = settings["image_size"], settings["batch_size"]
    images = Images(settings["images"], SimCLRTransform(input_size=size), steps * batch_size)
    return torch.utils.data.DataLoader(
        images,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=settings["threads"],
        persistent_workers=True,
        pin_memory=pinned,
    )


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from protocol import serve

    serve(prepare)
