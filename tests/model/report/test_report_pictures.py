"""Pictures and plots of the report: geometry, direction of ink, equal bytes for equal input."""

import io

import numpy as np
from PIL import Image

from model.report.plots import curve_svg, per_class_svg
from pipelines.drawings.grids import GAP, grid, to_png, two_rows


def drawings(n: int, value: int = 255) -> np.ndarray:
    return np.full((n, 2, 3), value, dtype=np.uint8)


def test_ink_is_dark_and_paper_is_white():
    picture = grid([drawings(1)], scale=2)
    assert picture[0, 0] == 255
    assert (picture[GAP : GAP + 4, GAP : GAP + 6] == 0).all()


def test_grid_has_a_cell_for_every_drawing_of_the_longest_row():
    picture = grid([drawings(1), drawings(3)], scale=2)
    assert picture.shape == (2 * (4 + GAP) + GAP, 3 * (6 + GAP) + GAP)
    assert (picture[:8, 6 + 2 * GAP :] == 255).all()  # the short row is filled with paper


def test_real_drawings_are_above_generated_ones():
    picture = two_rows(drawings(2), drawings(1, value=0), scale=1)
    half = picture.shape[0] // 2
    assert picture[:half].min() == 0
    assert picture[half + 1 :].min() == 255


def test_png_holds_the_pixels_and_repeats_byte_for_byte():
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    encoded = to_png(picture)
    assert encoded == to_png(picture)
    assert (np.asarray(Image.open(io.BytesIO(encoded))) == picture).all()


def test_curve_has_a_line_for_each_class():
    rows = [{"nimg": 32 * i, "loss_bpd": 3 - 0.1 * i} for i in range(1, 9)]
    look = {"nimg": 256, "validation_bpd": 2.0}
    classes = {"validation_bpd/bee": 1.9, "validation_bpd/sun": 2.1}
    lines = [curve_svg([*rows, each]).count('id="line2d_') for each in (look, look | classes)]
    assert lines[1] == lines[0] + 2


def test_plots_are_svg_and_repeat_byte_for_byte():
    rows = [{"nimg": 32 * i, "loss_bpd": 3 - 0.1 * i} for i in range(1, 9)]
    rows[-1]["validation_bpd"] = 2.0
    first = curve_svg(rows)
    assert first.startswith("<svg")
    assert first == curve_svg(rows)
    assert "validation" in first
    assert "sea turtle" in per_class_svg({"sea turtle": 1.5, "sun": 1.0}, {"sun": 0.1})
