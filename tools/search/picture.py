"""A search as a picture: what is lost over what it takes."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from fxquant.errors import FxquantError
from fxquant.tools.search.records import Search

WIDTH, HEIGHT, MARGIN = 640, 400, 60
_TITLES = {"size": "bytes of weights", "ram": "bytes of activations"}


def drawn(found: Search, across: str) -> str:
    """SVG. Raises FxquantError for a measure that there is not."""
    titles = {**_TITLES, "time": found.unit}
    if across not in titles:
        raise FxquantError(f"a search is drawn over {', '.join(titles)}, not {across!r}")
    places = {id(p): (float(getattr(p, across)), p.loss) for p in found.points}
    x, y = (_axis([place[axis] for place in places.values()], axis) for axis in (0, 1))
    dots = []
    for point in found.points:
        a, b = places[id(point)]
        colour = "#d33" if point is found.best else "#36c" if point in found.front else "#999"
        title = escape(f"{point.told}: loss {point.loss:.4g}, {titles[across]} {a:.6g}")
        dots.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="5" fill="{colour}"><title>{title}</title></circle>')
    line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in sorted(_steps([places[id(p)] for p in found.front])))
    ends = [min(place[0] for place in places.values()), max(place[0] for place in places.values())]
    losses = [min(place[1] for place in places.values()), max(place[1] for place in places.values())]
    text = [
        *(_text(x(a), HEIGHT - MARGIN / 2, f"{a:.6g}", "middle") for a in ends),
        *(_text(MARGIN - 8, y(b), f"{b:.4g}", "end") for b in losses),
        _text(WIDTH / 2, HEIGHT - 8, titles[across], "middle"),
        _text(MARGIN, MARGIN / 2, f"loss: {found.measure}", "start"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/><polyline points="{line}" fill="none" '
        f'stroke="#36c"/>{"".join(dots)}{"".join(text)}</svg>\n'
    )


def _axis(values: list[float], axis: int) -> Callable[[float], float]:
    low, high = min(values), max(values)
    span, room = (high - low) or 1.0, (HEIGHT if axis else WIDTH) - 2 * MARGIN

    def place(value: float) -> float:
        share = (value - low) / span
        return MARGIN + room * (1 - share if axis else share)

    return place


def _steps(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that are on the front of these two measures alone."""
    return [p for p in places if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in places)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
