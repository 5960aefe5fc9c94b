"""Models, datasets and stages of sketchmill in Python.

A model or dataset is named as the commands name it, by `name` (its latest), `name@digest` or the
first characters of a digest in a store, a model also by `shipped:tiny-20`; or by the folder of its
files, which has a manifest.json. Drawings are gray levels from 0, the paper, to 255, ink.

Bad input raises ValueError, or FileNotFoundError and its like for a path. StoreError is the
ValueError of a store, AbsentError that of a name that it lacks. BusyError (another process works
on the same artifact), FullError and WorkerError are failures that a repetition may end. All are of
pipelines.store.errors, but WorkerError of model.sampling.workers.

Importing this loads neither torch nor Beam nor Prefect; a function loads what it needs.

>>> import sketchmill
>>> sketchmill.load_model("shipped:tiny-20").class_names[:3]
('bee', 'bicycle', 'broccoli')
"""

from flows.api.drawings import Dataset, open_dataset
from flows.api.models import Model, export_log_prob, load_model
from flows.api.work import run_stage

__all__ = ["Dataset", "Model", "export_log_prob", "load_model", "open_dataset", "run_stage"]
