"""Training presets, each with its measured result.

`preset(name)` returns a spec for any dataset; `model.training.spec.fit_to_dataset` gives it the
dataset's image shape and classes, `model.training.spec.apply_overrides` changes single fields.
Results are on the article's 20 classes of real drawings; see model/EXPERIMENTS.md.
"""

import dataclasses
from collections.abc import Callable, Mapping

from model.network.config import ConditionConfig, PixelCNNConfig
from model.training.spec import TrainSpec


def tiny() -> TrainSpec:
    """Test 1.621 bits/dim; 24,000 drawings, 4 to 8 minutes on two CPU cores with its evaluation.

    From a model of 15 of the classes 1.620 after 6,000; doodles 1.80 from tiny-20, 1.81 from noise.
    With the default guidance most drawings are recognizable; sea turtles, frogs and pizzas are the
    least so. A classifier recognizes 88 in 100, and 93 in 100 real ones.
    """
    return TrainSpec(
        network=PixelCNNConfig(
            num_resnet=1,
            num_hierarchies=3,
            num_filters=16,
            num_logistic_mix=5,
            dropout_p=0.0,
            # In a short training, maps teach a class's ink positions sooner than the pixels do.
            condition=ConditionConfig(
                kind="embedding_map", num_classes=1, embedding_dim=16, dropout_p=0.1
            ),
        ),
        budget_nimg=24_000,
        batch_size=16,
        learning_rate=2e-2,
        muon_learning_rate=0.1,
        warmup_nimg=800,
        decay="cosine",
        clip_norm=200.0,
        ema_halflife_nimg=1_000,
    )


def small() -> TrainSpec:
    """Test 1.510 bits/dim; 50,000 drawings, 16 minutes on two CPU cores with AVX-512.

    A classifier recognizes 91 in 100 drawings at guidance 1.5, 94 at 2 and 96 at the default of
    2.5, and 93 in 100 real ones; variety falls beyond 2. Sea turtles and tractors are the least
    recognizable.
    """
    less = tiny()
    return dataclasses.replace(
        less,
        network=dataclasses.replace(less.network, num_resnet=2, num_filters=32),
        budget_nimg=50_000,
        learning_rate=1e-2,
        warmup_nimg=2_000,
        ema_halflife_nimg=2_000,
    )


def article() -> TrainSpec:
    """Test bits/dim and time not measured yet; ten epochs, for one GPU or more.

    The article's tfd.PixelCNN: 5 resnets, 3 hierarchies, 128 filters, 5 mixtures, dropout 0.5,
    Adam with 1e-3, batch 32. The label embedding and the weight average are additions.
    """
    return TrainSpec(
        network=PixelCNNConfig(
            num_resnet=5,
            num_hierarchies=3,
            num_filters=128,
            num_logistic_mix=5,
            dropout_p=0.5,
            condition=_labels(64),
        ),
        num_epochs=10,
        batch_size=32,
        learning_rate=1e-3,
    )


def large() -> TrainSpec:
    """Test bits/dim and time not measured yet; forty epochs in bfloat16, for several GPUs.

    The width of openai/pixel-cnn with Muon, which needed three times fewer drawings than Adam
    alone (model/EXPERIMENTS.md), warm-up and cosine decay. The rates are half of `small`'s, an
    assumption: an orthogonal step has the same spectral norm at any width, and the long schedule
    allows a conservative rate. Adam, with pixel-cnn's betas, trains the remaining parameters.
    """
    return TrainSpec(
        network=PixelCNNConfig(
            num_resnet=5,
            num_hierarchies=3,
            num_filters=160,
            num_logistic_mix=10,
            dropout_p=0.3,
            condition=_labels(128),
        ),
        num_epochs=40,
        batch_size=256,
        learning_rate=5e-3,
        muon_learning_rate=0.05,
        warmup_nimg=100_000,
        decay="cosine",
        beta1=0.95,
        beta2=0.9995,
        clip_norm=200.0,
        ema_halflife_nimg=200_000,
        init_nimg=256,
        precision="bfloat16",
    )


def _labels(embedding_dim: int) -> ConditionConfig:
    # fit_to_dataset sets the number of classes.
    return ConditionConfig(kind="embedding", num_classes=1, embedding_dim=embedding_dim)


PRESETS: Mapping[str, Callable[[], TrainSpec]] = {
    "tiny": tiny,
    "small": small,
    "article": article,
    "large": large,
}


# Former names of presets; "seed" named the article that this project started from.
ALIASES = {"seed": "article"}


def preset(name: str, *, is_warm: bool = False) -> TrainSpec:
    """Return a preset by name; raise ValueError that lists the known names.

    is_warm: with the schedule for a start from a model.
    """
    name = ALIASES.get(name, name)
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    spec = PRESETS[name]()
    return warm(spec) if is_warm else spec


def warm(spec: TrainSpec) -> TrainSpec:
    """Return a spec with the schedule for a start from a model: a quarter of the drawings.

    Adam's rate is half for what the classes share, whole for their codes; drawings of new classes
    come twice as often (model/EXPERIMENTS.md).
    """
    return dataclasses.replace(
        spec,
        budget_nimg=spec.budget_nimg // 4,
        num_epochs=spec.num_epochs / 4,
        learning_rate=spec.learning_rate / 2,
        table_learning_rate=spec.learning_rate,
        warmup_nimg=spec.warmup_nimg // 4,
        decay="cosine",
        ema_halflife_nimg=spec.ema_halflife_nimg * 2 // 5,
        new_class_weight=2.0,
    )
