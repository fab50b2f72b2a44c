"""How policies are seen from outside: log lines, metrics and spans."""
