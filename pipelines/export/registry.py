"""The export formats by name."""

from pipelines.export.hf import HuggingFace
from pipelines.export.idx import Idx
from pipelines.export.job import Format
from pipelines.export.numpy_bitmap import NumpyBitmap
from pipelines.export.png_tree import PngTree
from pipelines.export.tfds import Tfds
from pipelines.export.webdataset import WebDataset

FORMATS: dict[str, Format] = {
    made.name: made
    for made in (HuggingFace(), Tfds(), WebDataset(), NumpyBitmap(), Idx(), PngTree())
}
