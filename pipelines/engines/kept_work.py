"""Work that a Dask worker gets once: Dask pickles what a task refers to with each task anew.

The work of a large dataset names hundreds of files; with thousands of units its pickles would take
longer than the work. A plugin takes it to every worker, to those that join later too.
"""

from typing import Any

from distributed import WorkerPlugin

_kept: dict[str, Any] = {}


class KeepWork(WorkerPlugin):
    """Takes work to the workers, under a name."""

    def __init__(self, name: str, work: Any) -> None:
        self.name = name
        self.work = work

    def setup(self, worker: Any) -> None:
        """Keep the work in this process."""
        del worker
        _kept[self.name] = self.work

    def teardown(self, worker: Any) -> None:
        """Forget the work."""
        del worker
        _kept.pop(self.name, None)


class KeptWork:
    """Stands for work that the worker keeps."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, unit: Any, store: Any) -> Any:
        """Do a unit by the work of that name."""
        return _kept[self.name](unit, store)
