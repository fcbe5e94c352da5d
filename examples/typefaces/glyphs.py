"""The question: how many pixels does it take to recognise a character in a typeface one has never seen?

The data are the typefaces that matplotlib ships. Every character of every font is drawn on a grid of a few pixels and
is then a query: the glyphs of all other typefaces are ranked by their distance to it, and the average precision says
how far to the front the same character comes. How many there are of it, among how many, decides how much of that would
be chance: these two numbers are the configuration of the query.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FACES = {
    "DejaVu Sans": [f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")],
    "DejaVu Sans Mono": [f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")],
    "DejaVu Serif": [f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")],
    "STIX": [f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")],
}
ALPHABETS = {
    "Latin letters": range(0x41, 0x7B),
    "Latin Extended-B": range(0x180, 0x250),
    "Phonetic (IPA)": range(0x250, 0x2B0),
    "Greek": range(0x370, 0x400),
    "Cyrillic": range(0x400, 0x460),
    "Punctuation": range(0x2010, 0x2070),
    "Letterlike symbols": range(0x2100, 0x2150),
    "Arrows": range(0x2190, 0x2200),
    "Mathematical operators": range(0x2200, 0x2300),
    "Technical symbols": range(0x2300, 0x2400),
    "Geometric shapes": range(0x25A0, 0x2600),
}
GRIDS = (1, 2, 3, 4, 6, 8, 12, 16)  # pixels to a side
CANVAS, EM, BASELINE = 48, 40, 37  # pixels that glyphs are drawn on at first, of a letter's square, and from the top


@dataclass(frozen=True)
class Glyphs:
    """The glyphs of an alphabet: each one's character, typeface, and picture of 48 by 48 pixels from 0 to 255."""

    character: NDArray[np.int64]
    face: NDArray[np.int64]
    picture: NDArray[np.uint8]


def draw(alphabet: str) -> Glyphs:
    """Draw all characters of an alphabet that at least two typefaces have."""
    found = [
        (code, number, path)
        for number, fonts in enumerate(FACES.values())
        for path in (os.path.join(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf") for font in fonts)
        for code in sorted(FT2Font(path).get_charmap().keys() & set(ALPHABETS[alphabet]))
        if chr(code).isprintable()
    ]
    faces: dict[int, set[int]] = {}
    for code, number, _ in found:
        faces.setdefault(code, set()).add(number)
    found = [item for item in found if len(faces[item[0]]) > 1]
    character, face, _ = zip(*found, strict=True)
    return Glyphs(np.array(character), np.array(face), np.array([_picture(chr(code), path) for code, _, path in found]))


def _picture(character: str, path: str) -> NDArray[np.uint8]:
    font = ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(image).text((CANVAS // 2, BASELINE), character, font=font, fill=255, anchor="ms")
    return np.asarray(image)


def configurations(glyphs: Glyphs) -> NDArray[np.int64]:
    """For each glyph, how many glyphs of its character other typefaces have, among how many of theirs."""
    codes, character = np.unique(glyphs.character, return_inverse=True)
    counts = np.zeros((len(codes), len(FACES)), dtype=np.int64)
    np.add.at(counts, (character, glyphs.face), 1)
    elsewhere = counts.sum(axis=1, keepdims=True) - counts
    return np.stack([elsewhere[character, glyphs.face], elsewhere.sum(axis=0)[glyphs.face]], axis=1)


def shrink(pictures: NDArray[np.uint8], grid: int) -> NDArray[np.float32]:
    """The pictures on a grid of so many pixels to a side; each pixel is the mean of those it covers."""
    side = CANVAS // grid
    return pictures.reshape(len(pictures), grid, side, grid, side).mean(axis=(2, 4), dtype=np.float32)


def average_precision(glyphs: Glyphs, grid: int) -> NDArray[np.float64]:
    """For each glyph as a query, the mean of the precision at each rank where its character is found."""
    pixels = shrink(glyphs.picture, grid).reshape(len(glyphs.picture), -1)
    squares = (pixels**2).sum(axis=1)
    scores = np.empty(len(pixels))
    for query, distances in enumerate(squares - 2 * pixels @ pixels.T):
        others = glyphs.face != glyphs.face[query]
        right = np.sort(distances[others & (glyphs.character == glyphs.character[query])])
        ranks = np.searchsorted(np.sort(distances[others]), right, side="right")  # what is just as near comes before
        scores[query] = np.mean(np.arange(1, len(right) + 1) / ranks)
    return scores


def significance(
    glyphs: Glyphs, scores: NDArray[np.float64], null_dists: NDArray[np.float32]
) -> dict[str, tuple[float, float]]:
    """For each character its mean average precision, and the probability that chance does as well.

    Args: null_dists: for each glyph, the scores of random rankings.
    """
    found = {}
    for code in np.unique(glyphs.character):
        own = glyphs.character == code
        score, chance = float(scores[own].mean()), null_dists[own].mean(axis=0)
        found[chr(code)] = score, float((1 + np.count_nonzero(chance >= score)) / (1 + len(chance)))
    return found
