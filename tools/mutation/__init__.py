"""Mutation testing of `core/` and `policies/`: `nox -s mutation`; docs/mutation.md tells how."""
