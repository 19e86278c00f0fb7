"""Everything remote: the bucket layout and the workers that fill it. The outbox and the blobs arrive as ports."""
