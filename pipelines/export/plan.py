"""Planning an export: which rows go to which file, before one is read.

A split is one sequence of rows, shard after shard. Files are equal cuts of it, so their sizes
differ by at most one row and their names and content depend on neither workers nor time.
"""

from collections.abc import Sequence

from pipelines.export.job import Job, Piece, Shard, Unit


def cut_rows(shards: Sequence[Shard], first: int, last: int) -> tuple[Piece, ...]:
    """Return the pieces that make up rows [first, last) of the sequence of all shards."""
    pieces = []
    begin = 0
    for shard in shards:
        start, stop = max(first - begin, 0), min(last - begin, shard.rows)
        if start < stop:
            pieces.append(Piece(shard, start, stop))
        begin += shard.rows
    return tuple(pieces)


def range_units(job: Job, *, format: str, task: str, rows_per_file: int, path: str) -> list[Unit]:
    """Cut every split into units of at most `rows_per_file` rows with one output each.

    path: format of the output with the fields split, index and count.
    """
    units = []
    for split in job.splits:
        shards = [shard for shard in job.shards if shard.split == split]
        total = sum(shard.rows for shard in shards)
        count = -(-total // rows_per_file)
        for index in range(count):
            first, last = total * index // count, total * (index + 1) // count
            units.append(
                Unit(
                    format=format,
                    stage=0,
                    task=task,
                    name=f"{format}-{task}-{split}-{index:05d}-of-{count:05d}",
                    split=split,
                    first_row=first,
                    rows=last - first,
                    pieces=cut_rows(shards, first, last),
                    outputs=(path.format(split=split, index=index, count=count),),
                )
            )
    return units
