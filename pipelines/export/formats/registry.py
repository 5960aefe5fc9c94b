"""The export formats by name."""

from pipelines.export.formats.hf import HuggingFace
from pipelines.export.formats.idx import Idx
from pipelines.export.formats.numpy_bitmap import NumpyBitmap
from pipelines.export.formats.png_tree import PngTree
from pipelines.export.formats.tfds import Tfds
from pipelines.export.formats.webdataset import WebDataset
from pipelines.export.job import Format

FORMATS: dict[str, Format] = {
    made.name: made
    for made in (HuggingFace(), Tfds(), WebDataset(), NumpyBitmap(), Idx(), PngTree())
}
