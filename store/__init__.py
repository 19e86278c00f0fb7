"""Files: blobs, manifests, sidecars, and the durable writes under them. Used by the SDK and the daemon alike."""
