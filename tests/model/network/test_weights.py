"""A saved model is two files that need neither pickle nor the dataset."""

import json

import families
import pytest
import torch

from model.network.weights import CONFIG_NAME, WEIGHTS_NAME, load_model, model_files

NAMES = ("cat", "dog", "owl")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_loaded_model_gives_the_same_likelihood(name: str):
    config = families.FAMILIES[name]
    model = families.build(config)
    loaded = load_model(model_files(model)).model
    assert loaded.config == config
    value, given = families.images(config), families.condition(config)
    assert torch.equal(loaded(value, given), model(value, given))


def test_class_names_and_digest_come_back():
    model = families.build(families.FAMILIES["embedding"])
    saved = load_model(model_files(model, class_names=NAMES, dataset_digest="ab12"))
    assert saved.class_names == NAMES
    assert saved.dataset_digest == "ab12"
    assert not saved.model.training


def test_equal_models_are_equal_bytes():
    config = families.FAMILIES["embedding"]
    first = model_files(families.build(config), class_names=NAMES)
    assert first == model_files(families.build(config), class_names=NAMES)
    header_size = int.from_bytes(first[WEIGHTS_NAME][:8], "little")
    header = json.loads(first[WEIGHTS_NAME][8 : 8 + header_size])
    assert len(header.get("__metadata__", {})) <= 1


def test_wrong_number_of_class_names_is_refused():
    model = families.build(families.FAMILIES["embedding"])
    with pytest.raises(ValueError, match="3 classes, but 2 names"):
        model_files(model, class_names=NAMES[:2])


def test_damaged_files_are_refused():
    files = model_files(families.build(families.TINY))
    other = model_files(families.build(families.FAMILIES["elu"]))
    cases = [
        ({CONFIG_NAME: files[CONFIG_NAME]}, "needs the file weights.safetensors"),
        (files | {CONFIG_NAME: b"{"}, "cannot be read as JSON"),
        (files | {CONFIG_NAME: b'{"format_version": 99}'}, "version 99"),
        (files | {WEIGHTS_NAME: files[WEIGHTS_NAME][:-8]}, "damaged"),
        (files | {WEIGHTS_NAME: other[WEIGHTS_NAME]}, "does not fit"),
    ]
    for case, message in cases:
        with pytest.raises(ValueError, match=message):
            load_model(case)


def test_pickle_is_not_read():
    files = model_files(families.build(families.TINY))
    with pytest.raises(ValueError, match="damaged"):
        load_model(files | {WEIGHTS_NAME: b"\x80\x04\x95cos\nsystem\n."})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": None}, "config must be an object, found None"),
        ({"config": [1]}, "config must be an object"),
        ({"config": {"image_shape": 8}}, "does not fit this version"),
        ({"config": {"dropout_p": "half"}}, "does not fit this version"),
        ({"config": {"low": 0.5}}, "low and high must be integers"),
        ({"class_names": None}, "class_names must be a list"),
        ({"class_names": [1, 2]}, "class_names must be a list"),
        ({"dataset_digest": 7}, "dataset_digest must be text or null"),
    ],
)
def test_broken_config_is_refused_with_words(change: dict, message: str):
    files = model_files(families.build(families.TINY))
    header = json.loads(files[CONFIG_NAME]) | change
    with pytest.raises(ValueError, match=message):
        load_model(files | {CONFIG_NAME: json.dumps(header).encode()})


def test_missing_fields_of_the_header_are_refused():
    files = model_files(families.build(families.TINY))
    for name in ("config", "class_names"):
        header = json.loads(files[CONFIG_NAME])
        del header[name]
        with pytest.raises(ValueError, match=name):
            load_model(files | {CONFIG_NAME: json.dumps(header).encode()})
