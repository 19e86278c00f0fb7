"""Bytes to session state and back. Tensors are opaque bytes here but for the torch bridge, which imports late."""
