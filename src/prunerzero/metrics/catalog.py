"""The named metrics, and where they come from."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from prunerzero.metrics.errors import NotationError
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.notation import suggest


@dataclass(frozen=True)
class Metric:
    """A metric with a name: an entry of the catalog, or one that was found."""

    name: str
    expression: Expression
    source: str


def power_law(a: float = 0.5, b: float = 0.25, c: float = 0) -> Metric:
    """``W · X^a · G^b · D^c``. With a = 0.5 alone it is Wanda, with c = 1 alone OBS.

    X is a squared norm, so a = 0.5 takes the norm itself. The default is the best of a grid on
    SmolLM2-135M at 50 % per row.
    """
    factors = [Expression("W")]
    for terminal, exponent in (("X", a), ("G", b), ("D", c)):
        base = Expression(terminal)
        if exponent == 1:
            factors.append(base)
        elif exponent:
            factors.append(Expression("epow", (base, Expression.constant(exponent))))
    product = factors[0]
    for factor in factors[1:]:
        product = Expression("mul", (product, factor))
    written = ",".join(map(_number, (a, b, c) if c else (a, b)))
    name = "power-law" if (a, b, c) == (0.5, 0.25, 0) else f"power-law({written})"
    return Metric(name, product, "|W|·X^a·G^b·D^c, the family that Wanda and others belong to")


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _entry(name: str, formula: str, source: str) -> Metric:
    return Metric(name, Expression.parse(formula), source)


CATALOG: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _entry("magnitude", "W", "Han et al., NeurIPS 2015, arXiv 1506.02626"),
        _entry("wanda", "W * sqrt(X)", "Sun et al., ICLR 2024, arXiv 2306.11695"),
        _entry(
            "ria",
            "(rownorm(W) + colnorm(W)) * sqrt(sqrt(X))",
            "Zhang et al., ICLR 2024 (plug-and-play post-training pruning), with a = 0.5",
        ),
        _entry(
            "gblm",
            "W * sqrt(X) + W * G",
            "Das et al., arXiv 2311.04902, with alpha = 100 (G already holds it)",
        ),
        _entry(
            "fisher",
            "W * G",
            "LeCun et al., NeurIPS 1989 (Optimal Brain Damage), the curvature being the squared "
            "gradient, as in Theis et al., arXiv 1801.05787",
        ),
        _entry(
            "obs",
            "W * D",
            "Hassibi & Stork, NeurIPS 1992 (Optimal Brain Surgeon), for each layer as in Frantar & "
            "Alistarh, ICML 2023 (SparseGPT), arXiv 2301.00774, without updating the weights",
        ),
        _entry(
            "pruner-zero",
            "abs(W * W) * mms(G)",
            "Dong et al., ICML 2024, arXiv 2406.02924, as published",
        ),
        _entry(
            "fisher-obs",
            "W * G ** 0.75 * sqrt(2 + min(0, zsn(rownorm(D * W))))",
            "evolved by this project on three models, 2026-11-27, for half of the whole model "
            "refitted by least squares, and written shorter (docs/metrics.md)",
        ),
        power_law(),
    )
}
"""The catalog by name. ``power-law(a,b)`` or ``power-law(a,b,c)`` names any other member of that
family."""

_POWER_LAW = re.compile(r"power-law\(([^()]*)\)")


def find_metric(text: str) -> Metric:
    """The catalog's metric of that name, else the formula read as one.

    Raises:
        NotationError: neither a name of the catalog nor a formula.
    """
    text = text.strip()
    if text.lower() in CATALOG:
        return CATALOG[text.lower()]
    if parameters := _POWER_LAW.fullmatch(text.lower()):
        return _power_law_of(parameters[1].split(","), text)
    try:
        return Metric(text, Expression.parse(text), "given as a formula")
    except NotationError:
        if not re.fullmatch(r"[A-Za-z][\w-]*", text):
            raise
        hint = suggest(text, list(CATALOG))
        raise NotationError(f"there is no metric named {text[:40]!r}{hint}") from None


def _power_law_of(exponents: list[str], text: str) -> Metric:
    if len(exponents) in (2, 3):
        with suppress(ValueError):
            return power_law(*map(float, exponents))
    raise NotationError(f"{text!r} must hold two or three numbers: power-law(0.5,0.25).")
