"""The dashboard page and the JavaScript client, served by the daemon as package data."""
