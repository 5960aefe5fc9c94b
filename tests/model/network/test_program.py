"""A model's log-likelihood as a program of torch.export: alone, of any batch, of any kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.network.conditioning import label_condition
from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.network.program import export_log_prob
from model.network.weights import load_model
from model.shipped import read_shipped

OURS = ("model", "pipelines", "flows", "sketchmill")
# Run in an empty folder by a Python that knows the folder of torch and nothing of this package.
READER = f"""
import importlib.abc, sys
class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OURS!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
sys.path.append(sys.argv[1])
import numpy as np, torch
images, labels = (torch.from_numpy(np.load(name)) for name in ("images.npy", "labels.npy"))
program = torch.export.load("model.pt2").module()
np.save("nats.npy", np.concatenate([program(images[:1], labels[:1]), program(images, labels)]))
print([name for name in {OURS!r} if name in sys.modules])
"""


@pytest.mark.slow
def test_the_program_of_the_shipped_model_runs_without_this_package(tmp_path):
    saved = load_model(read_shipped("tiny-20")[1])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 1, 28, 28), np.uint8)
    labels = rng.integers(0, 20, 7)
    expected = saved.model.log_prob(torch.from_numpy(images), torch.from_numpy(labels))
    export_log_prob(saved.model, tmp_path / "model.pt2")
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    packages = str(Path(torch.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-c", READER, packages]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    nats = np.load(tmp_path / "nats.npy")
    want = expected.numpy(force=True)
    np.testing.assert_allclose(nats, [want[0], *want], rtol=1e-4)


def small_model(kind: str, head: str = "logistic") -> PixelCNN:
    """Return a model of 4x4 pictures whose convolutions would be those of our own kernels."""
    torch.manual_seed(0)
    condition = ConditionConfig(kind=kind, num_classes=3, embedding_dim=4, shape=(4, 4, 1))
    config = PixelCNNConfig(
        image_shape=(4, 4, 1),
        num_resnet=1,
        num_hierarchies=1,
        num_filters=16,
        num_logistic_mix=2,
        head=head,
        condition=condition if kind != "none" else ConditionConfig(),
    )
    return PixelCNN(config).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "head"),
    [("none", "softmax"), ("multi_label", "logistic"), ("scalar", "logistic")],
)
def test_a_program_equals_the_model_it_was_made_of(kind, head, tmp_path):
    model = small_model(kind, head)
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 1, 0])
    expected = model.log_prob(images, label_condition(model.config, labels.numpy()))
    program = torch.export.load(export_log_prob(model, tmp_path / "model.pt2"))
    torch.testing.assert_close(
        program.module()(images, labels), expected.detach(), rtol=1e-5, atol=0
    )
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    foreign = [str(target) for target in called if getattr(target, "namespace", "aten") != "aten"]
    assert foreign == []


@pytest.mark.parametrize("kind", ["vector", "spatial"])
def test_a_model_that_takes_no_label_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match=f"conditioned on a {kind}"):
        export_log_prob(small_model(kind), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
