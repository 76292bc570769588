"""The device runtime of edgekd: runs one ``.edgekd`` bundle, locally or behind a small HTTP server."""

__version__ = "0.1.0"
