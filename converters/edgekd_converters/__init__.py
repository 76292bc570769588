"""From any model format to one float32 ``.tflite``, and from that to full-integer int8."""
