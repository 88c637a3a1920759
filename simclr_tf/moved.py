"""Old names of modules, from before the code was sorted into rooms; for `.keras` files only.

A `.keras` file names the module of every class in it. Keras 2 imports that module where the class
is not registered yet, so that a file loads without an import of this package. Files that were saved
under the old names must go on loading. Nothing else should use these names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

# Only modules whose classes are registered with Keras. `simclr_tf.augment` kept its name.
MOVED = {
    "simclr_tf.applications": "simclr_tf.models.applications",
    "simclr_tf.blocks": "simclr_tf.models.blocks",
    "simclr_tf.convolution": "simclr_tf.models.convolution",
    "simclr_tf.distill": "simclr_tf.training.distiller",
    "simclr_tf.encoders": "simclr_tf.models.encoders",
    "simclr_tf.finetune": "simclr_tf.training.classifier",
    "simclr_tf.heads": "simclr_tf.models.heads",
    "simclr_tf.model": "simclr_tf.training.simclr",
    "simclr_tf.optimizers": "simclr_tf.optim.lars",
    "simclr_tf.resnet": "simclr_tf.models.resnet",
    "simclr_tf.schedules": "simclr_tf.optim.schedules",
}


class _OldNames(MetaPathFinder, Loader):
    """Imports a module by its old name: a copy of what the new one contains."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        home = vars(import_module(MOVED[module.__name__]))
        vars(module).update({name: home[name] for name in home if not name.startswith("__")})


def keep_old_names() -> None:
    """Lets the modules in `MOVED` be imported by their old names; imports none of them."""
    sys.meta_path.append(_OldNames())
