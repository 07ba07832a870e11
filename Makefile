# make pretrain   sets up .venv, trains the demo on the built-in phantom, writes a report page
# make test       sets up .venv with the test tools, lints and runs the suite
# make aot        sets up .venv-aot with the compilers of TPUs and GPUs, for configs/compile.py and its tests
# make docs       sets up .venv-docs and builds the documentation as a site into build/site; a broken link fails it
# make advisories   lists known weaknesses of the packages that a run needs: a report, which fails nothing
# PYTHON=python3.12 make ...   another interpreter; ARGS="--config.steps=100" passes settings on
# PROCESSES=4 make test        this many test files at a time, each process up to 6 GB

PYTHON ?= python3
PROCESSES ?= 2
BIN := .venv/bin
OLD := sys.version_info < (3, 11)
REFUSAL := "$(PYTHON) is Python %d.%d, and 3.11 is the oldest that will do: PYTHON=python3.12 make ..." % sys.version_info[:2]
# Makes an environment unless one is there with pip and a Python that will do: a first attempt may have left half of one.
define venv
	@$(1)/bin/python -c 'import sys, pip; sys.exit($(OLD))' 2> /dev/null || \
		($(PYTHON) -c 'import sys; sys.exit($(OLD) and $(REFUSAL))' && $(PYTHON) -m venv --clear $(1))
endef

.PHONY: pretrain test aot docs advisories clean

pretrain: .venv/run.txt
	$(BIN)/python main.py --config=configs/pretrain.py:demo $(ARGS)

test: .venv/dev.txt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder $(ARGS)

aot: .venv-aot/aot.txt

docs: .venv-docs/docs.txt
	.venv-docs/bin/python docs/build_site.py build/site

advisories: .venv/run.txt
	$(call venv,.venv-audit)
	test -x .venv-audit/bin/pip-audit || .venv-audit/bin/pip install --quiet pip-audit
	$(BIN)/python -m pip freeze > .venv-audit/installed.txt
	-.venv-audit/bin/pip-audit --disable-pip --no-deps -r .venv-audit/installed.txt

# A stamp beside the packages: installed again only when the list has changed.
.venv/run.txt: requirements.txt
	$(call venv,.venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	cp requirements.txt $@

.venv/dev.txt: requirements.txt requirements-beam.txt requirements-cloud.txt requirements-wandb.txt requirements-mlflow.txt \
		requirements-faiss.txt requirements-dicomweb.txt \
		requirements-dev.txt requirements-judges.txt
	$(call venv,.venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-judges.txt
	cp requirements-dev.txt $@

.venv-aot/aot.txt: requirements.txt requirements-aot.txt
	$(call venv,.venv-aot)
	.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-aot.txt
	cp requirements-aot.txt $@

.venv-docs/docs.txt: requirements-docs.txt
	$(call venv,.venv-docs)
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	cp requirements-docs.txt $@

clean:
	rm -rf .venv .venv-aot .venv-docs .venv-audit .pytest_cache .ruff_cache build dist *.egg-info
