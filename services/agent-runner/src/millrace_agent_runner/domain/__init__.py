"""What an attempt is, how its outcome is judged, and who may have the next slot. No I/O."""
