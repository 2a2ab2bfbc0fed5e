# Everything happens in .venv, which the first call makes: only Python 3.10 or newer has to be there.
#   make demo              the whole main job on the embedded default; more arguments by ARGS='--minutes 5'
#   make test              all that CI tests; the last line says how many passed and failed
#   make docs              the site, in _docs/, and README.md
#   make docs-test         every page of the site in a real browser, if Chromium is at hand
#   make app-test          the page of textseg_app in the same browser, and with 20 clients at once
# On Linux, PyPI's torch can be a CUDA build of several GB. Another build of the same version is taken from the index named here:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

bin := .venv/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
facts := settings.ini setup.py pyproject.toml constraints.txt

.PHONY: demo test docs docs-test app-test readme
demo: .venv/.user
	$(bin)/textseg_demo --out demo $(ARGS)
test: .venv/.dev
	$(bin)/python .ci/test.py
docs: .venv/.dev
	$(bin)/python .ci/docs.py
docs-test: docs
	$(bin)/python .ci/docs_test.py
app-test: .venv/.dev
	$(bin)/python .ci/app_test.py
readme: .venv/.dev
	$(bin)/python .ci/docs.py --readme

# The stamps say what was installed; they are older than a changed fact, and then it is installed again.
.venv/.user: $(facts) | $(bin)/python
	$(if $(TORCH_INDEX),$(pip) --no-deps --index-url $(TORCH_INDEX) torch)
	$(pip) --editable .
	touch $@
.venv/.dev: $(facts) | $(bin)/python
	$(if $(TORCH_INDEX),$(pip) --no-deps --index-url $(TORCH_INDEX) torch)
	$(pip) --editable '.[dev,app,video]'
	touch $@ .venv/.user
$(bin)/python:
	$(PYTHON) -m venv .venv
