"""Conversion of weights between `tfp.distributions.PixelCNN` and this model.

Both create the same layers in the same order. TFP keeps full kernels with masked taps: the import
crops them and the export sets them to 0. Layouts, TFP to here:

    Conv2D           v[rows, cols, in, out]  ->  v[out, in, rows, cols]
    Dense            v[in, out]              ->  v[out, in, 1, 1]
    Conv2DTranspose  v[rows, cols, out, in]  ->  v[out, in, rows, cols]

A horizontal block going up reads concat_elu(concat(u, skip)) in TFP and
concat(concat_elu(u), concat_elu(skip)) here: the inputs of its Dense are reordered. TFP masks
kernels only after the first optimizer step. Before it a model is not autoregressive and cannot be
imported; this raises ValueError.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.network.config import PixelCNNConfig
from model.network.layers import CroppedTransposedConv, Dense, NormedLayer, Taps
from model.network.pixelcnn import PixelCNN

Array = npt.NDArray[np.floating]

# Arguments of tfd.PixelCNN that are also fields of PixelCNNConfig.
_SHARED_FIELDS = (
    "image_shape", "num_resnet", "num_hierarchies", "num_filters", "num_logistic_mix",
    "receptive_field_dims", "dropout_p", "resnet_activation", "use_weight_norm",
    "use_data_init", "low", "high",
)  # fmt: skip


# Keras layers with weights; each kind is created in the same order here.
KINDS = ("Conv2D", "Conv2DTranspose", "Dense")


@dataclass(frozen=True, slots=True)
class TfpLayer:
    """A Keras layer: `kind` is its class name, g is None without weight norm."""

    kind: str
    v: Array
    g: Array | None
    bias: Array


@dataclass(frozen=True, slots=True)
class TfpWeights:
    """All weights, in creation order within each kind of layer.

    projections: kernel [in, out] and bias of the condition's Dense in each block
    """

    layers: Sequence[TfpLayer]
    projections: Sequence[tuple[Array, Array]]


def config_from_tfp(arguments: Mapping[str, Any]) -> PixelCNNConfig:
    """Return the config of `tfd.PixelCNN(**arguments)`.

    conditional_shape () is the scalar label; TFP flattens any other shape to a vector.
    """
    fields = {name: arguments[name] for name in _SHARED_FIELDS if name in arguments}
    shape = arguments.get("conditional_shape")
    if shape is not None and len(shape):
        fields["condition"] = {"kind": "vector", "shape": list(shape)}
    elif shape is not None:
        fields["condition"] = {"kind": "scalar"}
    return PixelCNNConfig.from_json_dict(fields)


def read_npz(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[PixelCNNConfig, TfpWeights]:
    """Read arrays wn000/v, wn000/g, wn000/b, ..., hp000/kernel, hp000/b and the JSON `meta`.

    meta["config"] holds the arguments of tfd.PixelCNN, meta["layers"] the kind of each layer.
    """
    meta = json.loads(str(arrays["meta"]))
    layers = [
        TfpLayer(
            entry["type"],
            arrays[f"wn{k:03d}/v"],
            arrays.get(f"wn{k:03d}/g"),
            arrays[f"wn{k:03d}/b"],
        )
        for k, entry in enumerate(meta["layers"])
    ]
    projections = [
        (arrays[f"hp{k:03d}/kernel"], arrays[f"hp{k:03d}/b"])
        for k in itertools.takewhile(lambda k: f"hp{k:03d}/b" in arrays, itertools.count())
    ]
    return config_from_tfp(meta["config"]), TfpWeights(layers, projections)


def model_from_tfp(config: PixelCNNConfig, weights: TfpWeights) -> PixelCNN:
    """Return a model with TFP's weights, in their dtype, in evaluation mode."""
    model = PixelCNN(config).to(torch.from_numpy(np.asarray(weights.layers[0].bias)).dtype)
    import_weights(model, weights)
    return model.eval()


@torch.no_grad()
def import_weights(model: PixelCNN, weights: TfpWeights) -> None:
    """Copy TFP's weights into a model of the same configuration.

    Raises ValueError if the number, kind or shape of a layer differs or a masked tap is not 0.
    """
    layers = list(model.network.causal_layers())
    _check_count("layers", len(layers), len(weights.layers))
    queues = {kind: iter([s for s in weights.layers if s.kind == kind]) for kind in KINDS}
    joint = _joint_skips(model)
    for index, layer in enumerate(layers):
        source = next(queues[_kind(layer)], None)
        if source is None:
            raise ValueError(f"TFP model has too few {_kind(layer)} layers, at layer {index}")
        _import_layer(layer, source, index, is_joint=layer in joint)
    projections = _projections(model)
    _check_count("condition projections", len(projections), len(weights.projections))
    for projection, (kernel, bias) in zip(projections, weights.projections, strict=True):
        projection.weight.copy_(_tensor(kernel.T))
        projection.bias.copy_(_tensor(bias))


@torch.no_grad()
def export_weights(model: PixelCNN) -> TfpWeights:
    """Return the model's weights in TFP's layout, masked taps as zeros.

    An embedding table is folded into the kernels: TFP takes one-hot labels, or one number per
    class, with conditional_shape (num_classes,). Raises ValueError for models that tfd.PixelCNN
    lacks: a softmax head, or a condition that depends on the position.
    """
    _check_expressible(model.config)
    joint = _joint_skips(model)
    layers = [_export_layer(x, is_joint=x in joint) for x in model.network.causal_layers()]
    table = model.encoder.table
    projections = [
        (_array(p.weight.T if table is None else table @ p.weight.T), _array(p.bias))
        for p in _projections(model)
    ]
    return TfpWeights(layers, projections)


def _check_expressible(config: PixelCNNConfig) -> None:
    if config.head != "logistic":
        raise ValueError(
            f"tfd.PixelCNN has only a mixture of logistics, the model has the head {config.head!r}"
        )
    if config.condition.kind in ("embedding_map", "spatial"):
        raise ValueError(
            "tfd.PixelCNN adds the same condition at every position, the model's condition is of "
            f"kind {config.condition.kind!r}: none, one_hot, embedding, multi_label, vector and "
            "scalar can be exported"
        )


def _kind(layer: NormedLayer) -> str:
    if isinstance(layer, CroppedTransposedConv):
        return "Conv2DTranspose"
    return "Dense" if isinstance(layer, Dense) else "Conv2D"


def _joint_skips(model: PixelCNN) -> set[NormedLayer]:
    """Return the layers that in TFP read concat_elu of two concatenated tensors."""
    if model.config.resnet_activation != "concat_elu":
        return set()
    levels = range(model.config.num_hierarchies)
    pairs = itertools.chain(*(model.network.up_pairs(level) for level in levels))
    return {pair.horizontal.skip for pair in pairs if pair.horizontal.skip is not None}


def _projections(model: PixelCNN) -> list[Any]:
    blocks = model.network.gated_blocks()
    return [block.projection for block in blocks if block.projection is not None]


def _import_layer(layer: NormedLayer, source: TfpLayer, index: int, *, is_joint: bool) -> None:
    kernel = source.v[None, None] if source.v.ndim == 2 else source.v
    order = (2, 3, 0, 1) if source.kind == "Conv2DTranspose" else (3, 2, 0, 1)
    kernel = kernel.transpose(order)
    expected = (layer.num_outputs, layer.num_inputs, *_full_size(layer))
    if kernel.shape != expected:
        raise ValueError(f"layer {index}: expected a kernel of {expected}, found {kernel.shape}")
    if (layer.g is None) != (source.g is None):
        raise ValueError(f"layer {index}: only one of the two models has weight norm")
    rows, cols = _live_taps(layer)
    cropped = kernel[:, :, rows, cols]
    if np.count_nonzero(kernel) != np.count_nonzero(cropped):
        raise ValueError(
            f"layer {index} has weights at masked taps: TFP masks them after the first optimizer "
            "step only, and before it the model is not autoregressive; train it for one step"
        )
    layer.v.copy_(_swap_middle(_tensor(cropped)) if is_joint else _tensor(cropped))
    layer.bias.copy_(_tensor(source.bias))
    if layer.g is not None:
        layer.g.copy_(_tensor(source.g))


def _export_layer(layer: NormedLayer, *, is_joint: bool) -> TfpLayer:
    cropped = _array(_swap_middle(layer.v) if is_joint else layer.v)
    full = np.zeros((layer.num_outputs, layer.num_inputs, *_full_size(layer)), cropped.dtype)
    rows, cols = _live_taps(layer)
    full[:, :, rows, cols] = cropped
    kind = _kind(layer)
    order = (2, 3, 0, 1) if kind == "Conv2DTranspose" else (2, 3, 1, 0)
    kernel = full.transpose(order)
    g = None if layer.g is None else _array(layer.g)
    v = kernel[0, 0] if kind == "Dense" else kernel
    return TfpLayer(kind, np.ascontiguousarray(v), g, _array(layer.bias))


def _swap_middle(v: Tensor) -> Tensor:
    """Swap the second and third quarter of the inputs, elu(skip) and elu(-u); an involution."""
    first, second, third, fourth = v.chunk(4, dim=1)
    return torch.cat((first, third, second, fourth), dim=1)


def _full_size(layer: NormedLayer) -> tuple[int, int]:
    """Return rows and columns of TFP's kernel."""
    taps = layer.taps
    return (
        _full_length(layer, taps.row, taps.row + taps.height - 1, taps),
        _full_length(layer, taps.col, taps.col + taps.width - 1, taps),
    )


def _full_length(layer: NormedLayer, first: int, last: int, taps: Taps) -> int:
    """Return the length of the shortest kernel that has all taps under Keras' 'same' padding."""
    if isinstance(layer, CroppedTransposedConv):
        return max(2 * last, 2 - 2 * first)
    return 2 - 2 * first if taps.stride == 2 else 2 * max(-first, last) + 1


def _live_taps(layer: NormedLayer) -> tuple[slice, slice]:
    """Return the slices of the unmasked taps in TFP's kernel."""
    taps, (height, width) = layer.taps, _full_size(layer)
    odd = taps.stride == 1
    row = taps.row + ((height - 1) // 2 if odd else (height - 2) // 2)
    col = taps.col + ((width - 1) // 2 if odd else (width - 2) // 2)
    return slice(row, row + taps.height), slice(col, col + taps.width)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().contiguous().numpy()


def _check_count(what: str, here: int, there: int) -> None:
    if here != there:
        raise ValueError(f"the configuration has {here} {what}, the TFP model {there}")
