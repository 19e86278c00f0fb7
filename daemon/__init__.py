"""The daemon: wiring, HTTP and lifecycle. Tensors are opaque bytes here; torch and numpy are never imported."""
