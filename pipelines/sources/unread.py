"""Kinds of files that are no source: what each is, and what to take or do instead."""

import re
from collections.abc import Iterable

_PACKED = "packed: unpack it"
_PICTURE = (
    "a picture: folders of pictures (PNG and the like) are not read; make Parquet of them, e.g. "
    'datasets.load_dataset("imagefolder", data_dir=...)["train"].to_parquet("train.parquet")'
)
_PICKLE = "a Python pickle, which is never opened: save the drawings with np.save, (n, 784) uint8"
_UNFINISHED = "an unfinished download: fetch the file again"

_BY_ENDING = {
    ".npz": (
        "an .npz archive, as the sketch-rnn files of Quick, Draw! are, which is not read: take "
        "Google's simplified drawings (.ndjson) or bitmaps (numpy_bitmap, .npy) of the class"
    ),
    ".csv": (
        "CSV, as Kaggle's Doodle Recognition has it, which is not read: take Google's simplified "
        "drawings (.ndjson) of the class"
    ),
    ".jsonl": "JSON lines: if they are drawings in Google's form, name the file .ndjson",
    ".tar": f"a tar archive, {_PACKED}",
    ".arrow": 'an Arrow file, which is not read: write Parquet with to_parquet("train.parquet")',
    ".tfrecord": "TFRecord without the dataset_info.json and features.json of TFDS beside it",
    ".h5": "HDF5, which is not read: save its drawings with np.save, (n, 784) uint8",
    ".mat": "a MATLAB file, which is not read: save its drawings with np.save, (n, 784) uint8",
    "-ubyte": "in MNIST's format IDX, which is not read: take its numpy_bitmap or Parquet form",
}
_BY_ENDING |= {".tsv": _BY_ENDING[".csv"], ".hdf5": _BY_ENDING[".h5"]}
_BY_ENDING |= {".feather": _BY_ENDING[".arrow"]}
_BY_ENDING |= dict.fromkeys((".gz", ".tgz"), f"compressed with gzip, {_PACKED}")
_BY_ENDING |= {".zst": f"compressed with zstd, {_PACKED}", ".zip": f"a zip archive, {_PACKED}"}
_BY_ENDING |= dict.fromkeys((".bz2", ".xz", ".7z", ".rar"), _PACKED)
_BY_ENDING |= dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), _PICKLE)
_BY_ENDING |= dict.fromkeys((".crdownload", ".part", ".download", ".tmp"), _UNFINISHED)
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg")
_BY_ENDING |= dict.fromkeys(_PICTURES, _PICTURE)
# Read only as they are written here.
_READ = (".npy", ".ndjson", ".bin", ".parquet")
_KEPT = re.compile(r"\.(npy|ndjson|bin|parquet)(\.\d+|\.bak|\.old|\.orig|~)$")
# What our own exports have beside their drawings.
_OURS = ("-classes.csv", "-rows.csv", "-labels.csv")


def describe_unread(name: str) -> str:
    """Return what a file that is not read is and what to do, empty for any other file.

    >>> describe_unread("bee.NPY"), describe_unread("README.md")
    ('read only if its name ends in .npy', '')
    """
    folded = name.lower()
    if folded.endswith(_OURS):
        return ""
    if folded.endswith(_READ) and not name.endswith(_READ):
        return f"read only if its name ends in {name[name.rindex('.') :].lower()}"
    if _KEPT.search(folded):
        return "a copy that some tool numbered or kept: take it away, or give it its ending back"
    return next((what for ending, what in _BY_ENDING.items() if folded.endswith(ending)), "")


def unread_files(names: Iterable[str]) -> dict[str, str]:
    """Return those of these files that are not read, each with what it is and what to do."""
    described = ((name, describe_unread(name)) for name in names)
    return {name: what for name, what in described if what}
