"""The 43 traffic signs of GTSRB, drawn: shape, colours, and a numeral or pictogram.

Coordinates run from -1 to 1 over the sign, x to the right and y downwards. Simplified on purpose: at 32 pixels a deer
is a body, four legs and two antlers.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Points = Sequence[tuple[float, float]]
Mark = tuple[str | None, float, Points]  # colour (None: the pictogram's own), width of the line (0: an area), points

WHITE, BLACK, RED, BLUE = "#f2f2f0", "#1c1c1e", "#bf1e2e", "#1d5fae"
YELLOW, GREY, GREEN = "#f2b31b", "#85888c", "#2c9a57"
OVERSAMPLING = 4  # drawn so much larger, then averaged: Pillow draws without smooth edges

SIGNS: Sequence[tuple[str, str, str]] = (  # name, plate, what is on it
    ("speed limit 20", "ring", "20"), ("speed limit 30", "ring", "30"), ("speed limit 50", "ring", "50"),
    ("speed limit 60", "ring", "60"), ("speed limit 70", "ring", "70"), ("speed limit 80", "ring", "80"),
    ("end of speed limit 80", "end", "80"), ("speed limit 100", "ring", "100"), ("speed limit 120", "ring", "120"),
    ("no passing", "ring", "two cars"), ("no passing for vehicles over 3.5 t", "ring", "lorry and car"),
    ("right-of-way at the next intersection", "triangle", "crossing"), ("priority road", "diamond", ""),
    ("yield", "yield", ""), ("stop", "octagon", "STOP"), ("no vehicles", "ring", ""),
    ("vehicles over 3.5 t prohibited", "ring", "lorry"), ("no entry", "red disc", "bar"),
    ("general caution", "triangle", "!"), ("dangerous curve to the left", "triangle", "curve left"),
    ("dangerous curve to the right", "triangle", "curve right"), ("double curve", "triangle", "double curve"),
    ("bumpy road", "triangle", "bumps"), ("slippery road", "triangle", "skidding car"),
    ("road narrows on the right", "triangle", "narrow"), ("road work", "triangle", "digger"),
    ("traffic signals", "triangle", "lights"), ("pedestrians", "triangle", "walker"),
    ("children crossing", "triangle", "children"), ("bicycles crossing", "triangle", "bicycle"),
    ("beware of ice or snow", "triangle", "snowflake"), ("wild animals crossing", "triangle", "deer"),
    ("end of all speed and passing limits", "end", ""), ("turn right ahead", "blue disc", "turn right"),
    ("turn left ahead", "blue disc", "turn left"), ("ahead only", "blue disc", "ahead"),
    ("go straight or right", "blue disc", "ahead or right"), ("go straight or left", "blue disc", "ahead or left"),
    ("keep right", "blue disc", "keep right"), ("keep left", "blue disc", "keep left"),
    ("roundabout mandatory", "blue disc", "roundabout"), ("end of no passing", "end", "two cars"),
    ("end of no passing for vehicles over 3.5 t", "end", "lorry and car"),
)


def _regular(corners: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    """A regular polygon, one corner at the top when ``turn`` (degrees) is 0; many corners make a disc."""
    angles = np.radians(turn + 360 * np.arange(corners) / corners)
    return [(float(radius * np.sin(a)), float(-radius * np.cos(a))) for a in angles]


def _disc(x: float, y: float, radius: float, colour: str | None = None) -> Mark:
    return colour, 0, [(x + dx, y + dy) for dx, dy in _regular(24, radius)]


def _moved(marks: Sequence[Mark], scale: float = 1, x: float = 0, y: float = 0, mirror: bool = False,
           colour: str | None = None) -> list[Mark]:
    side = -scale if mirror else scale
    return [(colour or own, width * scale, [(side * px + x, scale * py + y) for px, py in points])
            for own, width, points in marks]


GLYPHS: dict[str, Points] = {  # strokes in a box 1 wide and 2 high
    "0": [(.3, 0), (.7, 0), (1, .4), (1, 1.6), (.7, 2), (.3, 2), (0, 1.6), (0, .4), (.3, 0)],
    "1": [(.1, .5), (.6, 0), (.6, 2)],
    "2": [(0, .5), (.3, 0), (.75, 0), (1, .4), (.9, .9), (0, 2), (1, 2)],
    "3": [(0, .1), (1, .1), (.45, .85), (1, 1.2), (1, 1.6), (.7, 2), (.3, 2), (0, 1.7)],
    "5": [(1, 0), (.1, 0), (0, .9), (.7, .8), (1, 1.2), (1, 1.6), (.7, 2), (.25, 2), (0, 1.75)],
    "6": [(.85, 0), (.3, .5), (0, 1.2), (0, 1.7), (.3, 2), (.7, 2), (1, 1.6), (.85, 1.1), (.3, 1), (0, 1.3)],
    "7": [(0, 0), (1, 0), (.35, 2)],
    "8": [(.5, .9), (.1, .6), (.15, .2), (.5, 0), (.85, .2), (.9, .6), (.5, .9), (0, 1.3), (.05, 1.75), (.5, 2),
          (.95, 1.75), (1, 1.3), (.5, .9)],
    "S": [(1, .3), (.7, 0), (.3, 0), (0, .4), (.2, .8), (.8, 1.2), (1, 1.6), (.7, 2), (.3, 2), (0, 1.7)],
    "T": [(0, 0), (1, 0), (.5, 0), (.5, 2)],
    "O": [(.3, 0), (.7, 0), (1, .4), (1, 1.6), (.7, 2), (.3, 2), (0, 1.6), (0, .4), (.3, 0)],
    "P": [(0, 2), (0, 0), (.7, 0), (1, .3), (1, .8), (.7, 1.1), (0, 1.1)],
}
CAR: list[Mark] = [(None, 0, [(-.3, -.05), (-.2, -.25), (.2, -.25), (.3, -.05), (.3, .2), (-.3, .2)]),
                   (None, .1, [(-.22, .15), (-.22, .3)]), (None, .1, [(.22, .15), (.22, .3)])]
LORRY: list[Mark] = [(None, 0, [(-.32, -.42), (.32, -.42), (.32, .2), (-.32, .2)]),
                     (None, .12, [(-.22, .15), (-.22, .32)]), (None, .12, [(.22, .15), (.22, .32)])]
WALKER: list[Mark] = [_disc(0, -.38, .1), (None, .13, [(0, -.25), (.02, .1)]),
                      (None, .1, [(.02, .1), (-.2, .45)]), (None, .1, [(.02, .1), (.18, .45)]),
                      (None, .08, [(-.2, .05), (0, -.18), (.2, .02)])]
CURVE: list[Mark] = [(None, .15, [(.25, .5), (.25, .1), (-.1, -.15), (-.1, -.25)]),
                     (None, 0, [(-.32, -.2), (.12, -.2), (-.1, -.5)])]
AHEAD: list[Mark] = [(None, .2, [(0, .65), (0, -.2)]), (None, 0, [(-.32, -.15), (.32, -.15), (0, -.65)])]
TURN: list[Mark] = [(None, .2, [(-.3, .6), (-.3, -.05), (.15, -.05)]), (None, 0, [(.1, -.4), (.1, .3), (.6, -.05)])]
BRANCH: list[Mark] = [(None, .17, [(-.2, .65), (-.2, -.3)]), (None, 0, [(-.45, -.25), (.05, -.25), (-.2, -.65)]),
                      (None, .17, [(-.2, .15), (.25, .15)]), (None, 0, [(.2, -.12), (.2, .42), (.6, .15)])]
KEEP: list[Mark] = [(None, .24, [(-.4, -.4), (.2, .2)]), (None, 0, [(.5, .5), (.45, -.15), (-.15, .45)])]
ROUND: list[Mark] = [(None, .16, [(.45 * np.sin(a), -.45 * np.cos(a)) for a in np.linspace(start, start + 1.45, 8)])
                     for start in np.radians((10, 130, 250))]
ROUND_HEADS: list[Mark] = [(None, 0, [(r * np.sin(a), -r * np.cos(a)) for r, a in
                                      ((.2, start), (.7, start), (.45, start + .6))])
                           for start in np.radians((88, 208, 328))]
DEER: list[Mark] = [(None, 0, [(-.6, .05), (-.05, -.05), (.08, -.3), (.26, -.25), (.12, .15), (-.55, .25)]),
                    *[(None, .09, [(x, .1), (x + lean, .5)]) for x, lean in ((-.55, -.03), (-.4, .05), (-.05, -.05),
                                                                              (.06, .06))],
                    (None, .05, [(.1, -.25), (.0, -.5)]), (None, .05, [(.14, -.25), (.22, -.5)])]
PICTOGRAMS: dict[str, list[Mark]] = {
    "": [],
    "two cars": _moved(CAR, 1, -.33, 0, colour=RED) + _moved(CAR, 1, .35),
    "lorry and car": _moved(LORRY, 1, -.33, 0, colour=RED) + _moved(CAR, .9, .38, .05),
    "lorry": _moved(LORRY, 1.25),
    "bar": [(WHITE, .34, [(-.68, 0), (.68, 0)])],
    "crossing": [(None, .24, [(0, .5), (0, -.25)]), (None, 0, [(-.2, -.2), (.2, -.2), (0, -.5)]),
                 (None, .13, [(-.38, .2), (.38, .2)])],
    "!": [(None, .2, [(0, -.5), (0, .15)]), _disc(0, .4, .12)],
    "curve left": CURVE,
    "curve right": _moved(CURVE, mirror=True),
    "double curve": [(None, .16, [(.15, .55), (.15, .35), (-.2, .15), (.2, -.1), (0, -.25)]),
                     (None, 0, [(-.2, -.15), (.15, -.3), (-.12, -.52)])],
    "bumps": [(None, 0, [(-.6, .4), (-.45, .1), (-.25, .1), (-.08, .35), (.08, .35), (.25, .1), (.45, .1), (.6, .4)])],
    "skidding car": [*_moved(CAR, .95, .08, -.18), (None, .08, [(-.2, .15), (-.05, .3), (-.25, .42), (-.1, .55)]),
                     (None, .08, [(.2, .15), (.35, .3), (.15, .42), (.3, .55)])],
    "narrow": [(None, .14, [(-.18, .52), (-.18, -.35)]), (None, .14, [(.34, .52), (.34, .2), (.14, .0), (.14, -.35)])],
    "digger": [_disc(-.05, -.38, .1), (None, .14, [(-.08, -.25), (-.18, .08)]), (None, .1, [(-.18, .08), (-.38, .48)]),
               (None, .1, [(-.18, .08), (.0, .48)]), (None, .08, [(-.3, -.1), (.3, .3)]),
               (None, 0, [(.15, .5), (.35, .22), (.58, .5)])],
    "lights": [_disc(0, -.34, .14, RED), _disc(0, .02, .14, YELLOW), _disc(0, .38, .14, GREEN)],
    "walker": [*WALKER, (None, .05, [(-.5, .52), (.5, .52)])],
    "children": _moved(WALKER, .85, -.25, .12) + _moved(WALKER, 1, .2, 0),
    "bicycle": [(None, .07, [(-.32 + x, .28 + y) for x, y in [*_regular(16, .22), (0, -.22)]]),
                (None, .07, [(.32 + x, .28 + y) for x, y in [*_regular(16, .22), (0, -.22)]]),
                (None, .07, [(-.32, .28), (-.12, -.05), (.2, -.05), (.32, .28)]),
                (None, .07, [(-.12, -.05), (.02, .28), (.2, -.05), (.15, -.22), (.3, -.22)])],
    "snowflake": [(None, .09, [(x, y + .1), (-x, -y + .1)]) for x, y in _regular(6, .45, 30)[:3]],
    "deer": DEER,
    "turn right": TURN, "turn left": _moved(TURN, mirror=True), "ahead": AHEAD,
    "ahead or right": BRANCH, "ahead or left": _moved(BRANCH, mirror=True),
    "keep right": KEEP, "keep left": _moved(KEEP, mirror=True), "roundabout": [*ROUND, *ROUND_HEADS],
}
STRIPES: list[Mark] = [(BLACK, .05, [(-.62 + d, .62 + d), (.62 + d, -.62 + d)]) for d in (-.16, -.05, .06, .17)]
TRIANGLE = [(0, -.95), (.98, .78), (-.98, .78)]
PLATES: dict[str, tuple[list[Mark], str, float, float]] = {  # plate; colour, scale and height of what is on it
    "ring": ([_disc(0, 0, .95, RED), _disc(0, 0, .7, WHITE)], BLACK, .85, 0),
    "end": ([_disc(0, 0, .95, GREY), _disc(0, 0, .9, WHITE)], GREY, .95, 0),
    "triangle": ([(RED, 0, TRIANGLE), (WHITE, 0, [(.68 * x, .68 * y + .06) for x, y in TRIANGLE])], BLACK, .8, .2),
    "yield": ([(RED, 0, [(x, -y) for x, y in TRIANGLE]), (WHITE, 0, [(.6 * x, -.6 * y - .08) for x, y in TRIANGLE])],
              BLACK, 1, 0),
    "diamond": ([(GREY, 0, _regular(4, .98)), (WHITE, 0, _regular(4, .94)), (YELLOW, 0, _regular(4, .66))],
                BLACK, 1, 0),
    "octagon": ([(WHITE, 0, _regular(8, .98, 22.5)), (RED, 0, _regular(8, .92, 22.5))], WHITE, 1, 0),
    "red disc": ([_disc(0, 0, .95, WHITE), _disc(0, 0, .91, RED)], WHITE, 1, 0),
    "blue disc": ([_disc(0, 0, .95, WHITE), _disc(0, 0, .9, BLUE)], WHITE, 1, 0),
}


def _written(text: str) -> list[Mark]:
    """``text`` from GLYPHS, centred; the more characters, the narrower."""
    height = .5 if len(text) < 4 else .3
    pitch = 1.25 / len(text) if len(text) > 2 else .62
    wide = .68 * pitch
    left = -pitch * (len(text) - 1) / 2 - wide / 2
    return [(None, .13 if len(text) < 3 else .1, [(left + k * pitch + wide * x, height * (y - 1))
                                                 for x, y in GLYPHS[letter]]) for k, letter in enumerate(text)]


def draw_sign(label: int, side: int = 64) -> np.ndarray:
    """float32 (side, side, 4): the sign of class ``label``, RGB 0 to 1 and, last, 1 where it covers the background."""
    _, plate, content = SIGNS[label]
    marks, colour, scale, height = PLATES[plate]
    written = _written(content) if content and set(content) <= set(GLYPHS) else PICTOGRAMS[content]
    marks = marks + [(own or colour, width * scale, [(scale * x, scale * y + height) for x, y in points])
                     for own, width, points in written]
    if plate == "end":
        marks = [(GREY if own == RED else own, *rest) for own, *rest in marks] + STRIPES
    large = side * OVERSAMPLING
    picture = Image.new("RGBA", (large, large), (128, 128, 128, 0))
    pen = ImageDraw.Draw(picture)
    for own, width, points in marks:
        pixels = [((x + 1) / 2 * large, (y + 1) / 2 * large) for x, y in points]
        if width:
            pen.line(pixels, own, max(1, round(width / 2 * large)), joint="curve")
        else:
            pen.polygon(pixels, own)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float32) / 255
