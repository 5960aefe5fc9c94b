"""Check that a Beam graph is one branch, before an engine gets it that computes no other.

In Beam 2.77 DaskRunner computes only the last branch of a graph, merges tagged outputs, and drops
what `finish_bundle` gives, all without an error.
"""

from collections import Counter

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from pipelines.store.errors import FinalError


def check_one_branch(pipeline: beam.Pipeline) -> None:
    """Raise FinalError if a collection is read twice or beside the main input, if there are tagged
    outputs, several inputs or several beginnings, or if a DoFn gives something in `finish_bundle`.
    """
    visitor = _Visitor()
    pipeline.visit(visitor)
    if visitor.ends() != 1:
        visitor.problems.append(f"it has {visitor.ends()} ends")
    if visitor.problems:
        raise FinalError(
            f"this graph is not for DaskRunner, which would lose some of it: {visitor.problems[0]}"
        )


class _Visitor(PipelineVisitor):
    """Collects what is more than one branch."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._readers: Counter[beam.pvalue.PCollection] = Counter()
        self._made: list[beam.pvalue.PCollection] = []

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        """Look at a transform that has no parts."""
        name, transform = transform_node.full_label, transform_node.transform
        inputs = [each for each in transform_node.inputs if isinstance(each, beam.PCollection)]
        self._readers.update(inputs)
        self._made += transform_node.outputs.values()
        if transform_node.side_inputs:
            self.problems.append(f"{name} has side inputs")
        if len(inputs) > 1:
            self.problems.append(f"{name} has {len(inputs)} inputs")
        if set(transform_node.outputs) - {None, "None"}:
            self.problems.append(f"{name} has tagged outputs")
        if isinstance(transform, beam.ParDo):
            finish = type(transform.fn).finish_bundle
            if finish is not beam.DoFn.finish_bundle:
                self.problems.append(f"{name} gives something when a bundle ends")
        if any(number > 1 for number in self._readers.values()):
            self.problems.append(f"what {name} reads is read twice")

    def ends(self) -> int:
        """Return how many collections nobody reads."""
        return sum(not self._readers[each] for each in self._made)
