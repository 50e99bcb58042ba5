"""hwgen: from a trained transformer in ONNX to a hardware accelerator, proven bit-exact by cycle-accurate simulation."""

__version__ = "0.1.0"
