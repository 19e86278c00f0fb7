"""Real things for the tests: daemons, caches, workers."""
