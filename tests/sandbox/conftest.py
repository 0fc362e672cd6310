"""Whole commands against the sandbox."""

from tests.support.sandbox.plugin import cell, sandbox, sandbox_process, small_cloud, unhooked

__all__ = ["cell", "sandbox", "sandbox_process", "small_cloud", "unhooked"]
