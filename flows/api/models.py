"""Trained models in Python: loaded, drawing, measuring, exported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.store.manifest import Manifest, artifact_label

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import device as Device

    from model.data import Drawings
    from model.network.pixelcnn import PixelCNN

    Labels = Sequence[str] | Sequence[int] | npt.NDArray[np.int64]


def load_model(
    model: str | Path,
    *,
    store: str | Path = "./store",
    device: "str | Device | None" = None,
) -> "Model":
    """Load a trained model.

    model   a reference or a folder, as the module `sketchmill` says
    store   where a reference is looked up
    device  by default the GPU if there is one, else the CPU

    Raises ValueError if there is no such model, if it is damaged or draws anything but gray
    pictures of a class, or if the device is not there.
    """
    from model.network import weights
    from model.sampling.drawer import check_drawable

    manifest, files = _model_files(model, str(store))
    network = weights.load_model(files).model
    check_drawable(network.config)
    return Model(manifest, _moved(network, device))


def export_log_prob(model: "Model", path: str | Path) -> Path:
    """Save log p(image | label) as a program of torch.export, and return its path.

    The file (.pt2) runs without sketchmill: `torch.export.load(path).module()` takes images
    [batch, 1, height, width] uint8 and labels [batch] int64, positions in model.class_names, and
    returns nats [batch] float32, for a batch of any size on a CPU.
    """
    from model.network import program

    return program.export_log_prob(model.network, path)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model: draws classes, and tells how likely drawings are.

    manifest  its spec, inputs, bits/dim and versions
    network   the PixelCNN, a torch module in evaluation mode
    """

    manifest: Manifest
    network: "PixelCNN"

    def __repr__(self) -> str:
        """Return its name and classes."""
        return f"Model({artifact_label(self.manifest)}, {len(self.class_names)} classes)"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that it draws; a label is a position here."""
        return tuple(self.manifest.summary["class_names"])

    def sample(
        self,
        classes: str | Sequence[str] = (),
        per_class: int = 8,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        guidance: float | None = None,
        batch_size: int = 64,
    ) -> "Drawings":
        """Draw new drawings: the first of each class, then the second of each, ...

        They equal those of `sketchmill sample` with the same options and kind of device, byte for
        byte. This draws in one process, with one thread; run_stage("sample", ...) uses all cores
        and keeps the drawings in a store.

        classes      one name or several, all by default
        per_class    drawings of each class
        temperature  below 1 the drawings are more alike and cleaner
        guidance     from 0, how much to prefer what tells a class from the others; by default as
                     the model was trained for

        Returns images [n, height, width] uint8 and labels [n] int64, positions in class_names.
        Raises ValueError for an unknown class or a value out of range.
        """
        import numpy as np

        from flows.stages.sample import SampleParams, sample_spec
        from model.data import Drawings
        from model.sampling.drawer import Drawer, one_thread, spec_labels
        from model.sampling.spec import shard_batches, spec_rows

        params = SampleParams(
            classes=(classes,) if isinstance(classes, str) else tuple(classes),
            per_class=per_class,
            seed=seed,
            temperature=temperature,
            guidance=guidance,
            batch_size=batch_size,
        )
        spec = sample_spec(params, self.manifest)
        labels = spec_labels(spec, self.class_names, self.network.config)
        drawer = Drawer(self.network, labels, spec)
        batches = [rows for shard in range(spec.num_shards) for rows in shard_batches(spec, shard)]
        with one_thread():
            images = np.concatenate([drawer.draw(rows).images for rows in batches])
        return Drawings(images, labels[spec_rows(spec).labels], self.class_names)

    def log_prob(
        self, images: "npt.NDArray[np.uint8]", labels: "Labels", *, batch_size: int = 64
    ) -> "npt.NDArray[np.float64]":
        """Return log p(image | label) in nats [n], summed over the pixels.

        images  [n, height, width] or [n, 1, height, width] uint8
        labels  [n] class names, or positions in class_names; those of a dataset with other classes
                mean others there, so give its names

        Raises ValueError for another shape or type, or a class that the model does not know.
        """
        from model.data import Drawings
        from model.evaluation.evaluate import split_nats
        from model.ranks import Ranks

        drawings = Drawings(self._checked_images(images), self._positions(labels), self.class_names)
        if len(drawings) != len(drawings.images):
            raise ValueError(f"found {len(drawings.images)} images and {len(drawings)} labels")
        device = self.network.network.output.bias.device
        return -split_nats(
            self.network, drawings, ranks=Ranks(device=device), batch_size=batch_size
        )

    def bits_per_dim(
        self, images: "npt.NDArray[np.uint8]", labels: "Labels", *, batch_size: int = 64
    ) -> "npt.NDArray[np.float64]":
        """Return -log2 p(image | label) per pixel [n]; arguments and errors of `log_prob`."""
        import numpy as np

        nats = self.log_prob(images, labels, batch_size=batch_size)
        return nats / (-np.log(2) * self.network.config.num_dims)

    def _checked_images(self, images: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.uint8]":
        import numpy as np

        found = np.asarray(images)
        height, width, _ = self.network.config.image_shape
        fits = found.shape[1:] in ((height, width), (1, height, width))
        if found.dtype != np.uint8 or not fits:
            raise ValueError(
                f"expected uint8 images [n, {height}, {width}], found {found.dtype} "
                f"{list(found.shape)}"
            )
        return found.reshape(-1, height, width)

    def _positions(self, labels: "Labels") -> "npt.NDArray[np.int64]":
        import numpy as np

        from model.sampling.spec import model_labels

        found = np.asarray(labels)
        if found.dtype.kind == "U":
            return model_labels(found.tolist(), self.class_names)
        num_classes = len(self.class_names)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise ValueError(f"expected labels [n], found {found.dtype} {list(found.shape)}")
        if len(found) and not (found.min() >= 0 and found.max() < num_classes):
            raise ValueError(
                f"labels must be in 0..{num_classes - 1}, found {found.min()} to {found.max()}: "
                "give the class names of another dataset's labels"
            )
        return found.astype(np.int64)


def _model_files(model: str | Path, store: str) -> tuple[Manifest, dict[str, bytes]]:
    """Return a model's manifest, and the content of its weights and config."""
    from model.network.weights import CONFIG_NAME, WEIGHTS_NAME
    from model.shipped import PREFIX, read_shipped
    from pipelines.store.folder import named_folder, open_folder
    from pipelines.store.held import held_store

    names = (WEIGHTS_NAME, CONFIG_NAME)
    if folder := named_folder(model):
        folder_store, manifest = open_folder(folder, ("models",))
        return manifest, {name: folder_store.read(manifest, name) for name in names}
    if str(model).startswith(PREFIX):
        return read_shipped(str(model).removeprefix(PREFIX))
    with held_store(store, "load") as held:
        manifest = held.resolve("models", str(model))
        return manifest, {name: held.read(manifest, name) for name in names}


def _moved(network: "PixelCNN", device: "str | Device | None") -> "PixelCNN":
    import torch

    from model.network.precision import default_device

    try:
        return network.to(default_device() if device is None else torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!s} cannot be used here: {reason}") from error
