# Needs make and a Python (3.11.4 or newer), nothing else. `make help` lists the targets.
PYTHON ?= python3

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.lock-installed
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
# Those of a profile, which the quickstart and the claims have not.
FIGURES = $(shell grep -l 'PROFILE = ' $(NOTEBOOKS))

# Those that compute in any case: their cells are tested on small images (tests/notebooks).
LIVE := 00_quickstart your_own_images

.DEFAULT_GOAL := help
.PHONY: help environment figures app test test-fast fuzz faults lint bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 20
	@echo "PYTHON=... names another interpreter (now: $(PYTHON)); pip's own settings are respected."

environment: $(STAMP) ## create .venv from requirements.lock, or bring it into line with it

figures: $(STAMP) ## execute all notebooks and write their figures; PROFILE=smoke computes anew
ifdef PROFILE
	@echo "Computing $(words $(FIGURES)) notebook(s) at the profile $(PROFILE): smoke takes minutes, others days."
	@mkdir -p runs/figures/$(PROFILE)
	@set -e; for notebook in $(FIGURES); do \
	  echo "-- $$notebook"; \
	  TQDM_DISABLE=1 $(RUN) -m papermill --kernel python3 --cwd notebooks --no-progress-bar \
	    -p PROFILE $(PROFILE) -p COMPUTE True -y '{DATA: [], SHOTS: []}' $$notebook runs/figures/$(PROFILE)/$$(basename $$notebook); \
	done
	@echo "Done: executed notebooks are in runs/figures/$(PROFILE)/, figures in figures/$(PROFILE)/ (released: figures/)."
else
	@echo "Executing $(words $(NOTEBOOKS)) notebook(s) from committed results: about half a minute each, the quickstart two."
	@mkdir -p runs/figures
	@echo "Taking the screenshots of Fig. 6 anew, if the workbench's code has changed since and Chromium is here."
	@$(RUN) -m pytest --quiet tests/browser/picture.py
	@set -e; for notebook in $(NOTEBOOKS); do \
	  echo "-- $$notebook"; \
	  executed=runs/figures/$$(basename $$notebook); \
	  TQDM_DISABLE=1 $(RUN) -m papermill --kernel python3 --cwd notebooks --no-progress-bar $$notebook $$executed; \
	  $(RUN) -m tests.notebooks.contract --tidy $$executed $$notebook; \
	done
	@echo "Done: outputs are in notebooks/ and figures/. On an unchanged tree 'git status' shows at most what is computed live (00_quickstart, edfig2_contrast_styles, your_own_images): processors round otherwise."
endif

app: $(STAMP) ## open the workbench in the browser: annotate, fine-tune, segment, inspect, export
	@echo "Opening the workbench in your browser, for this machine alone and by a token. Stop it with Ctrl C."
	@echo "On a server without a browser: open the address below through an SSH tunnel (ssh -L 8866:localhost:8866)."
	$(RUN) -m scellseg_lib.workbench $(FOLDER)

test: $(STAMP) ## re-execute the notebooks and compare, run the tests (about ten minutes)
	@echo "Testing the notebooks, the library and the workbench in a browser: about ten minutes on two cores."
	$(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  -p tests.notebooks.kernel --nbval --nbval-current-env --nbval-sanitize-with tests/notebooks/sanitize.cfg \
	  $(LIVE:%=--ignore notebooks/%.ipynb) notebooks tests

test-fast: $(STAMP) ## the tests of the library alone, for the working day (under two minutes)
	@echo "Testing the library without a browser and without live notebooks: under two minutes on two cores."
	$(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  -m "not slow" --ignore tests/browser --ignore tests/notebooks tests

N := 5000
fuzz: $(STAMP) ## read N damaged files, compare flows with a plain formula, count (five minutes)
	@echo "Reading $(N) damaged files of all kinds, and comparing flows of random cells: five minutes at N=5000."
	OMP_NUM_THREADS=1 $(RUN) -m tests.corpus.fuzz $(N)

faults: $(STAMP) ## kill, fill the disk, forbid folders, start two at once, and count (five minutes)
	@echo "Killing each writer at random, filling its disk, forbidding its folder: five minutes. Root alone can do all."
	OMP_NUM_THREADS=1 $(RUN) -c 'from tests.corpus.faults import main; main()'

lint: $(STAMP) ## ruff, mypy and the notebook contract (half a minute)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m tests.notebooks.contract $(NOTEBOOKS)

bench: $(STAMP) ## measure the speed against the peers (makes an environment for them; half an hour)
	$(RUN) -m tests.benchmarks

lock: ## resolve pyproject.toml into requirements.lock; versions that stand there stay (delete a line to renew it)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv==0.13.8
	@cp requirements.lock requirements.lock.uv
	$(RUN) -m uv pip compile --quiet --system-certs --no-python-downloads --python-version 3.11.4 --universal --all-extras \
	  --generate-hashes --no-annotate --no-header --constraints torch.lock --output-file requirements.lock.uv pyproject.toml
	@{ sed -n '/^#/p' requirements.lock; \
	   awk '/^[a-z]/ {others = !/^(torch==|triton==|cuda-|nvidia-)/} others' requirements.lock.uv; } > requirements.lock.new
	@rm requirements.lock.uv
	@mv requirements.lock.new requirements.lock

clean: ## remove .venv and caches (results in runs/ stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/figures
	find scellseg_lib tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An interrupted installation leaves no stamp and is taken up again; a newer lock updates what it names.
$(STAMP): requirements.lock torch.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null || { \
	  echo "Python 3.11.4 or newer is needed, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
	  echo "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock: about five minutes and 2.3 GB of disk"
	@echo "(on Linux, where pip finds no CPU build of torch, several GB more: its default build carries CUDA)."
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON)' cannot create environments: install its venv module (Debian: python3-venv)."; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check -r torch.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@echo "Testing once whether this machine computes rightly, and compiling what is to be fast: a minute."
	$(RUN) -m scellseg_lib doctor
	@touch $@
