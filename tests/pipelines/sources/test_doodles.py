import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipelines.catalogue import SEED_CLASSES
from pipelines.sources.base import SourceOptions
from pipelines.sources.doodles.make import SHAPES, draw, google_npy, render, write_doodles
from pipelines.sources.doodles.rasterize import rasterize
from pipelines.sources.registry import open_source
from pipelines.sources.strokes.cairo import render_drawings


def test_every_class_of_the_seed_can_be_drawn():
    assert tuple(SHAPES) == SEED_CLASSES


@pytest.mark.parametrize("class_name", SEED_CLASSES)
def test_drawings_are_whole_numbers_that_fill_the_page(class_name):
    for strokes in draw(class_name, 0, 40):
        points = np.concatenate(strokes)
        assert points.min() == 0
        assert points.max() == 255
        assert all(len(stroke) for stroke in strokes)


def test_a_larger_set_begins_with_the_smaller_one():
    few, many = draw("frog", 3, 5), draw("frog", 3, 200)
    for a, b in zip(few, many[:5], strict=True):
        assert [s.tolist() for s in a] == [s.tolist() for s in b]


def test_a_seed_decides_everything_and_another_changes_everything():
    images = render(draw("tree", 0, 30))
    assert np.array_equal(images, render(draw("tree", 0, 30)))
    other = render(draw("tree", 1, 30))
    assert not any(np.array_equal(a, b) for a, b in zip(images, other, strict=True))


@pytest.mark.slow
def test_no_two_drawings_of_a_class_are_equal():
    for class_name in SEED_CLASSES:
        images = render(draw(class_name, 0, 100))
        assert len({image.tobytes() for image in images}) == 100, class_name


@pytest.mark.slow
def test_classes_are_told_apart_by_their_mean_drawing():
    # Nearest class mean: drawings of a class look more like it than like the others.
    right = total = 0
    sets = {name: render(draw(name, 0, 120)).astype(float) for name in SEED_CLASSES}
    means = np.stack([images[:80].mean(axis=0) for images in sets.values()])
    for label, images in enumerate(sets.values()):
        for image in images[80:]:
            right += int(((means - image) ** 2).sum(axis=(1, 2)).argmin()) == label
            total += 1
    assert right / total > 0.5


def test_our_rasterizer_is_close_to_the_official_one():
    drawings = [d for name in SEED_CLASSES for d in draw(name, 0, 5)]
    ours, official = rasterize(drawings).astype(float), render_drawings(drawings).astype(float)
    # Anti-aliasing differs a little; the ink is at the same places.
    assert np.abs(ours - official).mean() < 8
    assert np.corrcoef(ours.ravel(), official.ravel())[0, 1] > 0.97


def test_a_dot_and_a_line_have_the_width_of_the_official_ones():
    radius = 8 * 28 / 304
    line = rasterize([[np.array([[0, 128], [255, 128]])]])[0]
    # A column in the middle holds as much ink as the line is wide.
    assert abs(line[:, 14].sum() / 255 - 2 * radius) < 0.1
    dot = rasterize([[np.array([[10, 10]])]])[0]
    assert dot.max() > 128
    assert rasterize([]).shape == (0, 28, 28)


def test_the_header_is_googles_eighty_bytes(tmp_path):
    images = np.zeros((12_345, 28, 28), np.uint8)
    content = google_npy(images)
    assert len(content) == 80 + 12_345 * 784
    (tmp_path / "x.npy").write_bytes(content)
    assert np.load(tmp_path / "x.npy").shape == (12_345, 784)


def test_files_are_in_googles_formats_and_made_once(tmp_path):
    seen = []
    root = write_doodles(
        tmp_path, ("bee", "sun"), per_class=30, progress=lambda *args: seen.append(args)
    )
    assert seen[-1][:3] == ("doodles", 60, 60)
    lines = (root / "simplified" / "sun.ndjson").read_text().splitlines()
    first = json.loads(lines[0])
    assert set(first) == {
        "word", "countrycode", "timestamp", "recognized", "key_id", "drawing",
    }  # fmt: skip
    strokes = [np.array(stroke).T for stroke in first["drawing"]]
    image = np.load(root / "numpy_bitmap" / "sun.npy")[0].reshape(28, 28)
    assert np.array_equal(rasterize([strokes])[0], image)
    made = (root / "numpy_bitmap" / "sun.npy").stat().st_mtime_ns
    write_doodles(tmp_path, ("bee", "sun"), per_class=30)
    assert (root / "numpy_bitmap" / "sun.npy").stat().st_mtime_ns == made


def test_who_draws_beside_another_waits_and_draws_nothing(tmp_path, monkeypatch):
    begin, drawn = threading.Barrier(2), []

    def slowly(*arguments):
        drawn.append(arguments)
        time.sleep(0.2)
        return draw(*arguments)

    def write(_):
        begin.wait()
        return write_doodles(tmp_path, ["bee"], per_class=8)

    monkeypatch.setattr("pipelines.sources.doodles.make.draw", slowly)
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(write, range(2)))) == 1
    assert len(drawn) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_the_source_says_that_it_is_synthetic(tmp_path):
    source = open_source("doodles", ["sun"], tmp_path, SourceOptions(doodles_per_class=5))
    assert source.is_synthetic
    with pytest.raises(ValueError, match="doodles cannot draw cat; it draws bee"):
        open_source("doodles", ["cat"], tmp_path)


def test_doodles_need_neither_cairo_nor_beam():
    code = (
        "import sys; from pathlib import Path; from pipelines.sources.doodles.make import draw, render; "
        "render(draw('sun', 0, 2)); "
        "print(sorted(set(sys.modules) & {'cairocffi', 'apache_beam', 'torch', 'tensorflow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_strokes_without_cairo_are_refused_with_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cairocffi", None)
    with pytest.raises(ValueError, match="apt-get install libcairo2"):
        render_drawings(draw("sun", 0, 1))
