"""`resilient demo`: real HTTP calls through an outage, guarded and unguarded side by side."""
