from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.plot import bars

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_in_proportion_and_labels_are_escaped() -> None:
    picture = ET.fromstring(bars("a < b", [("one & only", 100.0), ("two", 50.0)], "two"))  # our own
    widths = [float(bar.attrib["width"]) for bar in picture.iter(f"{SVG}rect")]
    assert widths[0] == 2 * widths[1]
    assert [bar.attrib["class"] for bar in picture.iter(f"{SVG}rect")] == ["b", "o"]
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert texts == ["a < b", "one & only", "100", "two", "50"]
