# Everything a person or CI types.

# The distribution's own, where it is new enough and can make an environment: it is built with every optimisation, which one
# of a version manager often is not; that is a quarter of the time that all the tests take.
SYSTEM_PYTHON := /usr/bin/python3
PYTHON ?= $(shell $(SYSTEM_PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(SYSTEM_PYTHON) || echo python3)
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help test test-lab test-all test-long shard lint unit sandbox-test smoke browser-test ssh-test prometheus-test package-test lab-test lab-kvm-test proof mutants mutation \
	browser ssh-server promtool demo lab-demo bench bench-drain bench-scale bench-journal bench-large bench-stream man clean lab-up lab-kvm-up lab-status lab-down lab-wipe

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	$(BIN)/python -m compileall -q .venv/lib >/dev/null || true
	touch $@

# The suites: see docs/testing.md. Each of the first four runs some of those below and says how long each took.

SUITES = $(BIN)/python -m tests.suites
PARTS := lint+unit sandbox-test smoke
LAB_PARTS := lab-up lab-test lab-kvm-up lab-kvm-test

test: $(STAMP)  ## What everybody runs: style, types, unit tests, the sandbox, a smoke proof; ten minutes, no root
	@$(SUITES) make $(PARTS)

test-lab: $(STAMP)  ## A real nova on this machine, with real guests at the end (root, Debian 12)
	@$(SUITES) make $(LAB_PARTS)

test-all: $(STAMP)  ## What CI runs: both, a browser, disks over ssh, and the one shard of the rest that belongs to the commit
	@$(SUITES) make $(PARTS) $(LAB_PARTS) browser-test ssh-test prometheus-test package-test bench shard

test-long: $(STAMP)  ## The rest, in shards: all of them in order, or one of them with SHARD=K/N
	@$(SUITES) $(if $(SHARD),shard $(SHARD),all-shards)

lint: $(STAMP)  ## Style, types, the layers of imports, sizes, dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check cellmove tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.support.source_sizes
	$(BIN)/python -m tests.support.word_list
	$(BIN)/codespell

unit: $(STAMP)  ## Tests without any cloud
	$(BIN)/pytest -q tests/unit -n 2

sandbox-test: $(STAMP)  ## Whole commands against the sandbox, the embedded cloud
	$(BIN)/pytest -q tests/sandbox tests/proof -m 'not long' -n 4 --dist worksteal --durations=5

smoke: $(STAMP)  ## The smoke proof: some three hundred crashes, failed calls and meddling owners that stand for all
	$(BIN)/python -m tests.proof --smoke

browser-test: $(STAMP) browser  ## The page about a drain in a real browser
	$(BIN)/pytest -q tests/browser -n 3

ssh-test: $(STAMP) ssh-server  ## Disks that travel: over a real sshd, and in the sandbox with their smoke proof
	$(BIN)/pytest -q tests/ssh -m 'not long' -n 3
	$(BIN)/python -m tests.proof --smoke --disks

prometheus-test: $(STAMP) promtool  ## The alerts and the figures for Prometheus, as promtool sees them
	$(BIN)/pytest -q tests/prometheus

package-test: $(STAMP)  ## The wheel, installed by pipx into an empty environment: man pages, completions, types
	$(BIN)/pytest -q tests/packaging

lab-test: $(STAMP)  ## Tests against the lab, which has to be up
	$(BIN)/pytest -q tests/lab -m 'not long and not alone and not kvm' -n 2 --dist loadgroup --durations=5
	$(BIN)/pytest -q tests/lab -m 'not long and alone and not breaks_hosts' --durations=5

lab-kvm-test: $(STAMP)  ## Tests on real guests, and beside them those that break ordinary hosts; needs a lab started with KVM=1
	CELLMOVE_LAB_KVM=required $(BIN)/pytest -q tests/lab -m 'not long and (kvm or breaks_hosts)' -n 2 --dist loadgroup --durations=5

shard: $(STAMP)
	@$(SUITES) shard $(SHARD)

proof: $(STAMP) ssh-server  ## All cases of the proof but the long ones: every crash, failed call and meddling owner
	$(BIN)/python -m tests.proof

mutants: $(STAMP) ssh-server  ## Whether the proof would notice if an intent, an undo or a probe were missing
	$(BIN)/python -m tests.proof.mutations

mutation: $(STAMP)  ## Mutants of what writes, deletes or locks; SINCE=main: only of changed lines, UNITS="…": only some
	nice -n 19 $(BIN)/python -m tests.support.mutation $(if $(SINCE),--since $(SINCE)) $(UNITS)

browser:  ## Install chromium for browser-test, unless it is there (root, Debian)
	-@$(PYTHON) -m lab install-browser

promtool:  ## Install Prometheus' promtool for prometheus-test, unless it is there (root, Debian)
	-@$(PYTHON) -m lab install-promtool

ssh-server:  ## Install sshd and qemu-img for ssh-test, unless they are there (root, Debian)
	-@$(PYTHON) -m lab install-ssh

demo: $(STAMP)  ## Move servers through an embedded cloud, with a kill -9 on the way; a minute, no root
	$(BIN)/cellmove demo

lab-demo: $(STAMP) lab-up  ## Move a server between the cells of a real nova, and another one there and back
	$(BIN)/python -m lab.demo

bench: $(STAMP)  ## What it costs to start
	$(BIN)/python bench/start_time.py

bench-drain: $(STAMP)  ## The census of 10,000 servers (needs mariadbd), and against the lab a drain beside nova's own loop
	$(BIN)/python bench/drain_plan.py
	$(BIN)/python bench/drain_lab.py

bench-scale: $(STAMP)  ## How much of a drain's time is its own: in the sandbox, 24 servers by 1 and 8 threads, 1,000 by 32 (long)
	$(BIN)/python bench/drain_scale.py

bench-journal: $(STAMP)  ## What 10,000 closed moves in the journal cost a command
	$(BIN)/python bench/journal_scale.py

bench-large: $(STAMP)  ## Against the lab: 20,000 actions in a history, 16 volumes and 8 ports, beside nova's own
	$(BIN)/python bench/large_server_lab.py

bench-stream: $(STAMP)  ## How long a real guest is down, streamed and by nova, after 0.2, 1 and 4 GiB (a lab with KVM=1; a quarter of an hour)
	$(BIN)/python bench/stream_lab.py

man: $(STAMP)  ## Write the man pages anew from the commands' own help
	$(BIN)/python -m cellmove.man_pages man

clean:  ## Remove what was built here (the lab has its own lab-wipe)
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The lab: a real two-cell OpenStack on this machine (see lab/README.md). Needs root and Debian 12.

PLAIN_LAB = $(if $(filter-out 0,$(PLAIN)),--plain)

lab-up:  ## Start the lab, or what has died of it; installs what is missing. KVM=1: with real hypervisors; PLAIN=1: without TLS
	$(PYTHON) -m lab up $(if $(filter-out 0,$(KVM)),--kvm) $(PLAIN_LAB)

lab-kvm-up:  ## The same as lab-up KVM=1: after the ordinary tests, which need no such hosts
	$(PYTHON) -m lab up --kvm $(PLAIN_LAB)

lab-status:  ## Say of each daemon whether it answers
	$(PYTHON) -m lab status

lab-down:  ## End the lab's daemons and nothing else
	$(PYTHON) -m lab down

lab-wipe:  ## End the lab and forget its databases, images and guests (what is installed stays)
	$(PYTHON) -m lab wipe
