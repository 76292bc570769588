"""How each op is written in ONNX."""
