"""Odd drawings come first, and a model that knows its classes tells them apart."""

import dataclasses

import families
import pytest
import torch

from model.evaluation.classify import class_log_probs, confusion, posterior, score_batches, worst
from model.network.config import ConditionConfig
from model.network.pixelcnn import PixelCNN, initialize_from_data

CONFIG = dataclasses.replace(
    families.TINY,
    image_shape=(4, 4, 1),
    high=3,
    dropout_p=0.0,
    condition=ConditionConfig(kind="embedding", num_classes=2, embedding_dim=4),
)


def drawings(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of ink (class 0) and columns of ink (class 1)."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(num) % 2
    place = torch.randint(0, 4, (num,), generator=generator)
    value = torch.zeros(num, 1, 4, 4)
    for i in range(num):
        line = value[i, 0, place[i]] if label[i] == 0 else value[i, 0, :, place[i]]
        line.fill_(3.0)
    return value, label


@pytest.fixture(scope="module")
def trained() -> PixelCNN:
    torch.manual_seed(0)
    model = PixelCNN(CONFIG)
    initialize_from_data(model, *drawings(32, seed=0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(60):
        value, label = drawings(32, seed=step)
        optimizer.zero_grad()
        (-model(value, label).mean()).backward()
        optimizer.step()
    return model


@pytest.mark.slow
def test_scribbles_and_mislabeled_drawings_rank_worst(trained: PixelCNN):
    value, label = drawings(16, seed=100)
    value[5] = torch.tensor([[0, 3], [3, 0]]).repeat(2, 2)
    label[10] = 1 - label[10]
    batches = [(value[:7], label[:7]), (value[7:], label[7:])]
    found = worst(score_batches(trained, batches), 2)
    assert {score.row for score in found} == {5, 10}
    assert found[0].bits_per_dim >= found[1].bits_per_dim


def test_scores_are_bits_per_dim_under_the_own_label(trained: PixelCNN):
    value, label = drawings(5, seed=1)
    found = [score.bits_per_dim for score in score_batches(trained, [(value, label)])]
    expected = trained.bits_per_dim(value, label).double()
    torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=1e-5, atol=1e-5)


def test_bayes_classifier_tells_rows_from_columns(trained: PixelCNN):
    value, label = drawings(40, seed=200)
    log_probs = class_log_probs(trained, value)
    torch.testing.assert_close(
        log_probs.gather(1, label[:, None])[:, 0].float(), trained(value, label).detach()
    )
    chosen = posterior(log_probs).argmax(1)
    assert confusion(label, chosen, 2).trace() == 40


def test_mode_is_given_back_and_gradients_are_left_alone(trained: PixelCNN):
    trained.train()
    class_log_probs(trained, drawings(2, seed=0)[0])
    assert trained.training
    assert trained(*drawings(2, seed=0)).requires_grad


def test_posterior_of_hopeless_likelihoods_is_finite():
    found = posterior(torch.tensor([[-1e5, -1e5 - 1.0]], dtype=torch.float64))
    torch.testing.assert_close(found[0, 0], torch.sigmoid(torch.tensor(1.0)).double())


def test_model_without_labels_cannot_classify():
    with pytest.raises(ValueError, match="needs a model of one label"):
        class_log_probs(families.build(families.TINY), families.images(families.TINY))
