"""GigaSpeech in its exact layout."""

from pathlib import Path

from tests.support.corpora import listing, prepare


def test_gigaspeech(tmp_path: Path) -> None:
    def segment(number: int, text: str) -> dict[str, object]:
        times = {"begin_time": 2.0 * number, "end_time": 2.0 * number + 1}
        return {"sid": f"POD_{number}", **times, "text_tn": text, "subsets": ["{XL}", "{XS}"]}

    texts = ["HELLO <COMMA> IT'S ME <PERIOD>", "<MUSIC>", "WHO <QUESTIONMARK> I <EXCLAMATIONPOINT>", "<SIL>"]
    listing(tmp_path, "GigaSpeech.json", "text_tn", [segment(i, t) for i, t in enumerate(texts)], "{XL}")
    for policy, expected in (("plain", ["HELLO IT'S ME", "WHO I"]), ("raw", ["HELLO, IT'S ME.", "WHO? I!"])):
        made = prepare("gigaspeech", tmp_path, tmp_path / policy, "--text", policy)
        assert [r.segments[0].text for r in made["train-xl"].recordings.values()] == expected
        assert made["train-xl"].audit["skipped"]["utterance without words"] == 2
        assert made["train-xl"].audit["text"]["with_punctuation"] == (2 if policy == "raw" else 0)
