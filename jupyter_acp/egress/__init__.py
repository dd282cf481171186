"""The way from a project without a network to model providers: only to them, and the keys stay outside."""
