"""Tests with real agent programs; `make test-agents` installs them."""
