"""Weights of a live `tfp.distributions.PixelCNN`, read and written; see model.tfp_import.

Nothing here imports TensorFlow: whoever has such a distribution has it already.
"""

from typing import Any

from model.tfp_import import KINDS, TfpLayer, TfpWeights


def read_live(distribution: Any) -> TfpWeights:
    """Read the weights of a live `tfd.PixelCNN`."""
    main, projections = _live_layers(distribution)
    layers = [
        TfpLayer(
            type(_inner(layer)).__name__,
            (layer.v if _has_norm(layer) else layer.kernel).numpy(),
            layer.g.numpy() if _has_norm(layer) else None,
            _inner(layer).bias.numpy(),
        )
        for layer in main
    ]
    return TfpWeights(layers, [(p.kernel.numpy(), p.bias.numpy()) for p in projections])


def write_live(distribution: Any, weights: TfpWeights) -> None:
    """Assign weights, as export_weights gives them, to a live `tfd.PixelCNN`.

    Layers count as initialized from then on: a fresh one would scale the weights anew at its
    first call.
    """
    main, projections = _live_layers(distribution)
    queues = {kind: iter([s for s in weights.layers if s.kind == kind]) for kind in KINDS}
    for layer in main:
        source = next(queues[type(_inner(layer)).__name__])
        (layer.v if _has_norm(layer) else layer.kernel).assign(source.v)
        if _has_norm(layer):
            layer.g.assign(source.g)
            layer.initialized.assign(True)
        _inner(layer).bias.assign(source.bias)
    for layer, (kernel, bias) in zip(projections, weights.projections, strict=True):
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)


def _live_layers(distribution: Any) -> tuple[list[Any], list[Any]]:
    """Return the layers with weights and the condition's projections, by creation."""
    network = distribution.network._network
    layers = list(network._flatten_layers(include_self=False, recursive=False))
    # Keras lists layers by depth; only the numbers in their names tell the order of creation.
    layers.sort(key=_number)
    normed = [layer for layer in layers if _has_norm(layer)]
    plain = [layer for layer in layers if type(layer).__name__ in KINDS]
    if normed:
        return normed, plain
    projections = [layer for layer in plain if _reads_flatten(layer)]
    return [layer for layer in plain if layer not in projections], projections


def _number(layer: Any) -> int:
    suffix = layer.name.rsplit("_", 1)[-1]
    return int(suffix) if suffix.isdigit() else 0


def _has_norm(layer: Any) -> bool:
    return type(layer).__name__ == "WeightNorm"


def _inner(layer: Any) -> Any:
    return layer.layer if _has_norm(layer) else layer


def _reads_flatten(layer: Any) -> bool:
    before = layer.inbound_nodes[0].inbound_layers
    before = before[0] if isinstance(before, list | tuple) else before
    return type(before).__name__ == "Flatten"
