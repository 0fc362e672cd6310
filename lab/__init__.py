"""A real two-cell OpenStack on one machine: `make lab-up` starts it, `lab.cloud` and `lab.oracle` use it."""
