"""Labels agree with those of another machine (``$EDGEKD_TEST_EXPECTED``), or here with another thread count."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine

AGREEMENT = 0.995


def _expected(bundle: Bundle, engine: Engine) -> tuple[str, list[str], list[str]]:
    """(who expects it, texts, their labels)."""
    if given := os.environ.get("EDGEKD_TEST_EXPECTED"):
        expected = json.loads(Path(given).read_text("utf-8"))
        return expected["machine"], expected["texts"], expected["top1"]
    assert bundle.golden is not None
    texts = sorted({part for text in bundle.golden.texts for part in _parts(text, engine)})
    threads = 3  # the shared engine has one per core, at most 4
    other = Engine(bundle, threads=threads)
    return f"this machine with {threads} threads", texts, [other.classify(text, 1).label for text in texts]


def _parts(text: str, engine: Engine) -> list[str]:
    """Every beginning and every ending of the text: many sentences, some of them hard to tell apart."""
    cuts = range(2, len(text))
    usable = [part for cut in cuts for part in (text[:cut], text[cut:]) if any(map(str.isalnum, part))]
    return [text, *usable]


def test_top1_agrees(bundle: Bundle, engine: Engine) -> None:
    machine, texts, labels = _expected(bundle, engine)
    assert len(texts) == len(labels) >= 100
    assert len(set(labels)) > 1, "every text has the same label: agreement would mean nothing"
    assert set(labels) <= set(bundle.labels), "the expectation belongs to another bundle"
    got = [engine.classify(text, 1).label for text in texts]
    other = [text for text, label, mine in zip(texts, labels, got, strict=True) if label != mine]
    agreement = 1 - len(other) / len(texts)
    print(f"top-1 agrees with {machine} on {len(texts) - len(other)} of {len(texts)} texts: {agreement:.2%}")
    assert agreement >= AGREEMENT, f"{agreement:.2%} of {len(texts)} texts; not on {other[:3]}"
