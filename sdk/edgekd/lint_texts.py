"""Texts: repeated, empty of content, cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.finding import Finding, warning
from edgekd_runtime.preprocess import TextNgram

_REPEATED = 0.05
_EMPTY = 0.01
_CUT = 0.2


def check_texts(
    texts: Sequence[str], columns: Mapping[str, npt.NDArray[Any]], preprocess: object | None
) -> list[Finding]:
    """``columns``: those of the rows that are looked at, made of the texts by ``preprocess``."""
    findings = []
    plain = [" ".join(text.casefold().split()) for text in texts]
    empty = sum(not any(map(str.isalnum, text)) for text in plain) / max(len(plain), 1)
    if empty > _EMPTY:
        text = f"{empty:.1%} of the texts hold no letter or digit"
        findings.append(warning("empty-texts", text, share=empty))
    share = 1 - len(set(plain)) / max(len(plain), 1)
    if share > _REPEATED:
        text = f"{share:.1%} of the texts repeat another one, upper case and spaces apart"
        findings.append(warning("duplicates", text, share=share, rows=len(plain), different=len(set(plain))))
    if isinstance(preprocess, TextNgram):
        findings += _check_cut(next(iter(columns.values())), preprocess)
    return findings


def _check_cut(ids: npt.NDArray[Any], preprocess: TextNgram) -> list[Finding]:
    share = float((ids[:, 0] >= preprocess.length - 1).mean())
    if share <= _CUT:
        return []
    text = (
        f"{share:.1%} of the texts are longer than the model reads: what comes after the first "
        f"{preprocess.length - 1} n-grams is cut off"
    )
    return [warning("cut-off", text, share=share, length=preprocess.length, counts_max=int(np.max(ids[:, 0])))]
