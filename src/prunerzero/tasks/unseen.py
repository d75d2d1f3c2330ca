"""Whether parts are apart, so that figures on a test text are of text that no choice has seen.

What counts is the windows that are read, not the names of files: a copy, a longer text and a text
that begins elsewhere are found too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prunerzero.errors import TextError
from prunerzero.language.corpora import Part, Text, the_text
from prunerzero.language.overlap import windows_in
from prunerzero.tasks.texts import Texts

_SEEN: tuple[Part, ...] = ("validation", "calibration")
_REMEDY = "give each part a text of its own, or leave `test` out."


def check_sources_unseen(models: Sequence[Texts]) -> None:
    """Raise TextError where a test text is, to the letter, a calibration or validation text.

    Before any is cut into windows, which takes the model; and of one model against another too,
    whose tokens may differ.
    """
    for test in (source for texts in models for source in texts.sources("test")):
        for part in _SEEN:
            for seen in (source for texts in models for source in texts.sources(part)):
                if seen.documents == test.documents:
                    same = "" if seen.name == test.name else f" '{seen.name}'"
                    raise TextError(
                        f"all windows of the test text '{test.name}' are windows of the {part} "
                        f"text{same} too, but it is to give figures on text that no choice has "
                        f"seen; {_REMEDY}"
                    )


def check_windows_unseen(texts: Texts) -> None:
    """Raise TextError where windows of a test text are in a calibration or validation text."""
    for part in _SEEN:
        for test, seen, count in _shared(texts.each("test"), texts.each(part)):
            raise TextError(
                f"{_of(count, test)} of the test text '{test.name}' are also in the {part} text "
                f"'{seen.name}', but it is to give figures on text that no choice has seen; "
                f"{_REMEDY}"
            )


def judged_doubts(texts: Texts) -> list[str]:
    """A sentence for each validation text that has windows of a calibration text."""
    return [
        f"{_of(count, judged)} of the validation text '{judged.name}' are also in the calibration "
        f"text '{seen.name}': metrics are judged on what their statistics, and refitted weights, "
        "were taken from, and one that is fitted to this text can be chosen for it; give "
        "`calibration` a text of its own."
        for judged, seen, count in _shared(texts.each("validation"), texts.each("calibration"))
    ]


def fitted_doubts(measured: Mapping[str, Text], calibration: Iterable[Text]) -> list[str]:
    """A sentence for each text with windows that weights or statistics were fitted to.

    Args:
        measured: the texts that figures are of, by the place that they are called; of the
            calibration part itself nothing is said.
        calibration: the calibration texts.
    """
    calibration = tuple(calibration)
    return [
        f"{_of(count, text)} of the {the_text(place)} are also in the calibration text "
        f"'{seen.name}', to which statistics and refitted weights are fitted: on other text the "
        "pruned model can be worse than these figures say; measure it on a text of its own."
        for place, text in measured.items()
        if place.partition(":")[0] != "calibration"
        for _, seen, count in _shared([text], calibration)
    ]


def _shared(texts: Sequence[Text], others: Sequence[Text]) -> Iterable[tuple[Text, Text, int]]:
    """Pairs of texts, and how many windows of the first are in the second; those that have any."""
    for text in texts:
        for other in others:
            if count := windows_in(text.windows, other.windows):
                yield text, other, count


def _of(count: int, text: Text) -> str:
    return f"{count} of the {len(text.windows)} windows"
