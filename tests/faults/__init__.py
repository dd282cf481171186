"""The fault harness: kills at random moments, and what must be true afterwards."""
