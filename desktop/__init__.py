"""What Torpor puts into a user's desktop: autostart entries, service units, and the command lines that they name.

Files and programs of the operating system; nothing here talks to the daemon.
"""
