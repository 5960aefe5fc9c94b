"""`python -m model.sampling`: sample a dataset in a single process or as ranks of torchrun.

    python -m model.sampling --store URL --model NAME@DIGEST --name NAME --spec-json FILE

Under torchrun, on any number of machines that share the store, each rank samples every size-th
shard on its own device; the first rank waits for all shards and publishes the dataset. Ranks
communicate only through the store, so a slow rank delays the others and has no other effect.
Without torchrun, one process per GPU shares the batches of this machine. With --progress-json
progress is one JSON object per line on standard output; the last line is {"digest": ...}.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from model.ranks import Ranks, join_ranks
from model.sampling.shards import make_shards, missing_shards, publish_samples, sample_dataset
from model.sampling.spec import SampleSpec, samples_digest, spec_from_json
from pipelines.processes.guard import end_with_parent
from pipelines.processes.progress import JsonProgress, Progress, no_progress, telling
from pipelines.store.artifacts import Store, open_store
from pipelines.store.collect import needing
from pipelines.store.manifest import Manifest

# Interval of polling the store for the shards of other ranks.
POLL_SEC = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample a dataset and print its digest."""
    given = _parser().parse_args(arguments)
    if given.parent:
        end_with_parent(given.parent)
    store = open_store(given.store)
    model = store.resolve("models", given.model)
    spec = spec_from_json(json.loads(Path(given.spec_json).read_text()))
    display = JsonProgress(sys.stdout) if given.progress_json else no_progress
    with (
        telling(display, "sample") as progress,
        join_ranks() as ranks,
        needing(store, [model], "sample") if ranks.is_first else contextlib.nullcontext(),
    ):
        if ranks.size > 1:
            manifest = sample_on_ranks(spec, model, store, given.name, ranks, progress=progress)
        else:
            manifest = sample_dataset(
                spec, model, store, given.name, processes=given.processes, progress=progress
            )
        if ranks.is_first:
            sys.stdout.write(json.dumps({"digest": manifest.digest}) + "\n")
    return 0


def sample_on_ranks(
    spec: SampleSpec,
    model: Manifest,
    store: Store,
    name: str,
    ranks: Ranks,
    *,
    progress: Progress = no_progress,
) -> Manifest:
    """Sample a dataset with the ranks of one run; all call this with the same arguments.

    Returns on every rank once the store has the dataset. If a rank fails, torchrun terminates the
    others.
    """
    digest = samples_digest(spec, model)
    if found := store.reuse("samples", name, digest):
        return found
    mine = range(spec.num_shards)[ranks.rank :: ranks.size]
    make_shards(spec, model, store, name, shards=mine, processes=1, progress=progress)
    if ranks.is_first:
        while missing_shards(spec, model, store, name):
            time.sleep(POLL_SEC)
        return publish_samples(spec, model, store, name)
    while (found := store.find("samples", name, digest)) is None:
        time.sleep(POLL_SEC)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.sampling", description=__doc__)
    parser.add_argument("--store", required=True, help="URL of the artifact store")
    parser.add_argument("--model", required=True, help="the model, NAME@DIGEST")
    parser.add_argument("--name", required=True, help="the samples' name in the store")
    parser.add_argument("--spec-json", required=True, help="file with the sampling spec")
    parser.add_argument("--processes", type=int, default=0, help="0: one per GPU, or one per core")
    parser.add_argument("--progress-json", action="store_true", help="progress on stdout")
    parser.add_argument("--parent", type=int, default=0, help="exit when this process exits")
    return parser


if __name__ == "__main__":
    sys.exit(main())
