"""Pages in a real browser, some of them about drains in the sandbox."""

from tests.support.sandbox.plugin import cell, sandbox, sandbox_process

__all__ = ["cell", "sandbox", "sandbox_process"]
