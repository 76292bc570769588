"""TensorFlow, imported when it is first used: whoever only reads the ops table need not wait for it."""

from __future__ import annotations

import importlib
from typing import Any

from edgekd_converters.quiet import import_tensorflow


class _Lazy:
    def __getattr__(self, name: str) -> Any:
        import_tensorflow()
        value = getattr(importlib.import_module("tensorflow"), name)
        setattr(self, name, value)  # the next look-up does not come here
        return value


tf: Any = _Lazy()
