"""Whether a picture that a notebook shows is that of a figure's file, which has another resolution."""

import numpy as np
from PIL import Image

SAVED_DPI, SHOWN_DPI = 150, 100
BLOCK = 16
MARGIN = 16
SAME_PICTURE = 0.2
"""The largest share of ink that lies elsewhere in the same picture drawn at another resolution.

Of the committed figures of mini it is at most 0.15, as text is rounded to other pixels. Those of the other models, which have
the same axes and legends, have at least 0.28, and other figures of the same notebook at least 0.6. So another version of a
figure is found, but not one point that moved: numbers are compared in the csv.
"""


def ink_elsewhere(saved: Image.Image, shown: Image.Image) -> float:
    """The share of ink that a picture, saved at 150 dpi, has in other places than one shown at 100 dpi; 1 for other sizes.

    Both are compared in blocks of 16 pixels, at the offset that fits best: the widths of text, rounded to whole pixels, move
    the edges to which a picture is cropped.
    """
    scale = SHOWN_DPI / SAVED_DPI
    saved = saved.convert("RGB").resize((round(saved.width * scale), round(saved.height * scale)), Image.Resampling.BOX)
    apart = shown.width - saved.width, shown.height - saved.height
    if max(map(abs, apart)) > MARGIN:
        return 1.0
    size = shown.width + 2 * MARGIN, shown.height + 2 * MARGIN
    expected = blocks(shown.convert("RGB"), size, (MARGIN, MARGIN))
    offsets = [(x, y) for x in {-1, 0, 1, apart[0]} for y in {-1, 0, 1, apart[1]}]
    moved = [blocks(saved, size, (MARGIN + x, MARGIN + y)) for x, y in offsets]
    return min(float(np.abs(ink - expected).sum() / max(ink.sum(), expected.sum())) for ink in moved)


def blocks(picture: Image.Image, size: tuple[int, int], place: tuple[int, int]) -> np.ndarray:
    """The ink (255 is black) of each block and colour of a picture laid on white paper of a size, (rows, columns, 3)."""
    paper = Image.new("RGB", size, "white")
    paper.paste(picture, place)
    return 255.0 - np.asarray(paper.resize((size[0] // BLOCK, size[1] // BLOCK), Image.Resampling.BOX), dtype=float)
