"""Charts as SVG."""

import re

from pipeline.evaluation.charts import LABEL, bar_chart


def test_long_labels_of_bars_are_whole_and_wrapped() -> None:
    label = "cpCER, segmentation (campplus_cn_en_common) + whisper-base + SmolLM2-135M-Instruct"
    found = re.findall(r"<text[^>]*>([^<]*)</text>|<tspan[^>]*>([^<]*)</tspan>", bar_chart([(label, 20.0, None)], "%"))
    lines = [a or b for a, b in found]
    assert all(len(line) <= LABEL for line in lines)
    assert label in " ".join(lines)


def test_a_label_of_many_lines_is_cut() -> None:
    assert "…" in bar_chart([("word " * 60, 20.0, None)], "%")
