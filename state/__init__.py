"""What a session state is: pure types and decisions. Standard library only, no I/O, no clock, no threads."""
