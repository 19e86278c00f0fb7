"""What torpor costs on this machine, against the limits of its hardware and against others."""
