"""The proof's own tests."""

from tests.support.sandbox.plugin import sandbox, sandbox_process, unhooked

__all__ = ["sandbox", "sandbox_process", "unhooked"]
