"""Runs inside the lab's environment: serve one project's WSGI application with cheroot."""

import importlib


class KeepOpen:
    """A request's input that ignores close(): glance closes it after an upload, and cheroot then drops the connection."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __iter__(self):
        return iter(self.stream)

    def close(self):
        """Do nothing."""


def kept_open(application):
    """The same application, its inputs not closable."""

    def call(environ, start_response):
        environ["wsgi.input"] = KeepOpen(environ["wsgi.input"])
        return application(environ, start_response)

    return call


def serve(module, address, port, certificate=None):
    """Import the module, whose `application` is then complete, and serve it for ever.

    With a certificate (its file and that of its key) over TLS: no other process is needed for that.
    """
    application = importlib.import_module(module).application
    from cheroot import wsgi

    # Many clients keep connections open (nova's services do): each needs no thread while it is idle.
    server = wsgi.Server((address, port), kept_open(application), numthreads=10, request_queue_size=128, timeout=60)
    if certificate:
        from cheroot.ssl.builtin import BuiltinSSLAdapter

        server.ssl_adapter = BuiltinSSLAdapter(*certificate)
    server.prepare()
    server.serve()
