"""edgekd: from a trained teacher to a full-integer model that answers on a small board."""

__version__ = "0.1.0"
