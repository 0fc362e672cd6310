"""An embedded two-cell cloud: for ``cellmove demo``, and for tests of everything that can go wrong.

It is no second nova. It has what a cross-cell resize touches: the tables of the API and the cells'
databases, the REST calls that cellmove makes, and computes, conductors and a scheduler that answer the
calls over the bus with nova's own sequence of writes. Guests are records of host, power state and disk.
"""
