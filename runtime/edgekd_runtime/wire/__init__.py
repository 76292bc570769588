"""What the bytes of requests and answers mean, in every protocol that is spoken here; nothing of sockets.

``datatypes`` and ``tensors`` are shared with the client; ``infer``, ``classify`` and ``tfserving`` are the protocols.
"""
