"""Whose drawings a source has: what checksums tell, and what the user states of the rest."""

from pipelines.catalogue import is_official
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.credit import DOODLES, GOOGLES, QUICKDRAW, Credit, both
from pipelines.sources.base import Source, SourceFile
from pipelines.sources.download import BASE_URL

# Google's bucket, by its two addresses.
_GOOGLES_BUCKET = ("gs://quickdraw_dataset/", BASE_URL.removesuffix("full/numpy_bitmap"))


def source_credit(spec: DatasetSpec, source: Source) -> Credit:
    """Return license and attribution of the drawings that a dataset is made of.

    Google's are files with the SHA-256 of one of its .npy files, files read from its bucket, and
    what the user calls so (`attribution` "quickdraw"); doodles are this program's. Else there is
    what the user states, in addition to these too. Raises ValueError for doodles called Google's.
    """
    said = Credit(license=spec.license, attribution=spec.attribution)
    if source.is_synthetic:
        if spec.attribution == QUICKDRAW:
            raise ValueError(
                "doodles are drawn by this program, not Google's: leave --attribution quickdraw out"
            )
        return both(said, DOODLES)
    if spec.attribution == QUICKDRAW:
        return both(Credit(license=spec.license), GOOGLES)
    num, total = sum(_is_googles(file) for file in source.files), len(source.files)
    if num == 0:
        return said
    if num == total:
        return both(said, GOOGLES)
    part = Credit(attribution=f"In part ({num} of {total} files): {GOOGLES.attribution}")
    # No license is said to hold for all as long as that of the rest is not stated.
    license_of_part = Credit(license=GOOGLES.license if said.license else "")
    return both(both(said, part), license_of_part)


def _is_googles(file: SourceFile) -> bool:
    return is_official(file.digest) or file.url.startswith(_GOOGLES_BUCKET)
