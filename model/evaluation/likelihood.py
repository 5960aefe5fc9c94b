"""Log-likelihoods of drawings under one network, by the faster of two ways.

On a CPU that is the sampler in portable arithmetic, to which all pixels are given (for `tiny` several
times as fast as a forward pass by torch); on other devices, in other dtypes, and for networks that it
lacks, a forward pass.
"""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from model.network.conditioning import label_condition
from model.network.pixelcnn import PixelCNN
from model.sampling.portable import PortableSampler
from model.sampling.spec import PORTABLE_BLOCK, default_arithmetic
from pipelines.store.errors import LackError

# For all threads. A forward pass needs less where a wide network meets many cores.
_MAX_BYTES = 1 << 30


class Likelihood:
    """Measures drawings with a network as it is now; later changes may or may not count.

    batch  drawings to measure at once
    """

    def __init__(self, network: PixelCNN, *, batch_size: int) -> None:
        """Take a network; batch_size: drawings of one forward pass."""
        self._network, self.batch = network, batch_size
        self._portable: PortableSampler | None = None
        weight = network.network.output.bias
        is_float32 = weight.dtype == torch.float32 and weight.device.type == "cpu"
        if is_float32 and default_arithmetic(network.config, "float32") == "portable":
            self._portable = _sampler(network)
        if self._portable is not None:
            self.batch = PORTABLE_BLOCK * torch.get_num_threads()

    def __call__(self, images: Tensor, labels: npt.NDArray[np.int64]) -> Float[Tensor, " batch"]:
        """Return log p(image | label) in nats, float64 on the CPU.

        images: [n, channels, height, width]. Raises ValueError if they do not fit the network.
        """
        if self._portable is not None and images.dtype == torch.uint8:
            self._network.check_images(images)
            pixels = images[:, 0].numpy()
            ones = np.ones(pixels.shape, np.bool_)
            # Of numbers that no pixel reads, as all are given.
            unread = np.broadcast_to(0.5, (len(pixels), 2, *pixels.shape[1:]))
            return torch.from_numpy(self._portable.draw(labels, unread, pixels, ones)[1])
        device = self._network.network.output.bias.device
        condition = label_condition(self._network.config, labels)
        was_training = self._network.training
        self._network.eval()
        try:
            with torch.inference_mode():
                given = None if condition is None else condition.to(device)
                return self._network(images.to(device), given).double().cpu()
        finally:
            self._network.train(was_training)


def _sampler(network: PixelCNN) -> PortableSampler | None:
    """Return a sampler that uses torch's number of threads; None if it cannot be had."""
    try:
        sampler = PortableSampler(network, threads=torch.get_num_threads())
    except LackError:  # a compiler that fails, which model.network.kernels.native has said
        return None
    return sampler if sampler.num_bytes <= _MAX_BYTES else None
