"""Ask a server from Python: ``Client`` and ``AsyncClient``, over ``http://``, ``https://``, ``unix://`` or ``ipc://``.

    with Client("ipc:///run/edgekd.sock") as client:
        client.classify("where is my parcel?").label
        client.infer({"x": array})["y"]

Needs numpy and the standard library only.
"""

from edgekd_runtime.client.asynchronous import AsyncClient
from edgekd_runtime.client.calls import Classification
from edgekd_runtime.client.synchronous import Client
from edgekd_runtime.errors import ClientError

__all__ = ["AsyncClient", "Classification", "Client", "ClientError"]
