# Each target makes the environment it needs; a second call finds it made.
# Another Python: make book PYTHON=python3.12; options of Jupyter: make lab LAB=--no-browser
PYTHON ?= python3
.DEFAULT_GOAL := help
.SHELLFLAGS := -ec
.PHONY: help book site test grid lighthouse lab refresh bench clean drift-newest drift-oldest rendered

RUN := .venv/bin/python
DONE := .venv/.done-$(shell cat requirements.txt pyproject.toml | cksum | cut -d' ' -f1)
# the oldest Triton that the kernels are for: for one GPU they are compiled by it too
OLD_TRITON := $(if $(filter Linux,$(shell uname)),_build/triton-3.6.0)
# the reference of core.mup, for tests and bench; installed, it would bring what breaks diffusers
MUP := _build/mup-1.0.0
CHAPTERS := $(patsubst book/%.ipynb,%,$(wildcard book/*.ipynb))
# what executing a chapter needs; the other extras render, test, or need a cluster
EXTRAS := book,kernels,vrpo,mup,multisource,controlvideo
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest
# what `make test` does, two at a time, each in a process of one thread; one alone: make test-mesa
RERUN := $(CHAPTERS:%=rerun-%)
ROOMS := $(patsubst tests/%/,test-%,$(sort $(dir $(wildcard tests/*/test_*.py))))
CHECKS := style $(RERUN) $(ROOMS) test-rest types compiled  # notebooks early, for they are longest
.PHONY: $(CHECKS)
WHOLE := $(if $(filter output-sync,$(.FEATURES)),--output-sync)
SITE_DONE := .venv-site/.done-$(shell cksum < requirements-site.txt | cut -d' ' -f1)

# Render the committed notebooks with the programs in $(1). All pages are read anew: Sphinx would
# keep to itself the warnings of a page it remembers.
define render
	@mkdir -p _build
	@echo "rendering the committed notebooks"
	@PYTHONPATH=src $(1)/jupyter-book build book --config _config.yml --path-output _build/.site \
		-W --keep-going --all > _build/site.log 2>&1 || { cat _build/site.log; exit 1; }
	@rm -rf _build/site && cp -R _build/.site/_build/html _build/site
	@echo "open _build/site/index.html"
endef

# Execute all chapters at scale smoke with the Python $(1), into the folder $(2), which is emptied.
# A chapter that fails leaves a record of it.
define smoke
	@rm -rf $(2)
	@for chapter in $(CHAPTERS); do \
		OMP_NUM_THREADS=1 $(1) -m core.batch run $$chapter --scale smoke --out $(2) || test $$? = 1; done
endef

# Install into _build/$(1) the versions that _build/drift/$(1).txt wants, and see what they change.
define drift
	@echo "installing the $(1) versions into _build/$(1)"
	@rm -rf _build/$(1) && $(PYTHON) -m venv _build/$(1)
	@_build/$(1)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint _build/drift/$(1).txt --editable '.[$(EXTRAS)]'
	$(call smoke,$(RUN),_build/drift/pinned)
	$(call smoke,_build/$(1)/bin/python,_build/drift/$(1))
	@$(RUN) -m core.batch drift _build/drift/pinned _build/drift/$(1)
endef

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

book: $(DONE) ## execute what is stale, render the book to _build/html
	@$(RUN) -m core.batch book

site: $(SITE_DONE) ## render the committed notebooks to _build/site, without torch
	$(call render,.venv-site/bin)

test: ## all checks: style, types, tests, the committed book, its re-execution, its rendering
	@$(MAKE) --no-print-directory --jobs=2 $(WHOLE) $(CHECKS)

$(CHECKS) rendered: $(DONE) $(OLD_TRITON) $(MUP)

style:
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	$(RUN) -m core.batch check

types:
	.venv/bin/pyright --pythonpath $(RUN)

$(RERUN): rerun-%:
	$(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout 600 book/$*.ipynb

$(ROOMS): test-%:
	SITE=_build/site PYTHONPATH=$(MUP) $(PYTEST) -m "not grid" tests/$*

test-rest:
	$(PYTEST) tests/test_*.py

test-book: rendered
rendered:
	$(call render,.venv/bin)

compiled:
	$(if $(OLD_TRITON),PYTHONPATH=$(OLD_TRITON) $(RUN) -m core.kernels.aot --arch 90)

grid: $(DONE) ## the tests of core.batch grid that take minutes: workers that are killed, clusters
	$(PYTEST) -m grid tests/batch

drift-newest: $(DONE) ## what the newest releases change, in an environment of their own; TORCH=torch==2.13.0
	@mkdir -p _build/drift && echo '$(or $(TORCH),torch)' > _build/drift/newest.txt
	$(call drift,newest)

drift-oldest: $(DONE) ## what the lower bounds of pyproject.toml change
	@mkdir -p _build/drift && $(RUN) -m core.batch.bounds $(TORCH) > _build/drift/oldest.txt
	$(call drift,oldest)

lighthouse: site $(DONE) ## what Lighthouse says of the pages, kept in tests/book; fetches it, by node
	@$(RUN) tests/book/lighthouse.py _build/site

lab: $(DONE) ## work on copies of the chapters in _build/lab; a copy that is there stays
	@mkdir -p _build/lab
	@printf '%s\n' 'formats = "ipynb,py:percent"' | cat - jupytext.toml > _build/lab/jupytext.toml
	@for f in $(CHAPTERS:%=book/%.ipynb) $(CHAPTERS:%=book/%.py); do \
		test -e _build/lab/$${f#book/} || cp $$f _build/lab/; done
	cd _build/lab && ../../.venv/bin/jupyter lab $(LAB)

refresh: $(DONE) ## execute all chapters anew, put them in place of the committed ones
	@$(RUN) -m core.batch refresh

bench: $(DONE) $(MUP) ## measure: ratios, not verdicts
	@PYTHONPATH=$(MUP) $(RUN) -m core.bench

clean: ## remove what was built; environments, copies in _build/lab and results in _build/grid stay
	@test ! -d _build || find _build -mindepth 1 -maxdepth 1 ! -name lab ! -name grid -exec rm -rf {} +

# name-version, unpacked and not installed
$(OLD_TRITON) $(MUP): | $(DONE)
	@rm -rf $@.part
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --target $@.part $(subst -,==,$(@F))
	@mv $@.part $@

$(DONE): ENV = .venv
$(DONE): WANTED = requirements.txt
$(SITE_DONE): ENV = .venv-site
$(SITE_DONE): WANTED = requirements-site.txt
$(DONE) $(SITE_DONE):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("want Python 3.11 or newer, \
	this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip' || { echo "this Python lacks venv: apt install python3-venv"; exit 1; }
	@echo "installing $(WANTED) into $(ENV), once"
	@$(PYTHON) -m venv $(ENV)
	@$(ENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(WANTED)
	@rm -f $(ENV)/.done-* && touch $@
