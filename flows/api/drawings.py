"""Datasets and generated drawings in Python: arrays, tensors, Datasets of Hugging Face."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.store.manifest import Manifest, artifact_label, drawings_by_split

if TYPE_CHECKING:
    import datasets
    from torch.utils.data import TensorDataset

    from model.data import Drawings
    from pipelines.store.artifacts import Store


def open_dataset(dataset: str | Path, *, store: str | Path = "./store") -> "Dataset":
    """Open a dataset, or generated drawings; no drawing is read yet.

    dataset  a reference or a folder, as the module `sketchmill` says; "samples/NAME" or
             "datasets/NAME" where a store has both
    store    where a reference is looked up

    Raises ValueError if there is no such dataset or its manifest is damaged.
    """
    from flows.stages.base import EXPORTABLE, resolve_any
    from pipelines.store.artifacts import existing_store
    from pipelines.store.folder import named_folder, open_folder

    if folder := named_folder(dataset):
        folder_store, manifest = open_folder(folder, EXPORTABLE)
        return Dataset(manifest, folder_store)
    opened = existing_store(str(store))
    return Dataset(resolve_any(opened, str(dataset), EXPORTABLE), opened)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset or generated drawings, in a store or a folder.

    manifest  its spec, inputs, counts and versions
    """

    manifest: Manifest
    _store: "Store"

    def __repr__(self) -> str:
        """Return its name and the drawings of each split."""
        return f"Dataset({artifact_label(self.manifest)}, {self.splits})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes; a label is a position here."""
        return tuple(self.manifest.summary["class_names"])

    @property
    def splits(self) -> dict[str, int]:
        """The number of drawings of each split."""
        return drawings_by_split(self.manifest)

    def arrays(self, split: str = "train") -> "Drawings":
        """Return a split: images [n, height, width] uint8, labels [n] int64, in shard order.

        The arrays are read-only and memory-mapped from files in the cache folder
        ($SKETCHMILL_CACHE, or ~/.cache/sketchmill), which the first call writes.
        """
        from flows.stages.base import writable_cache
        from model.data import open_split

        cache = writable_cache() / "drawings"
        with self._held():
            return open_split(self._store, self.manifest, split=split, cache_dir=cache)

    def torch(self, split: str = "train") -> "TensorDataset":
        """Return a split in memory: items of image [1, height, width] uint8 and label int64.

        Its `tensors` are images [n, 1, height, width] and labels [n]; 792 bytes a drawing of 28x28.
        """
        import numpy as np
        from torch.utils.data import TensorDataset

        drawings = self.arrays(split)
        return TensorDataset(*drawings.tensors(np.arange(len(drawings))))

    def hf(self, split: str = "train") -> "datasets.Dataset":
        """Return a split as a Dataset of Hugging Face, in memory: image, label and all columns.

        Raises ModuleNotFoundError if `datasets` is not installed.
        """
        import datasets

        from pipelines.drawings.reading import read_table

        with self._held():
            table = read_table(self.manifest, self._store, split=split)
        return datasets.Dataset(table, split=datasets.NamedSplit(split))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the artifact from garbage collection within the block."""
        from pipelines.store.folder import FolderStore
        from pipelines.store.held import reading

        if isinstance(self._store, FolderStore):
            yield
            return
        with reading(self._store, [self.manifest], "read"):
            yield
