# make reproduce   from nothing to figures/<model>/ and a table of claims     make test   ruff, pytest, strict nbval
# make lab         JupyterLab on notebooks/                                    make pretrain   train mini again (00)
# make notebooks   execute the notebooks in place, as they are committed       make bench   what everything costs, measured
MODEL ?= mini
CORPUS ?= sotu
DEVICE ?= cpu
BENCHMARKS ?= step memory counting residual_pass overlap growth steps_to_quality
NOTEBOOKS ?= 01 02 03 04 05 06 07 08 09
PYTHON ?= python3

BIN := .venv/bin
WORK := .executed
export HF_HUB_DISABLE_TELEMETRY := 1
export WANDB_MODE := disabled
export BIGRAMLIB_TEXT_PROGRESS := 1
export TQDM_MININTERVAL := 3
reproduce: export BIGRAMLIB_STORE := $(CURDIR)/.store/reproduce
test notebooks pretrain: export BIGRAMLIB_STORE := $(CURDIR)/.store/test
test: export HF_HUB_OFFLINE := 1

# Notebooks run in notebooks/, so files and folders named from here are passed on as absolute paths.
located = $(if $(and $(findstring /,$(1))$(findstring .,$(1)),$(wildcard $(1))),$(abspath $(1)),$(1))

# A model's own notebook parameters, where its figures were not made with the notebooks' defaults: notebooks/settings/MODEL/NN.yaml.
settings = $$(ls notebooks/settings/$(MODEL)/$$number.yaml 2>/dev/null | sed 's/^/-f /')

# Notebook 02 trains its masks live; the other tests of notebooks load those that `make notebooks` trained.
LIVE := $(WORK)/test/notebooks/02_find_subnetworks.ipynb
NBVAL := $(BIN)/python -m pytest -q --nbval --nbval-cell-timeout 1200 -p no:cacheprovider --rootdir $(WORK)/test

PAPERMILL := $(BIN)/papermill --kernel python3 --cwd notebooks --no-progress-bar --log-output

.PHONY: reproduce test lab pretrain notebooks bench
.DELETE_ON_ERROR:

reproduce: .venv/ready
	@$(BIN)/python -m bigramlib check --model "$(MODEL)" --corpus "$(CORPUS)" --device "$(DEVICE)" --notebooks "$(NOTEBOOKS)"
	@test -e .store/unfinished || rm -rf .store/reproduce
	@mkdir -p .store $(WORK) && touch .store/unfinished
	@for number in $(NOTEBOOKS); do \
		echo "== notebook $$number on $(MODEL)"; \
		$(PAPERMILL) notebooks/$${number}_*.ipynb $(WORK)/$$number.ipynb $(settings) \
			-r model "$(call located,$(MODEL))" -r corpus "$(call located,$(CORPUS))" -r device "$(DEVICE)" || exit 1; \
	done
	@rm .store/unfinished
	@$(BIN)/python -m bigramlib claims --model "$(MODEL)"

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q
	rm -rf $(WORK)/test .store/test && mkdir -p $(WORK)/test .store/test && cp -r notebooks figures $(WORK)/test/
	$(NBVAL) $(LIVE)
	$(BIN)/python -m zipfile -e tests/subnetworks.zip .store/test
	$(NBVAL) $(WORK)/test/notebooks --ignore $(LIVE)

lab: .venv/ready
	$(BIN)/jupyter lab --notebook-dir=notebooks

pretrain: .venv/ready
	$(PAPERMILL) notebooks/00_pretrain_mini.ipynb $(WORK)/00.ipynb -r setting mini

notebooks: .venv/ready
	@rm -rf .store/test
	@for notebook in notebooks/[0-9]*.ipynb; do $(PAPERMILL) $$notebook $$notebook || exit 1; done
	@$(BIN)/python -m bigramlib tidy notebooks/[0-9]*.ipynb
	@$(BIN)/python -m zipfile -c tests/subnetworks.zip .store/test/subnetworks

bench: .venv/ready
	@for question in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$question || exit 1; done

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11; name a newer one with PYTHON=."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[notebooks,test]'
	@touch $@
