"""One file per inference engine: how its session is captured and put back."""
