"""The SQLite index: what backups there are and which blobs they need. It can be rebuilt from the manifests."""
