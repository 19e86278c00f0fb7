"""The tray: a process of its own, and a client of the daemon's API."""
