"""Pack a model of a store into this package: `python -m model.shipped --help`.

The folder is the artifact with four additions, none of which is part of the digest: Google's
attribution (a dataset of a part of Google's files does not have it by checksum), the rule of its
dataset's splits, the default guidance from an evaluation, and text for its card.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from model.training.warm_start import split_rule
from pipelines.drawings.credit import GOOGLES, UNSTATED
from pipelines.store.artifacts import existing_store
from pipelines.store.manifest import MANIFEST_NAME, file_entry, manifest_to_json

CARD_NAME = "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder of one model."""
    parser = argparse.ArgumentParser(prog="python -m model.shipped", description=__doc__)
    parser.add_argument("--store", required=True, help="the store that has the model")
    parser.add_argument("--model", required=True, help="name or name@digest; its name is kept")
    parser.add_argument("--guidance", type=float, required=True, help="default of its drawings")
    parser.add_argument("--card", type=Path, required=True, help="text to add to its README.md")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of models")
    options = parser.parse_args(arguments)
    store = existing_store(options.store)
    model = store.resolve("models", options.model)
    learned = model.input("dataset")
    if learned is None:
        raise ValueError(f"model {model.name} names no dataset among its inputs")
    dataset = store.resolve("datasets", f"{learned.name}@{learned.digest}")
    contents = {entry.path: store.read(model, entry.path) for entry in model.files}
    card = contents[CARD_NAME].decode().replace(UNSTATED.statement, GOOGLES.statement)
    contents[CARD_NAME] = f"{card}\n{options.card.read_text()}".encode()
    packed = dataclasses.replace(
        model,
        files=tuple(file_entry(path, content) for path, content in contents.items()),
        summary={
            **model.summary,
            **GOOGLES.to_json(),
            "split_rule": split_rule(dataset),
            "guidance": options.guidance,
        },
    )
    folder = options.out / model.name
    folder.mkdir(exist_ok=True)
    for path, content in (contents | {MANIFEST_NAME: manifest_to_json(packed)}).items():
        (folder / path).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
