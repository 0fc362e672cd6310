# The lab: a real two-cell OpenStack on this machine (see lab/README.md).  Needs root and Debian 12.
.PHONY: lab-up lab-status lab-down lab-wipe

lab-up:  ## Start the lab, or what has died of it; installs what is missing
	python3 -m lab up

lab-status:  ## Say of each daemon whether it answers
	python3 -m lab status

lab-down:  ## End the lab's daemons and nothing else
	python3 -m lab down

lab-wipe:  ## End the lab and forget its databases, images and guests (what is installed stays)
	python3 -m lab wipe
