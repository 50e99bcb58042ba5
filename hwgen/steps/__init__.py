"""The integer IR: formats, tensors, steps, their text, their verifier and the golden model; passes over steps."""
