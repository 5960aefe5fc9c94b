"""`sketchmill classes`: list the class names of Quick, Draw!."""

from flows.options import Common
from flows.terminal import print_result
from pipelines.catalogue import catalogue, find_classes


def classes(text: str = "", /, *, common: Common = Common()) -> None:
    """List the 345 classes with their TFDS id and number of drawings.

    Parameters
    ----------
    text
        Show only the classes whose name contains this.
    """
    entries = find_classes(text)
    if not entries:
        raise ValueError(f"no class has {text!r} in its name; `sketchmill classes` lists all")
    if common.json:
        rows = [
            {"name": e.name, "tfds_id": e.tfds_id, "num_drawings": e.num_drawings} for e in entries
        ]
        print_result({"classes": rows}, as_json=True)
        return
    width = max(len(entry.name) for entry in entries)
    lines = {
        f"{entry.name:<{width}}": f"tfds:{entry.tfds_id:<3}  {entry.num_drawings:>9,} drawings"
        for entry in entries
    }
    print_result(lines, as_json=False)
    if len(entries) == len(catalogue()):
        total = sum(entry.num_drawings for entry in entries)
        print_result({f"{'all':<{width}}": f"{total:>18,} drawings"}, as_json=False)
